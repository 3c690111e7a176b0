"""AudioCaps: captioned ten-second clips of YouTube videos, a subset of AudioSet."""

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

from slap_jax.data.collections.entries import AudioFile, Entry, Rejection
from slap_jax.data.collections.published import Expected, PublishedDataset
from slap_jax.data.datasets.reading import AudioFileIndex, TableRow, read_table, selected_splits

_COLUMNS = ("audiocap_id", "youtube_id", "start_time", "caption")


@dataclasses.dataclass
class _Clip:
    where: str
    youtube_id: str
    start: str
    captions: list[str] = dataclasses.field(default_factory=list)
    audiocap_ids: list[str] = dataclasses.field(default_factory=list)


class AudioCaps(PublishedDataset):
    """The first release: one caption per training clip, five per validation and test clip."""

    name = "audiocaps"
    version = "1.0.0"
    title = "AudioCaps"
    homepage = "https://github.com/cdjkim/audiocaps"
    licence = "captions: academic use only; audio: of the YouTube videos"
    citation = "Kim, Kim, Lee, Kim: AudioCaps: Generating Captions for Audios in The Wild. NAACL 2019"
    content = "10 s clips of YouTube videos"
    annotations = "1 or 5 human captions"
    expected: ClassVar = {
        "train": Expected(clips=49_838, captions=1),
        "val": Expected(clips=495, captions=5),
        "test": Expected(clips=975, captions=5),
    }
    size_source = "counted in the tables; the repository's README agrees"
    layout = """\
train.csv                 or dataset/train.csv, as in a clone of the repository
val.csv
test.csv
audio/<split>/<clip>.wav  or audio/<clip>.wav, or <split>/<clip>.wav; any format
    <clip> is <youtube_id>, <youtube_id>_<start_time>, either of them prefixed with Y, or <audiocap_id>"""
    options: ClassVar = {"splits": "train+val+test"}
    option_help: ClassVar = {"splits": "only the tables of these splits are required"}
    notes = """\
- The repository has the tables. Request the audio there, or download the videos yourself.
- **Videos vanish.** A clip without audio is rejected as `missing_file`. Run `slap data check` to count them, pass
  that number as `--max-rejected`, and report the number of test clips with every result: the WavCaps authors had 957
  of 975.
- The captions of one clip are not adjacent in the table. They are gathered in table order.
- 97 test clips and 73 validation clips have the same caption twice. Both are kept, so retrieval has 4,875 queries.
  Some captions belong to many clips ("A man speaking" to 80).
- The id is `<youtube_id>_<start_time>`."""

    tables_folder: ClassVar[str] = "dataset"  # in a clone of the repository

    def entries(self) -> Iterator[Entry | Rejection]:
        """Lists the clips of each split in the order of their first captions in the table."""
        for split in selected_splits(self):
            table = self.require(f"{self.tables_folder}/{split}.csv", f"{split}.csv")
            clips: dict[tuple[str, str], _Clip] = {}
            for row in read_table(table, _COLUMNS):
                if isinstance(row, Rejection):
                    yield row
                else:
                    _collect(row, clips)
            folders = (f"audio/{split}", split, "audio")
            self.require(*folders)
            files = AudioFileIndex([self.root / folder for folder in folders])
            for clip in clips.values():
                yield self._entry(clip, split, files)

    def _entry(self, clip: _Clip, split: str, files: AudioFileIndex) -> Entry | Rejection:
        # Both releases share recordings, which need equal keys: hence one source, and ids made from the video.
        clip_id = f"{clip.youtube_id}_{clip.start}"
        captions = tuple(caption for caption in clip.captions if caption)
        if not captions:
            return Rejection(clip.where, clip_id, "empty_caption", "all captions are empty; expected text")
        stems = (clip.youtube_id, f"Y{clip.youtube_id}", clip_id, f"Y{clip_id}", *clip.audiocap_ids)
        audio = files.find(*stems)
        if audio is None:
            detail = f"no audio file is named {', '.join(stems[:5])}; add it, or leave out a clip whose video is gone"
            return Rejection(clip.where, clip_id, "missing_file", detail)
        return Entry(
            id=clip_id,
            audio=AudioFile(audio),
            captions=captions,
            split=split,
            source=AudioCaps.name,
            caption_source="people",
            licence=self.licence,
            where=clip.where,
        )


class AudioCaps2(AudioCaps):
    """The release of 2025: more training clips, with the validation and test clips of the first release."""

    name = "audiocaps2"
    version = "2.0.0"
    title = "AudioCaps 2.0"
    homepage = "https://github.com/cdjkim/audiocaps/tree/master/dataset2.0"
    content = "AudioCaps with about twice the training clips"
    expected: ClassVar = {
        "train": Expected(clips=91_256, captions=1),
        "val": Expected(clips=495, captions=5),
        "test": Expected(clips=975, captions=5),
    }
    size_source = "the repository's README, which counts captions: 2,475 in val, 4,875 in test"
    layout = AudioCaps.layout.replace("dataset/", "dataset2.0/")
    notes = """\
- Validation and test clips are those of the first release; their captions are now in lower case.
- Records keep the `source` and the ids of [`audiocaps`](#audiocaps), so that a recording in both releases has one
  key.
- See [`audiocaps`](#audiocaps) for everything else."""

    tables_folder = "dataset2.0"


def _collect(row: TableRow, clips: dict[tuple[str, str], _Clip]) -> None:
    youtube_id, start = row.fields["youtube_id"].strip(), row.fields["start_time"].strip()
    clip = clips.setdefault((youtube_id, start), _Clip(row.where, youtube_id, start))
    clip.captions.append(row.fields["caption"].strip())
    clip.audiocap_ids.append(row.fields["audiocap_id"].strip())
