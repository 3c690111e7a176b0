"""MACS: ten-second urban soundscapes with several human captions each."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from slap_jax.data.collections.entries import AudioFile, Entry, Rejection
from slap_jax.data.collections.published import Expected, LayoutError, PublishedDataset
from slap_jax.data.datasets.reading import AudioFileIndex, read_grouped_table, refuse_pointer


class Macs(PublishedDataset):
    """Two to five captions per clip."""

    name = "macs"
    version = "1.0.0"
    title = "MACS, Multi-Annotator Captioned Soundscapes"
    homepage = "https://zenodo.org/records/5114771"
    licence = "captions and audio (TAU Urban Acoustic Scenes 2019): Tampere University licences, non-commercial"
    citation = "Martín-Morató, Mesaros: Diversity and bias in audio captioning datasets. DCASE Workshop 2021"
    content = "10 s recordings of airports, parks and squares"
    annotations = "2 to 5 human captions"
    expected: ClassVar = {"train": Expected(clips=3_930, captions=2, hours=10.9)}
    size_source = "clips: the publisher's page; captions per clip: the documentation of aac-datasets"
    layout = """\
MACS.yaml
MACS_competence.csv      optional: orders captions by the competence of their annotators
audio/<filename>         from TAU Urban Acoustic Scenes 2019, development (https://zenodo.org/records/2589280)
    or TAU-urban-acoustic-scenes-2019-development/audio/<filename>"""
    notes = """\
- TAU has 14,400 files from ten scenes. Those that MACS does not describe are reported as files that no clip names.
- Labels: `scene=public square`, `city=paris`, and the tags of the annotators, `tag=birds singing`.
- Annotators without a sentence are skipped; a clip without any sentence is rejected as `empty_caption`."""

    def entries(self) -> Iterator[Entry | Rejection]:
        """Lists the clips in the order of MACS.yaml."""
        captions = self.require("MACS.yaml")
        competences = self._competences()
        files = AudioFileIndex([self.require("audio", "TAU-urban-acoustic-scenes-2019-development/audio")])
        for number, item in enumerate(_items(captions)):
            yield self._entry(f"MACS.yaml:files[{number}]", item, competences, files)

    def _entry(self, where: str, item: Any, competences: dict[str, float], files: AudioFileIndex) -> Entry | Rejection:
        annotations = item.get("annotations") if isinstance(item, dict) else None
        if not isinstance(annotations, list) or not all(isinstance(annotation, dict) for annotation in annotations):
            return Rejection(where, "", "bad_field", f"expected filename and annotations, found {str(item)[:80]}")
        file_name = str(item.get("filename", "")).strip()
        annotations = sorted(
            annotations, key=lambda annotation: -competences.get(str(annotation.get("annotator_id")), 0.0)
        )
        sentences = (str(annotation.get("sentence") or "").strip() for annotation in annotations)
        captions = tuple(sentence for sentence in sentences if sentence)
        if not captions:
            return Rejection(where, file_name, "empty_caption", "no annotator wrote a sentence; expected at least one")
        audio = files.find(Path(file_name).stem)
        if audio is None:
            detail = f"there is no audio file {file_name}; extract the TAU Urban Acoustic Scenes 2019 archives again"
            return Rejection(where, file_name, "missing_file", detail)
        # <scene>-<city>-<location>-<segment>-<device>.wav
        scene, city = (*file_name.split("-"), "")[:2]
        tags = dict.fromkeys(str(tag) for annotation in annotations for tag in annotation.get("tags") or ())
        return Entry(
            id=file_name,
            audio=AudioFile(audio),
            captions=captions,
            split="train",
            labels=tuple(
                f"{key}={value.replace('_', ' ').strip()}"
                for key, value in (("scene", scene), ("city", city), *(("tag", tag) for tag in tags))
            ),
            source=self.name,
            caption_source="people",
            licence=self.licence,
            where=where,
        )

    def _competences(self) -> dict[str, float]:
        """Returns annotator -> competence from 0 (random answers) to 1."""
        path = self.root / "MACS_competence.csv"
        if not path.is_file():
            return {}
        rows = read_grouped_table(path, "annotator_id", ("competence",), delimiter="\t")
        try:
            return {annotator: float(row["competence"]) for annotator, (row, *_) in rows.items()}
        except ValueError as error:
            raise LayoutError(f"{path} has a competence that is not a number ({error}); download it again") from error


def _items(path: Path) -> list[Any]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml takes a second, the pure Python loader 30
    refuse_pointer(path)
    try:
        with path.open(encoding="utf-8") as file:
            content = yaml.load(file, Loader=loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise LayoutError(f"{path} is not YAML ({' '.join(str(error).split())}); download it again") from error
    items = content.get("files") if isinstance(content, dict) else None
    if not isinstance(items, list):
        raise LayoutError(f"{path} has no list `files`; expected files: [{{filename, annotations}}, ...]")
    return items
