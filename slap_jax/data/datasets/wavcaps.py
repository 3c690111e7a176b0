"""WavCaps: 400,000 clips from four sources with captions that ChatGPT made from raw descriptions."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from slap_jax.data.collections.entries import AudioFile, Entry, Rejection
from slap_jax.data.collections.published import Expected, LayoutError, PublishedDataset
from slap_jax.data.datasets.reading import NOTHING, parse_selection, read_json_list, refuse_pointer, selected_splits

# Source -> its file of captions.
_SOURCES = {
    "AudioSet_SL": "as_final.json",
    "BBC_Sound_Effects": "bbc_final.json",
    "FreeSound": "fsd_final.json",
    "SoundBible": "sb_final.json",
}

# The publisher's lists of clips that overlap evaluation sets: option value -> file, key in the file, source.
_EXCLUSIONS = {
    "audiocaps_test": ("blacklist_exclude_test_ac.json", "AudioSet", "AudioSet_SL"),
    "audiocaps": ("blacklist_exclude_all_ac.json", "AudioSet", "AudioSet_SL"),
    "clotho_test": ("blacklist_exclude_test_ac.json", "FreeSound", "FreeSound"),
    "clotho": ("blacklist_exclude_all_ac.json", "FreeSound", "FreeSound"),
    "esc50_urbansound8k": ("blacklist_exclude_ub8k_esc50_vggsound.json", "FreeSound", "FreeSound"),
    "vggsound": ("blacklist_exclude_ub8k_esc50_vggsound.json", "AudioSet", "AudioSet_SL"),
}

# Prefix of the paths in the archives.
_ARCHIVE_FOLDER = "mnt/fast/nobackup/scratch4weeks/xm00178/WavCaps/data/waveforms"


class WavCaps(PublishedDataset):
    """For training only: one caption per clip; each source is a split."""

    name = "wavcaps"
    version = "1.0.0"
    title = "WavCaps"
    homepage = "https://huggingface.co/datasets/cvssp/WavCaps"
    licence = "academic use only; audio: of AudioSet's videos, BBC Sound Effects, Freesound and SoundBible"
    citation = (
        "Mei et al.: WavCaps: A ChatGPT-Assisted Weakly-Labelled Audio Captioning Dataset for Audio-Language "
        "Multimodal Research. TASLP 2024"
    )
    content = "clips from four sources, up to minutes long"
    annotations = "1 generated caption"
    expected: ClassVar = {
        "AudioSet_SL": Expected(clips=108_317, captions=1, hours=301),
        "BBC_Sound_Effects": Expected(clips=31_201, captions=1, hours=997),
        "FreeSound": Expected(clips=262_300, captions=1, hours=6_265),
        "SoundBible": Expected(clips=1_232, captions=1, hours=4.5),
    }
    size_source = "the publisher's page (403,050 clips); hours from the mean durations there"
    layout = f"""\
json_files/AudioSet_SL/as_final.json
json_files/BBC_Sound_Effects/bbc_final.json
json_files/FreeSound/fsd_final.json
json_files/SoundBible/sb_final.json
json_files/blacklist/blacklist_exclude_test_ac.json
json_files/blacklist/blacklist_exclude_all_ac.json
json_files/blacklist/blacklist_exclude_ub8k_esc50_vggsound.json
audio/<source>/<id>.flac
    or <source>/, or Zip_files/<source>/, with or without the folders in the archives
    ({_ARCHIVE_FOLDER}/<source>_flac/)"""
    options: ClassVar = {
        "splits": "+".join(_SOURCES),
        "exclude": "audiocaps_test+clotho+esc50_urbansound8k+vggsound",
    }
    option_help: ClassVar = {
        "splits": "only the files of these sources are required",
        "exclude": "values of the table above; `none` keeps every clip",
    }
    notes = """\
- Train on `"all"`, or give each source its own weight. Long clips (86 s on average in FreeSound) are stored whole and
  cropped during training.
