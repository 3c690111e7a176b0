"""CREMA-D: twelve sentences spoken by 91 actors with six emotions."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from slap_jax.data.collections.entries import Entry, Rejection
from slap_jax.data.collections.published import Expected, PublishedDataset
from slap_jax.data.datasets.reading import AudioFileIndex, TableRow, label, labelled_clip, list_audio, read_table

_SENTENCES = {
    "IEO": "It's eleven o'clock",
    "TIE": "That is exactly what happened",
    "IOM": "I'm on my way to the meeting",
    "IWW": "I wonder what this is about",
    "TAI": "The airplane is almost full",
    "MTI": "Maybe tomorrow it will be cold",
    "IWL": "I would like a new alarm clock",
    "ITH": "I think I have a doctor's appointment",
    "DFA": "Don't forget a jacket",
    "ITS": "I think I've seen this before",
    "TSI": "The surface is slick",
    "WSI": "We'll stop in a couple of minutes",
}
_EMOTIONS = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
_LEVELS = {"LO": "low", "MD": "medium", "HI": "high", "XX": "unspecified"}

# According to the publisher's README.
_WITHOUT_SOUND = "1076_MTI_SAD_XX"


class CremaD(PublishedDataset):
    """The publisher defines no splits, so all clips are in `full`."""

    name = "crema_d"
    version = "1.0.0"
    title = "CREMA-D"
    homepage = "https://github.com/CheyneyComputerScience/CREMA-D"
    licence = "ODbL-1.0"
    citation = (
        "Cao, Cooper, Keutmann, Gur, Nenkova, Verma: CREMA-D: Crowd-sourced Emotional Multimodal Actors Dataset. "
        "IEEE TAC 5(4), 2014"
    )
    content = "acted sentences"
    annotations = "labels: 6 emotions, 12 sentences, 91 actors"
    expected: ClassVar = {"full": Expected(clips=7_442)}
    size_source = "the publisher's README"
    layout = """\
AudioWAV/<actor>_<sentence>_<emotion>_<level>.wav      the Git LFS files, not the pointers
SentenceFilenames.csv                                  optional: the full list of clips"""
    notes = """\
- Clone the repository with Git LFS; a zip download has only pointers, which are rejected as `unreadable_audio`.
- The publisher defines no splits. Split by actor to test on unknown voices.
- Labels: `label=anger` (`disgust`, `fear`, `happy`, `neutral`, `sad`), `level=unspecified` (`low`, `medium`, `high`),
  `actor=1001`, `sentence=Don't forget a jacket`. There are no captions.
- `1076_MTI_SAD_XX` has no sound, according to the README, and is left out as `excluded_no_sound`. The other faults in
  the README concern MP3 and video files only.
- `1040_ITH_SAD_X` of earlier copies is read as `1040_ITH_SAD_XX`. Other malformed names are rejected as
  `missing_label`.
- With `SentenceFilenames.csv`, missing clips are rejected as `missing_file`; without it, the existing files are
  read."""

    def entries(self) -> Iterator[Entry | Rejection]:
        """Lists the clips in the order of the publisher's table, or by name without one."""
        folder = self.require("AudioWAV")
        files = AudioFileIndex([folder])
        table = self.root / "SentenceFilenames.csv"
        rows = read_table(table, ("Filename",)) if table.is_file() else _rows_of_files(folder)
        for row in rows:
            yield row if isinstance(row, Rejection) else self._clip(row, files)

    def _clip(self, row: TableRow, files: AudioFileIndex) -> Entry | Rejection:
        name = row.fields["Filename"]
        if name == _WITHOUT_SOUND:
            return Rejection(row.where, name, "excluded_no_sound", "the publisher states that this file has no sound")
        # In earlier copies, one file name ends in X instead of XX.
        audio = files.find(name, name.removesuffix("X"))
        return labelled_clip(self, audio, id=name, split="full", labels=_labels(name), where=row.where)


def _rows_of_files(folder: Path) -> Iterator[TableRow]:
    for path in list_audio(folder):
        yield TableRow(f"{folder.name}/{path.name}", {"Filename": re.sub("_X$", "_XX", path.stem)})


def _labels(name: str) -> list[str]:
    """Returns the labels in a clip's name; none if it is malformed."""
    actor, sentence, emotion, level = (name.split("_") + [""] * 4)[:4]
    if sentence not in _SENTENCES or emotion not in _EMOTIONS or level not in _LEVELS:
        return []
    return [
        label("label", _EMOTIONS[emotion]),
        label("level", _LEVELS[level]),
        label("actor", actor),
        label("sentence", _SENTENCES[sentence]),
    ]
