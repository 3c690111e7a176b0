"""AudioCaps: captions of ten-second clips of YouTube videos, a part of AudioSet."""

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

from slap_jax.data.collections.entries import AudioFile, Entry, Rejection
from slap_jax.data.collections.published import Expected, PublishedDataset
from slap_jax.data.datasets.reading import AudioNames, Row, chosen_splits, read_table

_COLUMNS = ("audiocap_id", "youtube_id", "start_time", "caption")


@dataclasses.dataclass
class _Clip:
    where: str
    youtube_id: str
    start: str
    captions: list[str] = dataclasses.field(default_factory=list)
    audiocap_ids: list[str] = dataclasses.field(default_factory=list)


class AudioCaps(PublishedDataset):
    """The first release: one caption of each training clip, five of each validation and test clip."""

    name = "audiocaps"
    version = "1.0.0"
    title = "AudioCaps"
    homepage = "https://github.com/cdjkim/audiocaps"
    licence = "captions: academic use only; audio: of the YouTube videos"
    citation = "Kim, Kim, Lee, Kim: AudioCaps: Generating Captions for Audios in The Wild. NAACL 2019"
    expected: ClassVar = {
        "train": Expected(clips=49_838, captions=1),
        "val": Expected(clips=495, captions=5),
        "test": Expected(clips=975, captions=5),
    }
    layout = """\
train.csv                 or dataset/train.csv, as in a clone of the repository
val.csv
test.csv
audio/<split>/<clip>.wav  or audio/<clip>.wav, or <split>/<clip>.wav; any format
    <clip> is <youtube_id>, <youtube_id>_<start_time>, one of both after a Y, or <audiocap_id>"""
    options: ClassVar = {"splits": "train+val+test"}

    folder: ClassVar[str] = "dataset"  # of the tables in a clone of the repository

    def entries(self) -> Iterator[Entry | Rejection]:
        """Lists the clips of each split in the order of its table; the captions of a clip may stand anywhere in it."""
        for split in chosen_splits(self):
            table = self.require(f"{self.folder}/{split}.csv", f"{split}.csv")
            clips: dict[tuple[str, str], _Clip] = {}
            for row in read_table(table, _COLUMNS):
                if isinstance(row, Rejection):
                    yield row
                else:
                    _collect(row, clips)
            folders = (f"audio/{split}", split, "audio")
            self.require(*folders)
            files = AudioNames([self.root / folder for folder in folders])
            for clip in clips.values():
                yield self._entry(clip, split, files)

    def _entry(self, clip: _Clip, split: str, files: AudioNames) -> Entry | Rejection:
        # Both releases name the same recordings, which must be known as such: hence one source, and ids of the video.
        clip_id = f"{clip.youtube_id}_{clip.start}"
        captions = tuple(caption for caption in clip.captions if caption)
        if not captions:
            return Rejection(clip.where, clip_id, "empty_caption", "every caption is empty; expected one with words")
        stems = (clip.youtube_id, f"Y{clip.youtube_id}", clip_id, f"Y{clip_id}", *clip.audiocap_ids)
        audio = files.find(*stems)
        if audio is None:
            detail = f"no audio file is named {', '.join(stems[:5])}; videos vanish: leave it out, or add the file"
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
    """The release of 2025: more training clips; the validation and test clips of the first release."""

    name = "audiocaps2"
    version = "2.0.0"
    title = "AudioCaps 2.0"
    homepage = "https://github.com/cdjkim/audiocaps/tree/master/dataset2.0"
    expected: ClassVar = {
        "train": Expected(clips=91_256, captions=1),
        "val": Expected(clips=495, captions=5),
        "test": Expected(clips=975, captions=5),
    }
    layout = AudioCaps.layout.replace("dataset/", "dataset2.0/")

    folder = "dataset2.0"


def _collect(row: Row, clips: dict[tuple[str, str], _Clip]) -> None:
    youtube_id, start = row.fields["youtube_id"].strip(), row.fields["start_time"].strip()
    clip = clips.setdefault((youtube_id, start), _Clip(row.where, youtube_id, start))
    clip.captions.append(row.fields["caption"].strip())
    clip.audiocap_ids.append(row.fields["audiocap_id"].strip())
