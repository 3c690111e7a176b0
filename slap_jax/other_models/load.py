"""Reads a model of any family by its name."""

import os
from typing import Any

from slap_jax.inference.model import SlapModel
from slap_jax.other_models.clap import ClapEncoder, is_clap_folder
from slap_jax.other_models.dual_encoder import DualEncoder, OtherModelError
from slap_jax.other_models.glap import GlapEncoder
from slap_jax.other_models.m2d_clap import M2dClapEncoder
from slap_jax.other_models.msclap import MsClapEncoder
from slap_jax.other_models.open_clip import OpenClipEncoder

FAMILIES = {
    "clap": ClapEncoder,
    "open_clip": OpenClipEncoder,
    "msclap": MsClapEncoder,
    "m2d_clap": M2dClapEncoder,
    "glap": GlapEncoder,
}


def load_model(source: str | os.PathLike[str], **settings: Any) -> SlapModel | DualEncoder:
    """Reads a model of any family.

    Args:
        source: one of

            - an export directory of `slap export`;
            - the folder of a transformers `ClapModel`, or `clap:ID` for one on the Hugging Face hub;
            - `open_clip:NAME` or `open_clip:NAME@WEIGHTS`, a published tag or a file;
            - `msclap:2023`, `msclap:2022`, or `msclap:2023@FILE`;
            - `m2d_clap:FILE`, a checkpoint in its published folder;
            - `glap:` for the published weights, or `glap:FILE`.
        **settings: as for `SlapModel.load`; models of other families take `device`.

    Raises:
        ExportError: an export is missing or damaged.
        OtherModelError: a package is missing, or the model cannot be read.
    """
    name = os.fspath(source)
    family, colon, rest = name.partition(":")
    if colon and family in FAMILIES and not os.path.exists(name):
        return _other_model(family, rest, settings)
    if is_clap_folder(name):
        return _other_model("clap", name, settings)
    return SlapModel.load(source, **settings)


def _other_model(family: str, rest: str, settings: dict[str, Any]) -> DualEncoder:
    settings = {name: value for name, value in settings.items() if value is not None}
    unknown = sorted(settings.keys() - {"device", *(("revision",) if family == "clap" else ())})
    if unknown:
        raise OtherModelError(f"{unknown[0]}={settings[unknown[0]]!r} is for exports of slap_jax only; leave it out")
    return DualEncoder(FAMILIES[family](rest, **settings))
