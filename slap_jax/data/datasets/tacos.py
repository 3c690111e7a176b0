"""TACOS: sounds of Freesound whose captions say when what they describe begins and ends."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from slap_jax.data.collections.entries import AudioFile, Entry, Rejection
from slap_jax.data.collections.published import Expected, PublishedDataset
from slap_jax.data.datasets.reading import AudioNames, Row, chosen_splits, group_rows, licence_name, read_table

_FACTS = ("keywords", "license", "superclass", "subclass", "duration", "start_time_s", "end_time_s")


class Tacos(PublishedDataset):
    """Regions with captions by people, and one caption of the whole clip that a language model made of them."""

    name = "tacos"
    version = "1.0.0"
    title = "TACOS, Temporally-aligned Audio CaptiOnS"
    homepage = "https://zenodo.org/records/15379789"
    licence = "captions: CC-BY-4.0; audio: Creative Commons, one licence a clip"
    citation = "Primus, Schmid, Widmer: TACOS: Temporally-aligned Audio CaptiOnS for Language-Audio Pretraining. 2025"
    expected: ClassVar = {
        "development": Expected(clips=10_358, captions=1),
        "test": Expected(clips=2_000, captions=1),
    }
    layout = """\
development_split.csv
test_split.csv
annotations_strong.csv
annotations_weak.csv
metadata.csv
audio/<filename>         of audio.zip"""
    options: ClassVar = {"splits": "development+test"}

    def entries(self) -> Iterator[Entry | Rejection]:
        """Lists the clips of each split in the order of its table."""
        facts = group_rows(self.require("metadata.csv"), "filename", _FACTS)
        weak = group_rows(self.require("annotations_weak.csv"), "filename", ("text",))
        strong = group_rows(self.require("annotations_strong.csv"), "filename", ("text", "onset", "offset"))
        files = AudioNames([self.require("audio")])
        for split in chosen_splits(self):
            for row in read_table(self.require(f"{split}_split.csv"), ("filename",)):
                if isinstance(row, Rejection):
                    yield row
                    continue
                name = row.fields["filename"]
                about = (facts.get(name, [{}])[0], weak.get(name, []), strong.get(name, []))
                yield self._entry(row, split, *about, files)

    def _entry(
        self,
        row: Row,
        split: str,
        facts: Mapping[str, str],
        weak: Sequence[Mapping[str, str]],
        strong: Sequence[Mapping[str, str]],
        files: AudioNames,
    ) -> Entry | Rejection:
        name = row.fields["filename"]
        captions = tuple(text for annotation in weak if (text := annotation["text"].strip()))
        if not captions:
            return Rejection(row.where, name, "empty_caption", "annotations_weak.csv has no words for it")
        audio = files.find(Path(name).stem)
        if audio is None:
            return Rejection(row.where, name, "missing_file", f"audio/ has no {name}; extract audio.zip again")
        seconds = _crop_seconds(facts)
        tags = (tag.strip() for tag in facts.get("keywords", "").split(","))
        classes = tuple(f"{level}={facts[level]}" for level in ("superclass", "subclass") if facts.get(level))
        return Entry(
            id=name,
            audio=AudioFile(audio),
            captions=captions,
            split=split,
            labels=(*classes, *(f"tag={tag}" for tag in tags if tag)),
            regions=_regions(strong, seconds),
            source=self.name,
            caption_source="people; the clip's caption: gpt-4o-mini, of theirs",
            licence=licence_name(facts.get("license", "")),
            duration_s=seconds,
            where=row.where,
        )


def _crop_seconds(facts: Mapping[str, str]) -> float | None:
    """Returns how long the clip, a part of the original, should be; some ends lie beyond the original's."""
    start, end, whole = (_number(facts.get(key, "")) for key in ("start_time_s", "end_time_s", "duration"))
    seconds = min(end, whole) - start
    return seconds if seconds > 0 else None


def _regions(strong: Sequence[Mapping[str, str]], seconds: float | None) -> tuple[tuple[float, float, str], ...]:
    """Returns the regions by onset, cut to the clip; without those that are empty then or have no words."""
    regions = []
    for annotation in strong:
        onset, offset, text = _number(annotation["onset"]), _number(annotation["offset"]), annotation["text"].strip()
        if math.isfinite(onset) and math.isfinite(offset) and text:
            onset, offset = max(onset, 0.0), min(offset, seconds or math.inf)
            if onset < offset:
                regions.append((onset, offset, text))
    return tuple(sorted(regions))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
