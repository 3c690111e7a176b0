"""RAVDESS: two sentences spoken, and sung, by 24 actors in up to eight emotions."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from slap_jax.data.collections.entries import Entry, Rejection
from slap_jax.data.collections.published import Expected, LayoutError, PublishedDataset
from slap_jax.data.datasets.reading import audio_in, chosen_splits, folders_below, label, labelled_clip

_AUDIO_ONLY = "03-"  # the publisher has videos too, with names of the same form
_CHANNELS = {"01": "speech", "02": "song"}
_EMOTIONS = {
    "01": "neutral",
    "02": "calm",
    "03": "happy",
    "04": "sad",
    "05": "angry",
    "06": "fearful",
    "07": "disgust",
    "08": "surprised",
}
_INTENSITIES = {"01": "normal", "02": "strong"}
_STATEMENTS = {"01": "Kids are talking by the door", "02": "Dogs are sitting by the door"}


class Ravdess(PublishedDataset):
    """The publisher has no splits but what is spoken and what is sung. Split by actor to test on unknown voices."""

    name = "ravdess"
    version = "1.0.0"
    title = "RAVDESS"
    homepage = "https://zenodo.org/records/1188976"
    licence = "CC-BY-NC-SA-4.0"
    citation = (
        "Livingstone, Russo: The Ryerson Audio-Visual Database of Emotional Speech and Song. PLoS ONE 13(5), 2018"
    )
    expected: ClassVar = {"speech": Expected(clips=1_440), "song": Expected(clips=1_012)}  # the publisher's page
    layout = """\
Actor_<01 to 24>/03-01-<emotion>-<intensity>-<statement>-<repetition>-<actor>.wav
Actor_<01 to 24>/03-02-...wav                  the songs, in the same folders or in others; none of actor 18"""
    options: ClassVar = {"splits": "speech"}

    def entries(self) -> Iterator[Entry | Rejection]:
        """Lists the clips by folder and name."""
        splits = chosen_splits(self)
        folders = [folder for folder in folders_below(self.root) if folder.name.startswith("Actor_")]
        if not folders:
            raise LayoutError(f"{self.root} has no folder Actor_01; {self.title} is laid out as\n{self.layout}")
        clips: dict[str, Path] = {}  # some copies hold every file twice, in two folders
        for path in (path for folder in folders for path in audio_in(folder)):
            if path.name.startswith(_AUDIO_ONLY):
                clips.setdefault(path.stem, path)
        for path in clips.values():
            clip = self._clip(path)
            if isinstance(clip, Rejection) or clip.split in splits:
                yield clip

    def _clip(self, path: Path) -> Entry | Rejection:
        where = str(path.relative_to(self.root))
        parts = (path.stem.split("-") + [""] * 7)[:7]
        _, channel, emotion, intensity, statement, repetition, actor = parts
        labels = [
            label("label", _EMOTIONS.get(emotion, "")),
            label("intensity", _INTENSITIES.get(intensity, "")),
            label("statement", _STATEMENTS.get(statement, "")),
            label("repetition", repetition.lstrip("0")),
            label("actor", actor),
        ]
        split = _CHANNELS.get(channel, channel)
        return labelled_clip(self, path, id=path.stem, split=split, labels=labels, where=where)
