"""Clotho 2.1: Freesound recordings of 15 to 30 s with five human captions each."""

from collections.abc import Iterator
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

_CAPTIONS = tuple(f"caption_{number}" for number in range(1, 6))


class Clotho(PublishedDataset):
    """Train on `development`; papers report results on `evaluation`."""

    name = "clotho"
    version = "2.1.0"
    title = "Clotho"
    homepage = "https://zenodo.org/records/4783391"
    licence = "captions: Tampere University licence, non-commercial; audio: Creative Commons, one licence per clip"
    citation = "Drossos, Lipping, Virtanen: Clotho: an Audio Captioning Dataset. ICASSP 2020"
    content = "15 to 30 s recordings from Freesound"
    annotations = "5 human captions"
    expected: ClassVar = {
        "development": Expected(clips=3_839, captions=5),
        "validation": Expected(clips=1_045, captions=5),
        "evaluation": Expected(clips=1_045, captions=5),
    }
    size_source = "counted in the tables; the publisher's page says 3,840 and 1,046"
    layout = """\
clotho_captions_development.csv
clotho_captions_validation.csv
clotho_captions_evaluation.csv
clotho_metadata_development.csv
clotho_metadata_validation.csv
clotho_metadata_evaluation.csv
development/<file_name>          from clotho_audio_development.7z
validation/<file_name>           from clotho_audio_validation.7z
evaluation/<file_name>           from clotho_audio_evaluation.7z"""
    options: ClassVar = {"splits": "development+validation+evaluation"}
    option_help: ClassVar = {"splits": "only the files of these splits are required"}
    notes = """\
- Train on `development`; results are reported on `evaluation`.
- Some file names begin or end with a space, or contain two in a row. They are used as they are. If an archive program
  changed spaces or colons, the file is still found, unless two files match.
- Four names occur in two splits as different recordings, so the id is `<split>/<file_name>`.
- The metadata files are ISO-8859-1, not UTF-8.
- Captions are stripped; empty ones, which some copies have, are dropped. Keywords become labels, `tag=...`.
- Each record has the licence of its clip."""

    def entries(self) -> Iterator[Entry | Rejection]:
        """Lists the clips of each split in the order of its table of captions."""
        for split in selected_splits(self):
            captions = self.require(f"clotho_captions_{split}.csv")
            metadata = self.require(f"clotho_metadata_{split}.csv")
            # The metadata contain bytes such as 0xC1 that are not UTF-8.
            facts = read_grouped_table(metadata, "file_name", ("keywords", "license"), encoding="latin-1")
            files = AudioFileIndex([self.require(split)])
            for row in read_table(captions, ("file_name", *_CAPTIONS)):
                yield row if isinstance(row, Rejection) else self._entry(row, split, facts, files)

    def _entry(
        self, row: TableRow, split: str, facts: dict[str, list[dict[str, str]]], files: AudioFileIndex
    ) -> Entry | Rejection:
        # Names are not stripped: some begin or end with a space. Some occur in two splits as different recordings.
        file_name = row.fields["file_name"]
        clip_id = f"{split}/{file_name}"
        captions = tuple(caption for column in _CAPTIONS if (caption := row.fields[column].strip()))
        if not captions:
            return Rejection(row.where, clip_id, "empty_caption", "all five captions are empty; expected text")
        audio = files.find(file_name.removesuffix(".wav"))
        if audio is None:
            detail = f"{split}/ has no {file_name!r}; extract clotho_audio_{split}.7z again"
            return Rejection(row.where, clip_id, "missing_file", detail)
        known = facts.get(file_name, [{}])[0]
        keywords = (keyword.strip() for keyword in known.get("keywords", "").split(";"))
        return Entry(
            id=clip_id,
            audio=AudioFile(audio),
            captions=captions,
            split=split,
            labels=tuple(f"tag={keyword}" for keyword in keywords if keyword),
            source=self.name,
            caption_source="people",
            licence=licence_name(known.get("license", "")),
            where=row.where,
        )
