"""From planned rows to the arrays of a batch: each clip is decoded once, straight into its place."""

import concurrent.futures
from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from slap_jax.batch import LabelledBatch, PackedBatch
from slap_jax.config import classes_in_batch, samples_per_column
from slap_jax.data.audio import decode_flac_into
from slap_jax.data.batches.augment import Augmenter
from slap_jax.data.batches.clip_planning import PlannedClip
from slap_jax.data.batches.mixup import mix_into, write_classes
from slap_jax.data.batches.seeds import derive_seed, generator_at
from slap_jax.data.packing import clip_columns, empty_rows, write_slot
from slap_jax.data.records import Records


class RowAssembler:
    """Decodes the clips of rows, in several threads where there are several rows."""

    def __init__(self, config: ConfigDict, sources: Mapping[str, Records], augmenter: Augmenter):
        """Starts no thread before the first call.

        Args:
            config: the whole config; `seed`, `audio` and `data` are used.
            sources: the opened splits, in the order of `config.data.train`.
            augmenter: of `config.data.augment`.
        """
        self._data, self._samples_per_column = config.data, samples_per_column(config.audio)
        self._classes = classes_in_batch(config)
        self._augmenter = augmenter
        self._seeds = [derive_seed(config.seed, "augment", name) for name in sources]
        threads = max(1, config.data.decode_threads)
        self._pool = concurrent.futures.ThreadPoolExecutor(threads, "decode") if threads > 1 else None

    def __call__(self, rows: Sequence[Sequence[PlannedClip]]) -> PackedBatch:
        """Returns the rows as arrays.

        Raises:
            AudioError: a record's audio is damaged.
        """
        data = self._data
        sizes = (len(rows), data.columns, data.slots, data.text_tokens, self._samples_per_column)
        batch = empty_rows(*sizes, classes=self._classes)
        if self._pool is None:
            for row, clips in enumerate(rows):
                self._write_row(batch, row, clips)
        else:
            jobs = [self._pool.submit(self._write_row, batch, row, clips) for row, clips in enumerate(rows)]
            for job in jobs:
                job.result()
        return batch

    def close(self) -> None:
        """Stops the threads."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _write_row(self, batch: PackedBatch, row: int, clips: Sequence[PlannedClip]) -> None:
        column = token = 0
        waveform: np.ndarray = batch.waveform[row]
        for slot, clip in enumerate(clips):
            record, reference = clip.record, clip.reference
            begin = column * self._samples_per_column
            samples = waveform[begin : begin + clip.samples]
            decode_flac_into(record.audio, samples, clip.start, f"record {record.source}/{record.id}")
            if clip.mixed is not None:
                mix_into(samples, clip.mixed)
            if isinstance(batch, LabelledBatch):
                write_classes(batch.clip_labels[row, slot], clip.classes, clip.mixed)
            if self._augmenter.active:
                self._augmenter(samples, generator_at(self._seeds[reference.source], reference.place))
            columns = clip_columns(clip.samples, self._samples_per_column)
            write_slot(batch, row, slot, column, columns, token, clip.tokens, record.key, reference.source)
            column, token = column + columns, token + len(clip.tokens)
