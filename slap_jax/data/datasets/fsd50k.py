"""FSD50K: Freesound clips of 0.3 to 30 s with labels from 200 classes of the AudioSet ontology."""

from collections.abc import Iterator
from typing import ClassVar

from slap_jax.data.collections.entries import Entry, Rejection
from slap_jax.data.collections.published import Expected, PublishedDataset
from slap_jax.data.datasets.reading import (
    AudioFileIndex,
    TableRow,
    label,
    labelled_clip,
    licence_name,
    read_json_objects,
    read_table,
    selected_splits,
)

_PARTS = {"dev": ("train", "val"), "eval": ("eval",)}  # files -> splits


class Fsd50k(PublishedDataset):
    """Each class comes with its ancestors in the ontology. Labels are complete in `eval`, nearly complete elsewhere."""

    name = "fsd50k"
    version = "1.0.0"
    title = "FSD50K"
    homepage = "https://zenodo.org/records/4060432"
    licence = "CC-BY-4.0 as a whole; audio: Creative Commons, one licence per clip"
    citation = (
        "Fonseca, Favory, Pons, Font, Serra: FSD50K: an Open Dataset of Human-Labeled Sound Events. TASLP 30, 2022"
    )
    content = "0.3 to 30 s clips from Freesound"
    annotations = "labels from 200 classes"
    expected: ClassVar = {
        "train": Expected(clips=36_796),
        "val": Expected(clips=4_170),
        "eval": Expected(clips=10_231, hours=27.9),
    }
    size_source = (
        "section 3H of the paper; the publisher's README counts 40,966 clips and 80.4 hours in train and val together"
    )
    layout = """\
FSD50K.ground_truth/dev.csv                       splits train and val
FSD50K.ground_truth/eval.csv
FSD50K.dev_audio/<fname>.wav
FSD50K.eval_audio/<fname>.wav
FSD50K.metadata/dev_clips_info_FSD50K.json        optional: licences of the clips
FSD50K.metadata/eval_clips_info_FSD50K.json"""
    options: ClassVar = {"splits": "train+val+eval"}
    option_help: ClassVar = {"splits": "only the files of these splits are required"}
    notes = """\
- Join the parts of the audio archives first: `zip -s 0 FSD50K.dev_audio.zip --out unsplit.zip`.
- Labels such as `label=Electric guitar`, `label=Guitar` include all ancestors in the ontology, as published. There
  are no captions.
- Class names are the publisher's with spaces for underscores: "Accelerating and revving and vroom" is "Accelerating,
  revving, vroom" in AudioSet.
- Each record has the licence of its clip: CC0, CC-BY, CC-BY-NC or Sampling+."""

    def entries(self) -> Iterator[Entry | Rejection]:
        """Lists the clips in the order of the tables: train and val interleaved, then eval."""
        splits = selected_splits(self)
        for part, splits_of_part in _PARTS.items():
            if not any(split in splits for split in splits_of_part):
                continue
            table = self.require(f"FSD50K.ground_truth/{part}.csv")
            licences = self._licences(part)
            files = AudioFileIndex([self.require(f"FSD50K.{part}_audio")])
            columns = ("fname", "labels", "split") if part == "dev" else ("fname", "labels")
            for row in read_table(table, columns):
                if isinstance(row, Rejection):
                    yield row
                    continue
                split = row.fields.get("split", part)
                if split in splits or split not in self.expected:  # an unknown split is rejected
                    yield self._clip(row, split, licences, files)

    def _licences(self, part: str) -> dict[str, str]:
        facts = self.root / f"FSD50K.metadata/{part}_clips_info_FSD50K.json"
        if not facts.is_file():
            return {}
        return {fname: licence_name(clip.get("license", "")) for fname, clip in read_json_objects(facts).items()}

    def _clip(self, row: TableRow, split: str, licences: dict[str, str], files: AudioFileIndex) -> Entry | Rejection:
        fname = row.fields["fname"]
        return labelled_clip(
            self,
            files.find(fname),
            id=fname,
            split=split,
            labels=[label("label", name) for name in row.fields["labels"].split(",")],
            where=row.where,
            licence=licences.get(fname, ""),
        )
