"""VGGSound: ten-second clips of YouTube videos in which the sounding object is seen, in 309 classes."""

from collections.abc import Iterator
from typing import ClassVar

from slap_jax.data.collections.entries import Entry, Rejection
from slap_jax.data.collections.published import Expected, PublishedDataset
from slap_jax.data.datasets.reading import (
    AudioNames,
    Row,
    chosen_splits,
    folders_below,
    label,
    labelled_clip,
    number,
    read_table,
)

_COLUMNS = ("youtube_id", "start_seconds", "label", "split")  # the table has no header line


class VggSound(PublishedDataset):
    """One class a clip. Videos vanish: every copy has fewer clips than the table."""

    name = "vggsound"
    version = "1.0.0"
    title = "VGGSound"
    homepage = "https://www.robots.ox.ac.uk/~vgg/data/vggsound/"
    licence = "labels: CC-BY-4.0; audio: of the YouTube videos"
    citation = "Chen, Xie, Vedaldi, Zisserman: VGGSound: A Large-Scale Audio-Visual Dataset. ICASSP 2020"
    # Lines of vggsound.csv, as counted in https://huggingface.co/datasets/Loie/VGGSound/discussions/5 (199,467).
    expected: ClassVar = {"train": Expected(clips=183_971), "test": Expected(clips=15_496)}
    layout = """\
vggsound.csv               or data/vggsound.csv, as in a clone of the repository
audio/**/<clip>.wav        in folders of any names; any audio format, or the videos
    <clip> is <youtube_id>_<start in seconds, six digits>"""
    options: ClassVar = {"splits": "train+test"}

    def entries(self) -> Iterator[Entry | Rejection]:
        """Lists the clips in the order of the table, in which the splits are mixed."""
        table = self.require("vggsound.csv", "data/vggsound.csv")
        files = AudioNames(folders_below(self.require("audio")))
        splits = chosen_splits(self)
        for row in read_table(table, _COLUMNS, header=False):
            if isinstance(row, Rejection):
                yield row
            elif row.fields["split"] in splits or row.fields["split"] not in self.expected:  # the latter to be rejected
                yield self._clip(row, files)

    def _clip(self, row: Row, files: AudioNames) -> Entry | Rejection:
        clip_id = f"{row.fields['youtube_id']}_{number(row, 'start_seconds'):06.0f}"
        return labelled_clip(
            self,
            files.find(clip_id),
            id=clip_id,
            split=row.fields["split"],
            labels=[label("label", row.fields["label"])],
            where=row.where,
        )
