"""VGGSound: ten-second clips of YouTube videos with a visible sound source, in 309 classes."""

from collections.abc import Iterator
from typing import ClassVar

from slap_jax.data.collections.entries import Entry, Rejection
from slap_jax.data.collections.published import Expected, PublishedDataset
from slap_jax.data.datasets.reading import (
    AudioFileIndex,
    TableRow,
    label,
    labelled_clip,
    parse_number,
    read_table,
    selected_splits,
    walk_folders,
)

_COLUMNS = ("youtube_id", "start_seconds", "label", "split")  # the table has no header line


class VggSound(PublishedDataset):
    """One class per clip. Every copy has fewer clips than the table, because videos vanish."""

    name = "vggsound"
    version = "1.0.0"
    title = "VGGSound"
    homepage = "https://www.robots.ox.ac.uk/~vgg/data/vggsound/"
    licence = "labels: CC-BY-4.0; audio: of the YouTube videos"
    citation = "Chen, Xie, Vedaldi, Zisserman: VGGSound: A Large-Scale Audio-Visual Dataset. ICASSP 2020"
    content = "10 s clips of YouTube videos"
    annotations = "1 label from 309 classes"
    expected: ClassVar = {"train": Expected(clips=183_971), "test": Expected(clips=15_496)}
    size_source = (
        "199,467 lines of `vggsound.csv`, counted in <https://huggingface.co/datasets/Loie/VGGSound/discussions/5>"
    )
    layout = """\
vggsound.csv               or data/vggsound.csv, as in a clone of the repository
audio/**/<clip>.wav        in folders of any names; any audio format, or the videos
    <clip> is <youtube_id>_<start in seconds, six digits>"""
    options: ClassVar = {"splits": "train+test"}
    option_help: ClassVar = {"splits": "lines of other splits are skipped"}
    notes = """\
- The homepage has the table; download the clips from the videos that still exist. A clip without a file is rejected
  as `missing_file`; set `--max-rejected`. Videos (`.mp4`) can be read.
- The test list in the authors' repository has 15,446 clips and papers evaluate on fewer, so report the number of
  clips.
- Labels look like `label=female speech, woman speaking`, spelled as published ("eletric blender running"). There are
  no captions."""

    def entries(self) -> Iterator[Entry | Rejection]:
        """Lists the clips in the order of the table, which interleaves the splits."""
        table = self.require("vggsound.csv", "data/vggsound.csv")
        files = AudioFileIndex(walk_folders(self.require("audio")))
        splits = selected_splits(self)
        for row in read_table(table, _COLUMNS, header=False):
            if isinstance(row, Rejection):
                yield row
            elif row.fields["split"] in splits or row.fields["split"] not in self.expected:  # unknown: rejected
                yield self._clip(row, files)

    def _clip(self, row: TableRow, files: AudioFileIndex) -> Entry | Rejection:
        clip_id = f"{row.fields['youtube_id']}_{parse_number(row, 'start_seconds'):06.0f}"
        return labelled_clip(
            self,
            files.find(clip_id),
            id=clip_id,
            split=row.fields["split"],
            labels=[label("label", row.fields["label"])],
            where=row.where,
        )
