"""Synthetic scenes as a prepared data set: training scenes, and test scenes of combinations that those never have."""

import os
from collections.abc import Callable

from slap_jax.data.preparation.prepare import Prepared, prepare_records
from slap_jax.data.scenes import SCENES_VERSION, scene_records


def prepare_scenes(
    output: str | os.PathLike[str],
    *,
    seed: int = 0,
    train: int = 2_000,
    test: int = 256,
    log: Callable[[str], None] = print,
    **durations: float,
) -> Prepared:
    """Writes the splits `train` and `test` of a scene data set; a second call with the same arguments writes nothing.

    Args:
        output: directory to write to.
        seed: of the scenes.
        train: number of training scenes; 0 leaves the split out.
        test: number of held-out scenes; 0 leaves the split out.
        log: receives each line of the summary.
        **durations: `mean_seconds`, `min_seconds` and `max_seconds` of `scene`.

    Raises:
        ValueError: no scene is asked for, or durations out of order.
    """
    if min(train, test) < 0 or max(train, test) == 0:
        raise ValueError(f"scenes train={train}, test={test}: write 0 or more of each, and more than 0 of one")
    sizes = {"train": train, "test": test}
    splits = {
        split: (size, scene_records(seed, size, held_out=split == "test", **durations))
        for split, size in sizes.items()
        if size
    }
    inputs = {"scenes": {"version": SCENES_VERSION, "seed": seed, **sizes, **durations}}
    return prepare_records(splits, output, inputs, log)
