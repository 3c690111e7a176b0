"""UrbanSound8K: urban sounds of at most four seconds from Freesound, in 10 classes."""

from collections.abc import Iterator
from typing import ClassVar

from slap_jax.data.collections.entries import Entry, Rejection
from slap_jax.data.collections.published import Expected, PublishedDataset
from slap_jax.data.datasets.reading import AudioFileIndex, TableRow, label, labelled_clip, read_table

_CLIPS_PER_FOLD = (873, 888, 925, 990, 936, 823, 838, 806, 816, 837)
_SALIENCE = {"1": "foreground", "2": "background"}


class UrbanSound8K(PublishedDataset):
    """Ten folds of different sizes; slices of one recording share a fold."""

    name = "urbansound8k"
    version = "1.0.0"
    title = "UrbanSound8K"
    homepage = "https://urbansounddataset.weebly.com/urbansound8k.html"
    licence = "CC-BY-NC-3.0"
    citation = "Salamon, Jacoby, Bello: A Dataset and Taxonomy for Urban Sound Research. ACM Multimedia 2014"
    content = "urban sounds of up to 4 s from Freesound"
    annotations = "1 label from 10 classes"
    expected: ClassVar = {f"fold{fold}": Expected(clips=clips) for fold, clips in enumerate(_CLIPS_PER_FOLD, start=1)}
    size_source = "counted in the publisher's table; 8,732 clips in total"
    layout = """\
metadata/UrbanSound8K.csv
audio/fold<1 to 10>/<slice_file_name>"""
    notes = """\
- Report results by the ten published folds: slices of one recording share a fold, and other splits inflate the
  results.
- Labels: `label=dog bark`, `fold=5`, `salience=foreground` (or `background`). There are no captions.
- Sample rate, bit depth and channels vary from file to file, as uploaded to Freesound."""

    def entries(self) -> Iterator[Entry | Rejection]:
        """Lists the clips in the order of the table, which interleaves the folds."""
        table = self.require("metadata/UrbanSound8K.csv")
        files = AudioFileIndex([self.require("audio") / fold for fold in self.expected])
        for row in read_table(table, ("slice_file_name", "salience", "fold", "class")):
            yield row if isinstance(row, Rejection) else self._clip(row, files)

    def _clip(self, row: TableRow, files: AudioFileIndex) -> Entry | Rejection:
        fields = row.fields
        stem = fields["slice_file_name"].removesuffix(".wav")
        labels = [label("label", fields["class"]), label("fold", fields["fold"])]
        if fields["salience"] in _SALIENCE:
            labels.append(label("salience", _SALIENCE[fields["salience"]]))
        return labelled_clip(
            self, files.find(stem), id=stem, split=f"fold{fields['fold']}", labels=labels, where=row.where
        )
