"""UrbanSound8K: sounds of the city from Freesound, at most four seconds each, in 10 classes."""

from collections.abc import Iterator
from typing import ClassVar

from slap_jax.data.collections.entries import Entry, Rejection
from slap_jax.data.collections.published import Expected, PublishedDataset
from slap_jax.data.datasets.reading import AudioNames, Row, label, labelled_clip, read_table

# Counted in the publisher's table; 8,732 in all.
_CLIPS_OF_FOLDS = (873, 888, 925, 990, 936, 823, 838, 806, 816, 837)
_SALIENCE = {"1": "foreground", "2": "background"}


class UrbanSound8K(PublishedDataset):
    """Ten folds of different sizes; slices of one recording are in one fold."""

    name = "urbansound8k"
    version = "1.0.0"
    title = "UrbanSound8K"
    homepage = "https://urbansounddataset.weebly.com/urbansound8k.html"
    licence = "CC-BY-NC-3.0"
    citation = "Salamon, Jacoby, Bello: A Dataset and Taxonomy for Urban Sound Research. ACM Multimedia 2014"
    expected: ClassVar = {f"fold{fold}": Expected(clips=clips) for fold, clips in enumerate(_CLIPS_OF_FOLDS, start=1)}
    layout = """\
metadata/UrbanSound8K.csv
audio/fold<1 to 10>/<slice_file_name>"""

    def entries(self) -> Iterator[Entry | Rejection]:
        """Lists the clips in the order of the table, in which the folds are mixed."""
        table = self.require("metadata/UrbanSound8K.csv")
        files = AudioNames([self.require("audio") / fold for fold in self.expected])
        for row in read_table(table, ("slice_file_name", "salience", "fold", "class")):
            yield row if isinstance(row, Rejection) else self._clip(row, files)

    def _clip(self, row: Row, files: AudioNames) -> Entry | Rejection:
        fields = row.fields
        stem = fields["slice_file_name"].removesuffix(".wav")
        labels = [label("label", fields["class"]), label("fold", fields["fold"])]
        if fields["salience"] in _SALIENCE:
            labels.append(label("salience", _SALIENCE[fields["salience"]]))
        return labelled_clip(
            self, files.find(stem), id=stem, split=f"fold{fields['fold']}", labels=labels, where=row.where
        )
