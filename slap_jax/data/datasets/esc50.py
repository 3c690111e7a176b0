"""ESC-50: five-second environmental sounds from Freesound in 50 classes."""

from collections.abc import Iterator
from typing import ClassVar

from slap_jax.data.collections.entries import Entry, Rejection
from slap_jax.data.collections.published import Expected, PublishedDataset
from slap_jax.data.datasets.reading import AudioFileIndex, TableRow, label, labelled_clip, read_table

_FOLDS = 5


class Esc50(PublishedDataset):
    """Five folds for cross-validation; fragments of one recording share a fold."""

    name = "esc50"
    version = "2.0.0"
    title = "ESC-50"
    homepage = "https://github.com/karolpiczak/ESC-50"
    licence = "CC-BY-NC-3.0"
    citation = "Piczak: ESC: Dataset for Environmental Sound Classification. ACM Multimedia 2015"
    content = "5 s environmental sounds from Freesound"
    annotations = "1 label from 50 classes"
    expected: ClassVar = {f"fold{fold}": Expected(clips=400) for fold in range(1, _FOLDS + 1)}
    size_source = "the publisher's README: 2,000 clips in equal folds"
    layout = """\
meta/esc50.csv
audio/<filename>"""
    notes = """\
- Get it as a clone or as a zip. Train on four folds and test on the fifth: `fold1+fold2+fold3+fold4` and `fold5`.
- Labels: `label=sea waves`, `fold=1`, and `subset=ESC-10` for the 400 clips of that subset, whose licence is CC-BY.
  There are no captions.
- Many clips end in digital silence, because their recordings were shorter than five seconds. They are kept as they
  are."""

    def entries(self) -> Iterator[Entry | Rejection]:
        """Lists the clips in the order of the table, which is ordered by fold."""
        table = self.require("meta/esc50.csv")
        files = AudioFileIndex([self.require("audio")])
        for row in read_table(table, ("filename", "fold", "category", "esc10")):
            yield row if isinstance(row, Rejection) else self._clip(row, files)

    def _clip(self, row: TableRow, files: AudioFileIndex) -> Entry | Rejection:
        fields = row.fields
        stem = fields["filename"].removesuffix(".wav")
        labels = [label("label", fields["category"]), label("fold", fields["fold"])]
        in_esc10 = fields["esc10"] == "True"
        if in_esc10:
            labels.append("subset=ESC-10")
        return labelled_clip(
            self,
            files.find(stem),
            id=stem,
            split=f"fold{fields['fold']}",
            labels=labels,
            where=row.where,
            licence="CC-BY" if in_esc10 else "",
        )
