"""NSynth: four-second notes of 1,006 instruments in 11 families."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from slap_jax.data.collections.entries import Entry, Rejection
from slap_jax.data.collections.published import Expected, LayoutError, PublishedDataset
from slap_jax.data.datasets.reading import AudioFileIndex, label, labelled_clip, read_json_objects, selected_splits

_LABELS = {
    "label": "instrument_family_str",
    "source": "instrument_source_str",
    "pitch": "pitch",
    "velocity": "velocity",
}


class NSynth(PublishedDataset):
    """No instrument occurs both in `train` and in another split."""

    name = "nsynth"
    version = "1.0.0"
    title = "NSynth"
    homepage = "https://magenta.tensorflow.org/datasets/nsynth"
    licence = "CC-BY-4.0"
    citation = "Engel et al.: Neural Audio Synthesis of Musical Notes with WaveNet Autoencoders. ICML 2017"
    content = "4 s notes of 1,006 instruments"
    annotations = "labels: 11 instrument families, pitch, velocity, qualities"
    expected: ClassVar = {
        "train": Expected(clips=289_205),
        "valid": Expected(clips=12_678),
        "test": Expected(clips=4_096),
    }
    size_source = "the publisher's page"
    layout = """\
nsynth-<split>/examples.json
nsynth-<split>/audio/<note>.wav       <split> is train, valid or test"""
    options: ClassVar = {"splits": "train+valid+test"}
    option_help: ClassVar = {"splits": "only the folders of these splits are required"}
    notes = """\
- Download the three `.jsonwav.tar.gz` archives and extract them into one folder.
- Labels: `label=guitar` (the instrument family), `source=acoustic`, `pitch=64` and `velocity=75` (MIDI numbers), and
  one `quality=fast decay` per quality. There are no captions.
- `valid` and `test` have no `synth lead`."""

    def entries(self) -> Iterator[Entry | Rejection]:
        """Lists the notes of each split in the order of its `examples.json`."""
        for split in selected_splits(self):
            examples = self.require(f"nsynth-{split}/examples.json")
            files = AudioFileIndex([self.require(f"nsynth-{split}/audio")])
            for note, facts in read_json_objects(examples).items():
                where = f"nsynth-{split}/examples.json:{note}"
                yield labelled_clip(
                    self, files.find(note), id=note, split=split, labels=_labels(facts, where), where=where
                )


def _labels(facts: Mapping[str, Any], where: str) -> list[str]:
    missing = [field for field in _LABELS.values() if field not in facts]
    if missing:
        raise LayoutError(
            f"{where} has no {missing[0]!r}; expected {', '.join(_LABELS.values())}: use the file as published"
        )
    labels = [label(key, str(facts[field])) for key, field in _LABELS.items()]
    return labels + [label("quality", quality) for quality in facts.get("qualities_str", ())]
