"""AudioSet: ten-second clips of YouTube videos with labels from 527 classes, and regions for a part of them."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from slap_jax.data.collections.entries import Entry, Rejection
from slap_jax.data.collections.published import Expected, LayoutError, PublishedDataset
from slap_jax.data.datasets.reading import (
    AudioFileIndex,
    TableRow,
    label,
    labelled_clip,
    parse_number,
    read_table,
    require_rows,
    selected_splits,
    walk_folders,
)

Region = tuple[float, float, str]
_SEGMENTS = ("youtube_id", "start_seconds", "end_seconds", "positive_labels")  # a comment in the tables
_STRONG_COLUMNS = ("segment_id", "start_time_seconds", "end_time_seconds", "label")
_NAMES = ("mid", "display_name")
_STRONG_PART = {"balanced_train": "train", "unbalanced_train": "train", "eval": "eval"}


class AudioSet(PublishedDataset):
    """Every copy has fewer clips than the tables, because videos vanish. Strong labels, if present, become regions."""

    name = "audioset"
    version = "1.0.0"
    title = "AudioSet"
    homepage = "https://research.google.com/audioset/download.html"
    licence = "labels: CC-BY-4.0; audio: of the YouTube videos"
    citation = "Gemmeke et al.: Audio Set: An Ontology and Human-Labeled Dataset for Audio Events. ICASSP 2017"
    content = "10 s clips of YouTube videos"
    annotations = "labels from 527 classes, regions for a part"
    expected: ClassVar = {
        "balanced_train": Expected(clips=22_160),
        "unbalanced_train": Expected(clips=2_041_789),
        "eval": Expected(clips=20_371),
    }
    size_source = "`num_segs` in the second line of each table; the publisher's page still shows larger numbers"
    layout = """\
balanced_train_segments.csv
unbalanced_train_segments.csv
eval_segments.csv
class_labels_indices.csv
audioset_train_strong.tsv       these three are optional: they add regions
audioset_eval_strong.tsv
mid_to_display_name.tsv
audio/**/<clip>.wav             in folders of any names; any audio format
    <clip> is <youtube_id>_<start in ms>, <youtube_id>_<start in ms>_<end in ms>, <youtube_id> or Y<youtube_id>"""
    options: ClassVar = {"splits": "balanced_train+unbalanced_train+eval"}
    option_help: ClassVar = {"splits": "only the tables of these splits are required"}
    notes = """\
- The strong labels are at <https://research.google.com/audioset/download_strong.html>. The publisher has no audio: it
  has to be downloaded from the videos that still exist. A clip without a file is rejected as `missing_file`; set
  `--max-rejected`.
- Labels look like `label=Male speech, man speaking`, as in `class_labels_indices.csv`. There are no captions.
- Regions are the strong labels `(onset, offset, sound)` relative to the start of the clip: 456 sounds in 103,463
  training and 16,996 evaluation clips, according to the publisher's page.
- A label that is not in `class_labels_indices.csv` is rejected as `bad_field`.
- Tables are streamed. Memory holds the names of the audio files (about 160 bytes each) and the strong labels of one
  split (150 MB for training).
- AudioCaps is a subset of AudioSet: do not train on one and evaluate on the same clips of the other."""

    def entries(self) -> Iterator[Entry | Rejection]:
        """Lists the clips of each split in the order of its table."""
        names = self.require("class_labels_indices.csv")
        classes = _display_names(names, read_table(names, _NAMES))
        files = AudioFileIndex(walk_folders(self.require("audio")))
        for split in selected_splits(self):
            regions = self._regions(_STRONG_PART[split])
            segments = self.require(f"{split}_segments.csv")
            for row in read_table(segments, _SEGMENTS, header=False, comment="#", spaces=False):
                yield row if isinstance(row, Rejection) else self._clip(row, split, classes, regions, files)

    def _regions(self, part: str) -> dict[str, list[Region]]:
        """Returns clip -> its strong labels, in seconds from the start of the clip."""
        table = self.root / f"audioset_{part}_strong.tsv"
        if not table.is_file():
            return {}
        names = self.require("mid_to_display_name.tsv")
        sounds = _display_names(names, read_table(names, _NAMES, delimiter="\t", header=False))
        regions: dict[str, list[Region]] = {}
        for row in require_rows(table, read_table(table, _STRONG_COLUMNS, delimiter="\t")):
            mid = row.fields["label"]
            if mid not in sounds:
                raise LayoutError(f"{row.where}: label is {mid!r}; expected a mid of {names.name}: download both again")
            region = parse_number(row, "start_time_seconds"), parse_number(row, "end_time_seconds"), sounds[mid]
            regions.setdefault(row.fields["segment_id"], []).append(region)
        return regions

    def _clip(
        self,
        row: TableRow,
        split: str,
        classes: Mapping[str, str],
        regions: Mapping[str, list[Region]],
        files: AudioFileIndex,
    ) -> Entry | Rejection:
        youtube_id = row.fields["youtube_id"]
        start, end = (round(1_000 * parse_number(row, column)) for column in ("start_seconds", "end_seconds"))
        clip_id = f"{youtube_id}_{start}"
        mids = [mid.strip() for mid in row.fields["positive_labels"].split(",")]
        unknown = [mid for mid in mids if mid not in classes]
        if unknown:
            detail = f"positive_labels names {unknown[0]!r}; expected a mid of class_labels_indices.csv"
            return Rejection(row.where, clip_id, "bad_field", detail)
        return labelled_clip(
            self,
            files.find(clip_id, f"{clip_id}_{end}", youtube_id, f"Y{youtube_id}"),
            id=clip_id,
            split=split,
            labels=[label("label", classes[mid]) for mid in mids],
            where=row.where,
            regions=regions.get(clip_id, ()),
        )


def _display_names(path: Path, rows: Iterable[TableRow | Rejection]) -> dict[str, str]:
    return {row.fields["mid"]: row.fields["display_name"] for row in require_rows(path, rows)}
