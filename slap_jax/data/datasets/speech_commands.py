"""Speech Commands V2: single words of at most one second by thousands of speakers, in 35 classes."""

from collections.abc import Collection, Iterator, Sequence
from typing import ClassVar

from slap_jax.data.collections.entries import Entry, Rejection
from slap_jax.data.collections.published import Expected, PublishedDataset
from slap_jax.data.datasets.reading import AudioFileIndex, label, labelled_clip, list_audio, read_lines, selected_splits

_WORDS = (
    *("backward", "bed", "bird", "cat", "dog", "down", "eight", "five", "follow", "forward", "four", "go", "happy"),
    *("house", "learn", "left", "marvin", "nine", "no", "off", "on", "one", "right", "seven", "sheila", "six", "stop"),
    *("three", "tree", "two", "up", "visual", "wow", "yes", "zero"),
)
_LISTS = {"valid": "validation_list.txt", "test": "testing_list.txt"}

# The separate test archive: ten commands, other words, and background noise.
_COMMANDS_FOLDER = "speech_commands_test_set_v0.02"
_COMMANDS = ("_silence_", "_unknown_", "down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes")


class SpeechCommands(PublishedDataset):
    """All recordings of a speaker are in one split. `test_12` is the separate test archive."""

    name = "speech_commands"
    version = "2.0.0"
    title = "Speech Commands V2"
    homepage = "https://download.tensorflow.org/data/speech_commands_v0.02.tar.gz"
    licence = "CC-BY-4.0"
    citation = "Warden: Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition. arXiv 1804.03209, 2018"
    content = "single words of up to 1 s"
    annotations = "1 label from 35 words"
    expected: ClassVar = {
        "train": Expected(clips=84_843),
        "valid": Expected(clips=9_981),
        "test": Expected(clips=11_005),
        "test_12": Expected(clips=4_890),
    }
    size_source = "the publisher's README (105,829) minus the lines of its two lists; test_12: TFDS"
    layout = f"""\
validation_list.txt
testing_list.txt
<word>/<speaker>_nohash_<number>.wav
_background_noise_/                              ignored
{_COMMANDS_FOLDER}/<word>/*.wav      only for splits=...+test_12"""
    options: ClassVar = {"splits": "train+valid+test"}
    option_help: ClassVar = {"splits": "may also name `test_12`"}
    notes = """\
- `valid` and `test` are the clips in the two lists, `train` is the rest. A listed clip without a file is rejected as
  `missing_file`.
- `test_12` is the separate archive `speech_commands_test_set_v0.02.tar.gz`: ten commands, `unknown` and `silence`.
  Extract it to the folder shown above. It may share clips with `test`, so report only one of them.
- Labels look like `label=right`. There are no captions."""

    def entries(self) -> Iterator[Entry | Rejection]:
        """Lists the training clips by word and name, and the other splits in the order of their lists."""
        splits = selected_splits(self)
        if "train" in splits:
            listed = {name for split in _LISTS for _, name in self._listed(split)}
            yield from self._in_folders("train", "", _WORDS, leave_out=listed)
        for split in _LISTS:
            if split in splits:
                yield from self._in_list(split)
        if "test_12" in splits:
            self.require(_COMMANDS_FOLDER)
            yield from self._in_folders("test_12", f"{_COMMANDS_FOLDER}/", _COMMANDS)

    def _in_folders(
        self, split: str, parent: str, words: Sequence[str], leave_out: Collection[str] = ()
    ) -> Iterator[Entry | Rejection]:
        for word in words:
            for path in list_audio(self.root / f"{parent}{word}"):
                clip_id = f"{parent}{word}/{path.stem}"
                if clip_id not in leave_out:
                    where = f"{parent}{word}/{path.name}"
                    yield labelled_clip(self, path, id=clip_id, split=split, labels=[label("label", word)], where=where)

    def _in_list(self, split: str) -> Iterator[Entry | Rejection]:
        files = {word: AudioFileIndex([self.root / word]) for word in _WORDS}  # the same name may occur in every folder
        for where, clip_id in self._listed(split):
            word, _, stem = clip_id.partition("/")
            audio = files[word].find(stem) if word in files else None
            yield labelled_clip(self, audio, id=clip_id, split=split, labels=[label("label", word)], where=where)

    def _listed(self, split: str) -> Iterator[tuple[str, str]]:
        for where, name in read_lines(self.require(_LISTS[split])):
            yield where, name.removesuffix(".wav")
