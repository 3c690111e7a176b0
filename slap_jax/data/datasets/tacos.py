"""TACOS: Freesound clips with captioned regions."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from slap_jax.data.collections.entries import AudioFile, Entry, Rejection
from slap_jax.data.collections.published import Expected, PublishedDataset
from slap_jax.data.datasets.reading import (
    AudioFileIndex,
    TableRow,
    licence_name,
    read_grouped_table,
    read_table,
    selected_splits,
)

_FACTS = ("keywords", "license", "superclass", "subclass", "duration", "start_time_s", "end_time_s")


class Tacos(PublishedDataset):
    """Regions with human captions, and one caption per clip that a language model made from them."""

    name = "tacos"
    version = "1.0.0"
    title = "TACOS, Temporally-aligned Audio CaptiOnS"
    homepage = "https://zenodo.org/records/15379789"
    licence = "captions: CC-BY-4.0; audio: Creative Commons, one licence per clip"
    citation = (
        "Primus, Schmid, Widmer: TACOS: Temporally-aligned Audio CaptiOnS for Language-Audio Pretraining. "
        "arXiv 2505.07609, 2025"
    )
    content = "clips of up to 30 s from Freesound"
    annotations = "regions with human captions, 1 generated caption"
    expected: ClassVar = {
        "development": Expected(clips=10_358, captions=1),
        "test": Expected(clips=2_000, captions=1),
    }
    size_source = "the authors' repository (12,358 clips, 47,748 regions) and the test split of their training code"
    layout = """\
development_split.csv
test_split.csv
annotations_strong.csv
annotations_weak.csv
metadata.csv
audio/<filename>         from audio.zip"""
    options: ClassVar = {"splits": "development+test"}
    option_help: ClassVar = {"splits": "only the tables of these splits and the three common ones are required"}
    notes = """\
- People captioned the **regions**; gpt-4o-mini summarised them as the caption of the clip.
- Regions are clipped to the clip and sorted by onset. Regions that are then empty, or have no text or no numbers, are
  dropped.
- The metadata let some clips end after their original; the shorter of the two durations is expected.
- Labels: `superclass=...`, `subclass=...`, and keywords as `tag=...`. Each record has the licence of its clip.
- TACOS, Clotho and WavCaps draw from the same site: compare ids before you train on one and evaluate on another."""

    def entries(self) -> Iterator[Entry | Rejection]:
        """Lists the clips of each split in the order of its table."""
        facts = read_grouped_table(self.require("metadata.csv"), "filename", _FACTS)
        weak = read_grouped_table(self.require("annotations_weak.csv"), "filename", ("text",))
        strong = read_grouped_table(self.require("annotations_strong.csv"), "filename", ("text", "onset", "offset"))
        files = AudioFileIndex([self.require("audio")])
        for split in selected_splits(self):
            for row in read_table(self.require(f"{split}_split.csv"), ("filename",)):
                if isinstance(row, Rejection):
                    yield row
                    continue
                name = row.fields["filename"]
                about = (facts.get(name, [{}])[0], weak.get(name, []), strong.get(name, []))
                yield self._entry(row, split, *about, files)

    def _entry(
        self,
        row: TableRow,
        split: str,
        facts: Mapping[str, str],
        weak: Sequence[Mapping[str, str]],
        strong: Sequence[Mapping[str, str]],
        files: AudioFileIndex,
    ) -> Entry | Rejection:
        name = row.fields["filename"]
        captions = tuple(text for annotation in weak if (text := annotation["text"].strip()))
        if not captions:
            return Rejection(row.where, name, "empty_caption", "annotations_weak.csv has no caption for this clip")
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
    """Returns the duration of the clip, an excerpt of the original; some stated ends exceed the original."""
    start, end, whole = (_number(facts.get(key, "")) for key in ("start_time_s", "end_time_s", "duration"))
    seconds = min(end, whole) - start
    return seconds if seconds > 0 else None


def _regions(strong: Sequence[Mapping[str, str]], seconds: float | None) -> tuple[tuple[float, float, str], ...]:
    """Returns the regions sorted by onset and clipped to the clip, without those that are empty or have no text."""
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
