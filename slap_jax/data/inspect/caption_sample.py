"""Captions of a training mixture to train a vocabulary on: as many as asked for, read without holding the others."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64
from ml_collections import ConfigDict

from slap_jax.data.batches.labels import CaptionPolicy, caption_policy, choose_caption
from slap_jax.data.batches.stream import derive_seed, generator_at, mixing_weights
from slap_jax.data.records import Record, open_split


def sample_captions(data: ConfigDict, most: int, seed: int = 0) -> Iterator[str]:
    """Reads captions of every training source, each source at most its share of the mixture.

    A source with fewer captions than its share gives all of them. Of one with more clips, clips are drawn evenly over
    the whole split, and each gives one caption, chosen as training chooses it.

    Args:
        data: `config.data`; its `train` and `temperature` are used.
        most: captions, over all sources.
        seed: of the choice.

    Raises:
        RecordsError: a source is not prepared or lacks the split.
        MissingCaptionError: a clip has neither captions nor labels to make one of.
    """
    sources = {name: open_split(source.path, source.split) for name, source in data.train.items()}
    clips = [len(records) for records in sources.values()]
    shares = mixing_weights([source.weight for source in data.train.values()], clips, data.temperature)
    for (name, records), share in zip(sources.items(), shares, strict=True):
        policy = caption_policy(data.train[name].captions)
        wanted = max(1, int(share * most))
        source_seed = derive_seed(seed, "vocabulary", name)
        for number in drawn_evenly(len(records), wanted, source_seed):
            generator = generator_at(source_seed, int(number))
            yield from _captions(records[int(number)], max(1, wanted // len(records)), policy, generator)


def drawn_evenly(count: int, wanted: int, seed: int) -> Int64[np.ndarray, " n"]:
    """Draws different numbers below `count`, one from each of `wanted` ranges of about the same length."""
    edges = np.arange(min(wanted, count) + 1) * count // min(wanted, count)
    places = np.random.default_rng(seed).random(len(edges) - 1)
    return edges[:-1] + (places * np.diff(edges)).astype(np.int64)


def _captions(record: Record, most: int, policy: CaptionPolicy, generator: np.random.Generator) -> tuple[str, ...]:
    if most == 1 or not record.captions:
        return (choose_caption(record, policy, generator),)
    return record.captions[:most]
