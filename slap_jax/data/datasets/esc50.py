"""ESC-50: environmental sounds of Freesound, five seconds each, in 50 classes."""

from collections.abc import Iterator
from typing import ClassVar

from slap_jax.data.collections.entries import Entry, Rejection
from slap_jax.data.collections.published import Expected, PublishedDataset
from slap_jax.data.datasets.reading import AudioNames, Row, label, labelled_clip, read_table

_FOLDS = 5


class Esc50(PublishedDataset):
    """Five folds for cross-validation; fragments of one recording are in one fold."""

    name = "esc50"
    version = "2.0.0"
    title = "ESC-50"
    homepage = "https://github.com/karolpiczak/ESC-50"
    licence = "CC-BY-NC-3.0"
    citation = "Piczak: ESC: Dataset for Environmental Sound Classification. ACM Multimedia 2015"
    # 2,000 clips of 5 s in equal folds: the publisher's README.
    expected: ClassVar = {f"fold{fold}": Expected(clips=400) for fold in range(1, _FOLDS + 1)}
    layout = """\
meta/esc50.csv
audio/<filename>"""

    def entries(self) -> Iterator[Entry | Rejection]:
        """Lists the clips in the order of the table, which is that of the folds."""
        table = self.require("meta/esc50.csv")
        files = AudioNames([self.require("audio")])
        for row in read_table(table, ("filename", "fold", "category", "esc10")):
            yield row if isinstance(row, Rejection) else self._clip(row, files)

    def _clip(self, row: Row, files: AudioNames) -> Entry | Rejection:
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
