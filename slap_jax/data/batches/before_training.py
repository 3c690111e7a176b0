"""What is known before the first step: the size of batches, and warnings if training would learn little or nothing.

Sizes and summaries are read, and the texts of a few records. No clip is decoded.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

from ml_collections import ConfigDict

from slap_jax.config.defaults import columns_of
from slap_jax.config.validate import Vocabulary
from slap_jax.data.batches.labels import reads_captions, tag_texts
from slap_jax.data.log_mel_statistics import read_log_mel_statistics
from slap_jax.data.records import Record, Records, dataset_directory, split_summaries

FILL = 0.95  # fraction of the columns that clips fill, roughly
_SAMPLED_RECORDS = 500  # of each source, whose captions are compared
_LEAST_STD = 0.01  # below it the data are silence, which no setting improves
_LEAST_VOCABULARY = 0.75  # fraction of the embedding that has pieces; a few spare rows are harmless
_TOLERANCE = 0.1  # by which mean and deviation may differ from the measured ones, in deviations


def warnings_before_training(
    config: ConfigDict, tokenizer: Vocabulary, sources: Mapping[str, Records], fractions: Mapping[str, float]
) -> list[str]:
    """Returns one sentence for each problem, which says what to change.

    Args:
        config: the whole config, validated.
        tokenizer: tokenizer of `config.data.tokenizer`.
        sources: name -> records of every training source.
        fractions: name -> fraction of the stream of clips.
    """
    problems = [*_few_clips(config, list(sources.values())), *_one_caption(config, sources)]
    if not config.init_from:  # otherwise the model fixes front end and vocabulary
        problems += [*_front_end(config, fractions), *_vocabulary(config, tokenizer)]
    return problems


def columns_per_clip(config: ConfigDict, splits: Sequence[Records]) -> float:
    """Returns the mean number of columns of a clip, cropped to `config.data.max_seconds`."""
    seconds = sum(_seconds(records) for records in splits) / max(sum(map(len, splits)), 1)
    return columns_of(min(seconds, config.data.max_seconds), config.audio) + 0.5


def clips_per_batch(config: ConfigDict, splits: Sequence[Records]) -> int:
    """Returns about how many clips a global batch holds."""
    data = config.data
    clips = FILL * data.rows * data.columns / columns_per_clip(config, splits)
    return max(1, min(round(clips), data.rows * data.slots))


def _few_clips(config: ConfigDict, splits: Sequence[Records]) -> Iterator[str]:
    clips, batch = sum(map(len, splits)), clips_per_batch(config, splits)
    contrasts = config.objectives.contrastive.weight > 0
    if clips == 1:
        without = ": without another clip there are no negatives, and the contrastive loss is 0" if contrasts else ""
        yield f"the training data are one clip{without}; prepare more clips"
    elif clips < batch and contrasts:
        rows = max(1, math.floor(config.data.rows * clips / batch))
        yield (
            f"the training data are {clips} clips, fewer than the {batch} or so of a batch: batches repeat clips, and "
            f"copies of a clip are not negatives of each other; write fewer rows, such as config.data.rows={rows} with "
            "config.data.virtual_shards=1, or prepare more clips"
        )


def _one_caption(config: ConfigDict, sources: Mapping[str, Records]) -> Iterator[str]:
    if not reads_captions(config) or sum(map(len, sources.values())) < 2:
        return
    first: tuple[str, ...] | None = None
    count = 0
    for name, records in sources.items():
        keys = config.data.train[name].captions.tag_keys
        step = math.ceil(len(records) / _SAMPLED_RECORDS)
        for index in range(0, len(records), step):
            texts = _texts(records[index], keys)
            if len(texts) > 1 or (first is not None and texts != first):
                return
            first, count = texts, count + 1
    if first:
        yield (
            f"all {count} training clips that were read have the same caption, {first[0]!r}: there are no negatives to "
            "tell apart, so nothing can be learned from captions; prepare clips with captions of their own, or set "
            "config.objectives.contrastive.weight=0 and config.objectives.captioning.weight=0"
        )


def _texts(record: Record, keys: Sequence[str]) -> tuple[str, ...]:
    """Returns the distinct captions of a record; of one without captions, what a caption is made of."""
    texts = record.captions or (" ".join(sorted(tag_texts(record.labels, keys))),)
    return tuple(sorted({text.strip().casefold() for text in texts}))


def _front_end(config: ConfigDict, fractions: Mapping[str, float]) -> Iterator[str]:
    measured = mixture_statistics(config, fractions)
    if measured is None or measured[1] < _LEAST_STD:
        return
    (mean, std), audio = measured, config.audio
    if abs(audio.mean - mean) > _TOLERANCE * std or abs(audio.std - std) > _TOLERANCE * std:
        yield (
            f"config.audio.mean={audio.mean:g} and std={audio.std:g}, but the training data have {mean:.2f} and "
            f"{std:.2f}; write config.audio.update(mean={mean:.2f}, std={std:.2f}), or --config.audio.mean={mean:.2f} "
            f"--config.audio.std={std:.2f}"
        )


def mixture_statistics(config: ConfigDict, fractions: Mapping[str, float]) -> tuple[float, float] | None:
    """Returns mean and deviation of the log-mel of the mixture, as if all clips were equally long.

    None if a source does not state them.
    """
    parts = {name: read_log_mel_statistics(config.data.train[name].path, config.audio) for name in fractions}
    known = {name: part for name, part in parts.items() if part is not None}
    if len(known) < len(parts):
        return None
    mean = sum(fractions[name] * part[0] for name, part in known.items())
    square = sum(fractions[name] * (part[1] ** 2 + part[0] ** 2) for name, part in known.items())
    return mean, math.sqrt(max(square - mean**2, 0.0))


def _vocabulary(config: ConfigDict, tokenizer: Vocabulary) -> Iterator[str]:
    model = config.model
    if model.text_encoder.kind == "scratch" and tokenizer.vocab_size < _LEAST_VOCABULARY * model.vocab_size:
        yield (
            f"config.model.vocab_size={model.vocab_size}, but {tokenizer.path} has {tokenizer.vocab_size} pieces, so "
            f"{model.vocab_size - tokenizer.vocab_size} rows of the embedding are never used; write "
            f"config.model.vocab_size={tokenizer.vocab_size}"
        )


def _seconds(records: Records) -> float:
    """Returns the duration of all clips: from the summary of `slap prepare`, or else by reading every record."""
    splits = split_summaries(dataset_directory(records.path))
    names = records.split.split("+")
    if all(name in splits for name in names):
        return sum(float(splits[name]["seconds"]) for name in names)
    return sum(record.duration_s for record in records)
