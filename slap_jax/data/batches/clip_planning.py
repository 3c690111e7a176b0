"""What is decided about a clip before its audio is decoded: caption, tokens, part, and so the room that it takes."""

import dataclasses
from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from slap_jax.config import classes_in_batch, samples_per_column
from slap_jax.data.audio import flac_samples
from slap_jax.data.batches.captions import caption_policy, choose_caption
from slap_jax.data.batches.labels import LabelReader, reads_captions
from slap_jax.data.batches.mixture import ClipReference
from slap_jax.data.batches.mixup import MixedIn, draw_partner
from slap_jax.data.batches.seeds import derive_seed, generator_at
from slap_jax.data.packing import clip_columns
from slap_jax.data.records import Record, Records
from slap_jax.data.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, slots=True)
class PlannedClip:
    """A clip that is ready to be packed, its audio still compressed.

    Attributes:
        reference: its place in the training stream.
        record: as stored.
        caption: drawn, whole; "" where no objective reads captions.
        tokens: its ids, `[BOS, ..., EOS]`, at most `config.data.max_caption_tokens`.
        start: first sample of the part that is taken.
        samples: of the part.
        classes: numbers of its classes, where classification is trained.
        mixed: what is mixed into it, if anything.
    """

    reference: ClipReference
    record: Record
    caption: str
    tokens: Sequence[int]
    start: int
    samples: int
    classes: tuple[int, ...] = ()
    mixed: MixedIn | None = None


class ClipPlanner:
    """Reads a clip's record, draws its caption and, where it is too long, the part of it that is taken.

    Everything drawn depends on (seed, source, place in the source's stream) alone.
    """

    def __init__(self, config: ConfigDict, tokenizer: Tokenizer, sources: Mapping[str, Records]):
        """Keeps what is needed.

        Args:
            config: the whole config; `seed`, `audio` and `data` are used.
            tokenizer: of the captions.
            sources: the opened splits, in the order of `config.data.train`.
        """
        data = config.data
        self._records = list(sources.values())
        self._policies = [caption_policy(data.train[name].captions) for name in sources]
        self._seeds = [derive_seed(config.seed, "clips", name) for name in sources]
        self._tokenizer, self._max_caption_tokens = tokenizer, data.max_caption_tokens
        self._most_samples = round(data.max_seconds * config.audio.sample_rate)
        self._samples_per_column = samples_per_column(config.audio)
        self._labels = LabelReader(config.objectives.classification) if classes_in_batch(config) else None
        self._reads_captions = reads_captions(config)

    def __call__(self, reference: ClipReference) -> PlannedClip:
        """Plans one clip.

        Raises:
            AudioError: the record's bytes are damaged.
            CaptionError: the record has neither captions nor labels to make one of.
            LabelError: the record has several classes where one is expected.
        """
        record: Record = self._records[reference.source][reference.record]
        generator = generator_at(self._seeds[reference.source], reference.place)
        caption = ""
        if self._reads_captions:
            caption = choose_caption(record, self._policies[reference.source], generator)
        samples, start = flac_samples(record.audio, f"record {record.source}/{record.id}"), 0
        if samples > self._most_samples:
            start = int(generator.integers(samples - self._most_samples + 1))
            samples = self._most_samples
        tokens = self._tokenizer.encode(caption, self._max_caption_tokens) if self._reads_captions else ()
        planned = PlannedClip(reference, record, caption, tokens, start, samples)
        if self._labels is None:
            return planned
        planned = dataclasses.replace(planned, classes=self._labels(record))
        mixed = draw_partner(planned.classes, samples, self._records[reference.source], self._labels, generator)
        return dataclasses.replace(planned, mixed=mixed)

    def size_of(self, clip: PlannedClip) -> tuple[int, int]:
        """Returns the columns and text tokens that a clip takes in a row."""
        return clip_columns(clip.samples, self._samples_per_column), len(clip.tokens)
