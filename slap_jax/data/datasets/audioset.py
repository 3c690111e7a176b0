"""AudioSet: ten-second clips of YouTube videos, each with some of 527 classes; some with the times of every sound."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from slap_jax.data.collections.entries import Entry, Rejection
from slap_jax.data.collections.published import Expected, LayoutError, PublishedDataset
from slap_jax.data.datasets.reading import (
    AudioNames,
    Row,
    chosen_splits,
    folders_below,
    intact,
    label,
    labelled_clip,
    number,
    read_table,
)

Region = tuple[float, float, str]
_SEGMENTS = ("youtube_id", "start_seconds", "end_seconds", "positive_labels")  # behind "#" in the tables
_STRONG_COLUMNS = ("segment_id", "start_time_seconds", "end_time_seconds", "label")
_NAMES = ("mid", "display_name")
_STRONG_PART = {"balanced_train": "train", "unbalanced_train": "train", "eval": "eval"}


class AudioSet(PublishedDataset):
    """Videos vanish: every copy has fewer clips than the tables. Strong labels become regions where they are there."""

    name = "audioset"
    version = "1.0.0"
    title = "AudioSet"
    homepage = "https://research.google.com/audioset/download.html"
    licence = "labels: CC-BY-4.0; audio: of the YouTube videos"
    citation = "Gemmeke et al.: Audio Set: An Ontology and Human-Labeled Dataset for Audio Events. ICASSP 2017"
    # num_segs in the second line of each table.
    expected: ClassVar = {
        "balanced_train": Expected(clips=22_160),
        "unbalanced_train": Expected(clips=2_041_789),
        "eval": Expected(clips=20_371),
    }
    layout = """\
balanced_train_segments.csv
unbalanced_train_segments.csv
eval_segments.csv
class_labels_indices.csv
audioset_train_strong.tsv       these three are for the regions; may be absent
audioset_eval_strong.tsv
mid_to_display_name.tsv
audio/**/<clip>.wav             in folders of any names; any audio format
    <clip> is <youtube_id>_<start in ms>, <youtube_id>_<start in ms>_<end in ms>, <youtube_id> or Y<youtube_id>"""
    options: ClassVar = {"splits": "balanced_train+unbalanced_train+eval"}

    def entries(self) -> Iterator[Entry | Rejection]:
        """Lists the clips of each split in the order of its table."""
        names = self.require("class_labels_indices.csv")
        classes = _display_names(names, read_table(names, _NAMES))
        files = AudioNames(folders_below(self.require("audio")))
        for split in chosen_splits(self):
            regions = self._regions(_STRONG_PART[split])
            segments = self.require(f"{split}_segments.csv")
            for row in read_table(segments, _SEGMENTS, header=False, comment="#", spaces=False):
                yield row if isinstance(row, Rejection) else self._clip(row, split, classes, regions, files)

    def _regions(self, part: str) -> dict[str, list[Region]]:
        """Reads the strong labels: clip -> its regions, in seconds from its start."""
        table = self.root / f"audioset_{part}_strong.tsv"
        if not table.is_file():
            return {}
        names = self.require("mid_to_display_name.tsv")
        sounds = _display_names(names, read_table(names, _NAMES, delimiter="\t", header=False))
        regions: dict[str, list[Region]] = {}
        for row in intact(table, read_table(table, _STRONG_COLUMNS, delimiter="\t")):
            mid = row.fields["label"]
            if mid not in sounds:
                raise LayoutError(f"{row.where}: label is {mid!r}; expected a mid of {names.name}: get both again")
            region = number(row, "start_time_seconds"), number(row, "end_time_seconds"), sounds[mid]
            regions.setdefault(row.fields["segment_id"], []).append(region)
        return regions

    def _clip(
        self,
        row: Row,
        split: str,
        classes: Mapping[str, str],
        regions: Mapping[str, list[Region]],
        files: AudioNames,
    ) -> Entry | Rejection:
        youtube_id = row.fields["youtube_id"]
        start, end = (round(1_000 * number(row, column)) for column in ("start_seconds", "end_seconds"))
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


def _display_names(path: Path, rows: Iterable[Row | Rejection]) -> dict[str, str]:
    return {row.fields["mid"]: row.fields["display_name"] for row in intact(path, rows)}
