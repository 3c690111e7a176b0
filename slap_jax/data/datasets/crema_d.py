"""CREMA-D: twelve sentences spoken by 91 actors in six emotions."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from slap_jax.data.collections.entries import Entry, Rejection
from slap_jax.data.collections.published import Expected, PublishedDataset
from slap_jax.data.datasets.reading import AudioNames, Row, audio_in, label, labelled_clip, read_table

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

# The publisher's README says so of this one file of AudioWAV.
_WITHOUT_SOUND = "1076_MTI_SAD_XX"


class CremaD(PublishedDataset):
    """The publisher has no splits: all clips are `full`. Split by actor to test on unknown voices."""

    name = "crema_d"
    version = "1.0.0"
    title = "CREMA-D"
    homepage = "https://github.com/CheyneyComputerScience/CREMA-D"
    licence = "ODbL-1.0"
    citation = (
        "Cao, Cooper, Keutmann, Gur, Nenkova, Verma: CREMA-D: Crowd-sourced Emotional Multimodal Actors Dataset. "
        "IEEE TAC 5(4), 2014"
    )
    expected: ClassVar = {"full": Expected(clips=7_442)}  # the publisher's README
    layout = """\
AudioWAV/<actor>_<sentence>_<emotion>_<level>.wav      the files of Git LFS, not the pointers to them
SentenceFilenames.csv                                  tells which clips are missing; may be absent"""

    def entries(self) -> Iterator[Entry | Rejection]:
        """Lists the clips in the order of the publisher's table, or by name where there is none."""
        folder = self.require("AudioWAV")
        files = AudioNames([folder])
        table = self.root / "SentenceFilenames.csv"
        rows = read_table(table, ("Filename",)) if table.is_file() else _rows_of_files(folder)
        for row in rows:
            yield row if isinstance(row, Rejection) else self._clip(row, files)

    def _clip(self, row: Row, files: AudioNames) -> Entry | Rejection:
        name = row.fields["Filename"]
        if name == _WITHOUT_SOUND:
            return Rejection(row.where, name, "excluded_no_sound", "the publisher says that this file has no sound")
        # Earlier copies have one file that ends in X instead of XX.
        audio = files.find(name, name.removesuffix("X"))
        return labelled_clip(self, audio, id=name, split="full", labels=_labels(name), where=row.where)


def _rows_of_files(folder: Path) -> Iterator[Row]:
    for path in audio_in(folder):
        yield Row(f"{folder.name}/{path.name}", {"Filename": re.sub("_X$", "_XX", path.stem)})


def _labels(name: str) -> list[str]:
    """Reads the name of a clip; none of another form."""
    actor, sentence, emotion, level = (name.split("_") + [""] * 4)[:4]
    if sentence not in _SENTENCES or emotion not in _EMOTIONS or level not in _LEVELS:
        return []
    return [
        label("label", _EMOTIONS[emotion]),
        label("level", _LEVELS[level]),
        label("actor", actor),
        label("sentence", _SENTENCES[sentence]),
    ]
