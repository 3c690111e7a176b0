"""RAVDESS: two sentences spoken and sung by 24 actors with up to eight emotions."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from slap_jax.data.collections.entries import Entry, Rejection
from slap_jax.data.collections.published import Expected, LayoutError, PublishedDataset
from slap_jax.data.datasets.reading import label, labelled_clip, list_audio, selected_splits, walk_folders

_AUDIO_ONLY = "03-"  # videos by the publisher have names of the same form
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
    """The only splits are speech and song."""

    name = "ravdess"
    version = "1.0.0"
    title = "RAVDESS"
    homepage = "https://zenodo.org/records/1188976"
    licence = "CC-BY-NC-SA-4.0"
    citation = (
        "Livingstone, Russo: The Ryerson Audio-Visual Database of Emotional Speech and Song. PLoS ONE 13(5), 2018"
    )
    content = "acted sentences and songs"
    annotations = "labels: 8 emotions, 2 sentences, 24 actors"
    expected: ClassVar = {"speech": Expected(clips=1_440), "song": Expected(clips=1_012)}
    size_source = "the publisher's page"
    layout = """\
Actor_<01 to 24>/03-01-<emotion>-<intensity>-<statement>-<repetition>-<actor>.wav
Actor_<01 to 24>/03-02-...wav                  songs, in the same folders or elsewhere; none by actor 18"""
    options: ClassVar = {"splits": "speech"}
    option_help: ClassVar = {"splits": "`speech+song` adds the songs"}
    notes = """\
- Download `Audio_Speech_Actors_01-24.zip`, and `Audio_Song_Actors_01-24.zip` for the songs.
- There are no other splits. Split by actor to test on unknown voices.
- Labels: `label=neutral` (`calm`, `happy`, `sad`, `angry`, `fearful`, `disgust`, `surprised`), `intensity=normal`
  (`strong`), `statement=Kids are talking by the door`, `repetition=1`, `actor=01` (odd actors are male). There are no
  captions.
- Actor 18 did not sing; no song expresses disgust or surprise.
- If a copy has a file twice, the first is read. The publisher's videos are ignored. Malformed names are rejected as
  `missing_label` or `bad_field`."""

    def entries(self) -> Iterator[Entry | Rejection]:
        """Lists the clips by folder and name."""
        splits = selected_splits(self)
        folders = [folder for folder in walk_folders(self.root) if folder.name.startswith("Actor_")]
        if not folders:
            raise LayoutError(f"{self.root} has no folder Actor_01; {self.title} is laid out as\n{self.layout}")
        clips: dict[str, Path] = {}  # some copies have every file in two folders
        for path in (path for folder in folders for path in list_audio(folder)):
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
