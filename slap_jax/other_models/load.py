"""Reads a model of any family by its name."""

import contextlib
import functools
import os
import sys
from typing import TYPE_CHECKING, Any

from slap_jax.other_models.clap import ClapEncoder, is_clap_folder
from slap_jax.other_models.dual_encoder import DualEncoder, OtherModelError
from slap_jax.other_models.glap import GlapEncoder
from slap_jax.other_models.m2d_clap import M2dClapEncoder
from slap_jax.other_models.msclap import MsClapEncoder
from slap_jax.other_models.open_clip import OpenClipEncoder

if TYPE_CHECKING:
    from slap_jax.inference.model import SlapModel

FAMILIES = {
    "clap": ClapEncoder,
    "open_clip": OpenClipEncoder,
    "msclap": MsClapEncoder,
    "m2d_clap": M2dClapEncoder,
    "glap": GlapEncoder,
}


def load_model(source: str | os.PathLike[str], **settings: Any) -> "SlapModel | DualEncoder":
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
    if is_other_model(source):
        return load_other_model(source, **settings)
    from slap_jax.inference.model import SlapModel  # the models above do without its programs

    return SlapModel.load(source, **settings)


def is_other_model(source: str | os.PathLike[str]) -> bool:
    """Returns whether a name is that of a model of another family; see `load_model`."""
    name = os.fspath(source)
    return _has_prefix(name) or is_clap_folder(name)


def load_other_model(source: str | os.PathLike[str], **settings: Any) -> DualEncoder:
    """Reads a model of another family; see `load_model`."""
    name = os.fspath(source)
    family, _, rest = name.partition(":") if _has_prefix(name) else ("clap", "", name)
    settings = {key: value for key, value in settings.items() if value is not None}
    unknown = sorted(settings.keys() - {"device", *(("revision",) if family == "clap" else ())})
    if unknown:
        raise OtherModelError(f"{unknown[0]}={settings[unknown[0]]!r} is for exports of slap_jax only; leave it out")
    with contextlib.redirect_stdout(sys.stderr):  # some print what they load, which must not end up in a result
        model = DualEncoder(FAMILIES[family](rest, **settings))
    model.reload = functools.partial(load_other_model, name, **settings)
    return model


def _has_prefix(name: str) -> bool:
    family, colon, _ = name.partition(":")
    return bool(colon) and family in FAMILIES and not os.path.exists(name)
