"""The data that `slap finetune` is given: which splits train, and which one chooses the best step."""

import logging
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from slap_jax.config import source
from slap_jax.data.records import split_sizes
from slap_jax.finetune.classes import FinetuneError

VALIDATION_SPLITS = ("val", "validation", "valid", "dev")


def training_sources(data: Sequence[str]) -> dict[str, ConfigDict]:
    """Reads `DIR[:SPLIT]`, of which `train` is the split by default.

    Raises:
        FinetuneError: a directory without that split.
        RecordsError: data that are not prepared.
    """
    found = {}
    for argument in data:
        path, split = _parse(argument)
        sizes = split_sizes(path)
        if not split and "train" not in sizes:
            raise FinetuneError(f"{path} has no split 'train', but {', '.join(sizes)}; name one: --data {path}:SPLIT")
        found[_name(path, found)] = source(path, split or "train", weight=1.0, captions={"tag_keys": ()})
    return found


def validation_sources(data: Sequence[str], given: Sequence[str] | None) -> dict[str, ConfigDict]:
    """Reads the validation data: those given, else the validation split of the first training data that have one.

    Raises:
        FinetuneError: a directory without a split to validate on.
        RecordsError: data that are not prepared.
    """
    if given:
        found = {}
        for argument in given:
            path, split = _parse(argument)
            split = split or _validation_split(path)
            if not split:
                there = ", ".join(split_sizes(path))
                raise FinetuneError(f"{path} has no validation split, but {there}; name one: --validation {path}:SPLIT")
            found[_name("val", found)] = source(path, split)
        return found
    for argument in data:
        path, trained = _parse(argument)
        split = _validation_split(path)
        if split and split != trained:
            return {"val": source(path, split)}
    logging.warning("no validation data: nothing is evaluated while training; give some with --validation DIR:SPLIT")
    return {}


def _validation_split(path: str) -> str:
    sizes = split_sizes(path)
    return next((name for name in VALIDATION_SPLITS if name in sizes), "")


def _parse(argument: str) -> tuple[str, str]:
    """Cuts `DIR:SPLIT`; the colon of gs://bucket belongs to the path."""
    path, colon, split = argument.rpartition(":")
    return (path, split) if colon and "/" not in split else (argument, "")


def _name(path: str, taken: dict[str, ConfigDict]) -> str:
    """A name for a source: of its folder, made one that a config can hold."""
    stem = "".join(c if c.isalnum() else "_" for c in Path(path).name.lower()) or "data"
    stem = stem if stem[0].isalpha() else f"data_{stem}"
    names = [stem, *(f"{stem}_{number}" for number in range(2, len(taken) + 3))]
    return next(name for name in names if name not in taken)
