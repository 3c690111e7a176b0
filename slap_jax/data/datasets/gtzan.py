"""GTZAN: 30-second excerpts of 1,000 pieces of music in 10 genres."""

from collections.abc import Iterator
from typing import ClassVar

from slap_jax.data.collections.entries import Entry, Rejection
from slap_jax.data.collections.published import Expected, PublishedDataset
from slap_jax.data.datasets.reading import AudioFileIndex, label, labelled_clip, read_lines, selected_splits

_GENRES = ("blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock")
_CLIPS_OF_GENRE = 100


class Gtzan(PublishedDataset):
    """The publisher defines no splits, so all clips are in `full`; `train+valid+test` is the fault-filtered split.

    The fault-filtered split (Kereliuk, Sturm, Larsen: Deep Learning and Music Adversaries, 2015) leaves out distorted
    and repeated clips and keeps each artist in one part.
    """

    name = "gtzan"
    version = "1.0.0"
    title = "GTZAN"
    homepage = "https://www.kaggle.com/datasets/andradaolteanu/gtzan-dataset-music-genre-classification"
    licence = "none given by the publisher"
    citation = "Tzanetakis, Cook: Musical Genre Classification of Audio Signals. IEEE TSAP 10(5), 2002"
    content = "30 s excerpts of music"
    annotations = "1 label from 10 genres"
    expected: ClassVar = {
        "full": Expected(clips=len(_GENRES) * _CLIPS_OF_GENRE),
        "train": Expected(clips=443),
        "valid": Expected(clips=197),
        "test": Expected(clips=290),
    }
    size_source = "lines of the three lists in <https://github.com/coreyker/dnn-mgr/tree/master/gtzan>"
    layout = """\
genres_original/<genre>/<genre>.<00000 to 00099>.wav     or genres/..., or Data/genres_original/...; also .au
train_filtered.txt       these three, from https://github.com/coreyker/dnn-mgr, only for splits=train+valid+test
valid_filtered.txt
test_filtered.txt"""
    options: ClassVar = {"splits": "full"}
    option_help: ClassVar = {"splits": "`full`, or some of `train+valid+test`"}
    notes = """\
- The original site is gone; the homepage above is a well-known copy.
- `splits=train+valid+test` is the fault-filtered split (Kereliuk, Sturm, Larsen, *Deep Learning and Music
  Adversaries*, 2015). It leaves out distorted and repeated clips and keeps each artist in one part. Put its three
  lists into the folder.
- Labels look like `label=blues`. There are no captions.
- `jazz.00054` cannot be decoded in that copy and is rejected as `unreadable_audio`; the fault-filtered `train` lists
  it.
- The `._` files that macOS left in some copies are ignored."""

    def entries(self) -> Iterator[Entry | Rejection]:
        """Lists the clips by genre and number, and fault-filtered splits in the order of their lists."""
        folder = self.require("genres_original", "genres", "Data/genres_original")
        files = AudioFileIndex([folder / genre for genre in _GENRES])
        for split in selected_splits(self):
            for where, stem in self._numbered() if split == "full" else self._filtered(split):
                genre = stem.partition(".")[0]
                labels = [label("label", genre)] if genre in _GENRES else []
                yield labelled_clip(self, files.find(stem), id=stem, split=split, labels=labels, where=where)

    def _numbered(self) -> Iterator[tuple[str, str]]:
        for genre in _GENRES:
            for number in range(_CLIPS_OF_GENRE):
                yield f"{genre}/{number}", f"{genre}.{number:05d}"

    def _filtered(self, split: str) -> Iterator[tuple[str, str]]:
        for where, name in read_lines(self.require(f"{split}_filtered.txt")):
            yield where, name.rpartition("/")[2].removesuffix(".wav")