- The archives contain folders `mnt/fast/...`, which may stay. If `unzip` reports a zip bomb, run `zip -F
  AudioSet_SL.zip --out AS.zip` (from the publisher's page).
- A clone of the GitHub repository has `fsd_final.json` only as a Git LFS pointer, which is reported.
- The SoundBible archive has 1,320 files, 88 of them without a caption; `slap data check` reports them as unlisted.
- The JSON files are streamed: 150 MB need a few megabytes of memory.
- Freesound tags become labels, `tag=...`.

The publisher lists clips that overlap evaluation sets. The option `exclude` leaves them out as `excluded_...`, which
does not count towards the limit of rejections:

| `exclude` | list, key | ids | overlap |
| --- | --- | --- | --- |
| `audiocaps_test` | `test_ac`, AudioSet | 1,451 | the AudioCaps clips that the authors had: 957 test, 494 validation |
| `audiocaps` | `all_ac`, AudioSet | 50,725 | these, and 49,274 training clips of AudioCaps |
| `clotho_test` | `test_ac`, FreeSound | 2,078 | validation and evaluation of Clotho |
| `clotho` | `all_ac`, FreeSound | 5,905 | all of Clotho |
| `esc50_urbansound8k` | `ub8k_esc50_vggsound`, FreeSound | 2,219 | ESC-50, UrbanSound8K |
| `vggsound` | `ub8k_esc50_vggsound`, AudioSet | 15,510 | VGGSound |

The ids were counted in the lists without repetitions and compared with the tables of AudioCaps. 18 of its 975 test
clips and one validation clip are on no list: if you evaluate on all 975, up to 18 of them may be in the training
data."""

    def entries(self) -> Iterator[Entry | Rejection]:
        """Lists the clips source by source in the order of their files.

        A clip on a list of `exclude` becomes a rejection with the reason `excluded_<list>`.
        """
        excluded = self._excluded()
        for source in selected_splits(self):
            captions = self.require(
                f"json_files/{source}/{_SOURCES[source]}", f"data/json_files/{source}/{_SOURCES[source]}"
            )
            folder = self._audio_folder(source)
            for number, item in enumerate(read_json_list(captions, "data")):
                where = f"{captions.name}:data[{number}]"
                yield self._entry(where, item, source, folder, excluded.get(source, {}))

    def _entry(
        self, where: str, item: Any, source: str, folder: Path, excluded: Mapping[str, str]
    ) -> Entry | Rejection:
        if not isinstance(item, dict) or "id" not in item or not isinstance(item.get("caption"), str):
            return Rejection(where, "", "bad_field", f"expected an object with id and caption, found {str(item)[:80]}")
        publisher_id = str(item["id"])
        stem = publisher_id.removesuffix(".wav")  # ids from AudioSet are file names of another format
        clip_id = f"{source}/{stem}"
        if publisher_id in excluded:
            reason = f"excluded_{excluded[publisher_id]}"
            return Rejection(where, clip_id, reason, "the publisher lists this clip as part of that evaluation set")
        caption = item["caption"].strip()
        if not caption:
            return Rejection(where, clip_id, "empty_caption", "the caption is empty; expected text")
        audio = next((path for suffix in (".flac", ".wav") if (path := folder / (stem + suffix)).is_file()), None)
        if audio is None:
            return Rejection(where, clip_id, "missing_file", f"{folder} has no {stem}.flac; extract its archive again")
        tags = item.get("tags") or []
        seconds = item.get("duration")
        return Entry(
            id=clip_id,
            audio=AudioFile(audio),
            captions=(caption,),
            split=source,
            labels=tuple(f"tag={tag.strip()}" for tag in tags if isinstance(tag, str) and tag.strip()),
            source=self.name,
            caption_source="ChatGPT, of the raw description",
            licence=self.licence,
            duration_s=float(seconds) if isinstance(seconds, (int, float)) and seconds > 0 else None,
            where=where,
        )

    def _excluded(self) -> dict[str, dict[str, str]]:
        """Returns source -> publisher's id -> the first selected list that contains it."""
        excluded: dict[str, dict[str, str]] = {}
        for exclusion in parse_selection(self, "exclude", tuple(_EXCLUSIONS)):
            name, key, source = _EXCLUSIONS[exclusion]
            path = self.require(f"json_files/blacklist/{name}", f"data/json_files/blacklist/{name}")
            refuse_pointer(path)
            try:
                ids = list(json.loads(path.read_text(encoding="utf-8"))[key])
            except (ValueError, KeyError, TypeError) as error:
                raise LayoutError(f'{path} is not JSON like {{"{key}": [ids]}} ({error}); download it again') from error
            for publisher_id in ids:
                excluded.setdefault(source, {}).setdefault(str(publisher_id), exclusion)
        return excluded

    def _audio_folder(self, source: str) -> Path:
        """Returns the first folder with FLAC files of a source."""
        candidates = (
            f"audio/{source}",
            f"Audio/{source}",
            source,
            f"Zip_files/{source}",
            f"{_ARCHIVE_FOLDER}/{source}_flac",
        )
        for candidate in candidates:
            for folder, subfolders, names in os.walk(self.root / candidate):
                subfolders.sort()
                if any(name.endswith(".flac") for name in names):
                    return Path(folder)
        others = "+".join(name for name in selected_splits(self) if name != source)
        raise LayoutError(
            f"{self.root} has no FLAC files of {source} in {', '.join(candidates)}; extract its archives there, or "
            f"skip it with the option splits={others or NOTHING}"
        )
