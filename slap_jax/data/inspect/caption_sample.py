"""Samples captions of a training mixture to train a tokenizer on, without holding the other captions in memory."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64
from ml_collections import ConfigDict

from slap_jax.data.batches.labels import CaptionPolicy, caption_policy, choose_caption
from slap_jax.data.batches.stream import derive_seed, generator_at, mixing_weights
from slap_jax.data.records import Record, open_split


def sample_captions(data: ConfigDict, max_captions: int, seed: int = 0) -> Iterator[str]:
    """Samples captions from every training source in proportion to its weight in the mixture.

    A source with fewer captions than its quota yields all of them. From a source with more clips than its quota, clips
    are sampled evenly over the split, and each yields one caption, chosen as in training.

    Args:
        data: `config.data`, of which `train` and `temperature` are used.
        max_captions: over all sources.
        seed: seed of the sample.

    Raises:
        RecordsError: a source is not prepared or lacks the split.
        CaptionError: a clip has neither captions nor usable labels.
    """
    sources = {name: open_split(source.path, source.split) for name, source in data.train.items()}
    clips = [len(records) for records in sources.values()]
    weights = mixing_weights([source.weight for source in data.train.values()], clips, data.temperature)
    for (name, records), weight in zip(sources.items(), weights, strict=True):
        policy = caption_policy(data.train[name].captions)
        quota = max(1, int(weight * max_captions))
        source_seed = derive_seed(seed, "vocabulary", name)
        for number in sample_evenly(len(records), quota, source_seed):
            generator = generator_at(source_seed, int(number))
            yield from _captions(records[int(number)], max(1, quota // len(records)), policy, generator)


def sample_evenly(count: int, size: int, seed: int) -> Int64[np.ndarray, " n"]:
    """Samples min(size, count) distinct numbers below `count`, one from each of as many ranges of similar length."""
    edges = np.arange(min(size, count) + 1) * count // min(size, count)
    offsets = np.random.default_rng(seed).random(len(edges) - 1)
    return edges[:-1] + (offsets * np.diff(edges)).astype(np.int64)


def _captions(
    record: Record, max_captions: int, policy: CaptionPolicy, generator: np.random.Generator
) -> tuple[str, ...]:
    if max_captions == 1 or not record.captions:
        return (choose_caption(record, policy, generator),)
    return record.captions[:max_captions]
