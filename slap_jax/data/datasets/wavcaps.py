"""WavCaps: 400,000 clips of four sources, with captions that a language model made of raw descriptions."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from slap_jax.data.collections.entries import AudioFile, Entry, Rejection
from slap_jax.data.collections.published import Expected, LayoutError, PublishedDataset
from slap_jax.data.datasets.reading import NOTHING, chosen, chosen_splits, read_items

# Source -> its file of captions.
_SOURCES = {
    "AudioSet_SL": "as_final.json",
    "BBC_Sound_Effects": "bbc_final.json",
    "FreeSound": "fsd_final.json",
    "SoundBible": "sb_final.json",
}

# The publisher's lists of clips that are in evaluation sets too: what is excluded -> file, key in it, source.
_EXCLUSIONS = {
    "audiocaps_test": ("blacklist_exclude_test_ac.json", "AudioSet", "AudioSet_SL"),
    "audiocaps": ("blacklist_exclude_all_ac.json", "AudioSet", "AudioSet_SL"),
    "clotho_test": ("blacklist_exclude_test_ac.json", "FreeSound", "FreeSound"),
    "clotho": ("blacklist_exclude_all_ac.json", "FreeSound", "FreeSound"),
    "esc50_urbansound8k": ("blacklist_exclude_ub8k_esc50_vggsound.json", "FreeSound", "FreeSound"),
    "vggsound": ("blacklist_exclude_ub8k_esc50_vggsound.json", "AudioSet", "AudioSet_SL"),
}

# The archives hold their files below this folder of the publisher's machine.
_ARCHIVE_FOLDER = "mnt/fast/nobackup/scratch4weeks/xm00178/WavCaps/data/waveforms"


class WavCaps(PublishedDataset):
    """One caption of each clip, for training only; each source is a split."""

    name = "wavcaps"
    version = "1.0.0"
    title = "WavCaps"
    homepage = "https://huggingface.co/datasets/cvssp/WavCaps"
    licence = "academic use only; audio: of AudioSet's videos, BBC Sound Effects, Freesound and SoundBible"
    citation = (
        "Mei et al.: WavCaps: A ChatGPT-Assisted Weakly-Labelled Audio Captioning Dataset for Audio-Language "
        "Multimodal Research. TASLP 2024"
    )
    expected: ClassVar = {
        "AudioSet_SL": Expected(clips=108_317, captions=1, hours=301),
        "BBC_Sound_Effects": Expected(clips=31_201, captions=1, hours=997),
        "FreeSound": Expected(clips=262_300, captions=1, hours=6_265),
        "SoundBible": Expected(clips=1_232, captions=1, hours=4.5),
    }
    layout = f"""\
json_files/AudioSet_SL/as_final.json
json_files/BBC_Sound_Effects/bbc_final.json
json_files/FreeSound/fsd_final.json
json_files/SoundBible/sb_final.json
json_files/blacklist/blacklist_exclude_test_ac.json
json_files/blacklist/blacklist_exclude_all_ac.json
json_files/blacklist/blacklist_exclude_ub8k_esc50_vggsound.json
audio/<source>/<id>.flac
    or <source>/, or Zip_files/<source>/, with the folders that the archives hold, or without
    ({_ARCHIVE_FOLDER}/<source>_flac/)"""
    options: ClassVar = {
        "splits": "+".join(_SOURCES),
        "exclude": "audiocaps_test+clotho+esc50_urbansound8k+vggsound",
    }

    def entries(self) -> Iterator[Entry | Rejection]:
        """Lists the clips source by source, in the order of their files.

        A clip on a list of `exclude` is a rejection of reason `excluded_<list>`: left out as intended.
        """
        excluded = self._excluded()
        for source in chosen_splits(self):
            captions = self.require(
                f"json_files/{source}/{_SOURCES[source]}", f"data/json_files/{source}/{_SOURCES[source]}"
            )
            folder = self._audio_folder(source)
            for number, item in enumerate(read_items(captions, "data")):
                where = f"{captions.name}:data[{number}]"
                yield self._entry(where, item, source, folder, excluded.get(source, {}))

    def _entry(
        self, where: str, item: Any, source: str, folder: Path, excluded: Mapping[str, str]
    ) -> Entry | Rejection:
        if not isinstance(item, dict) or "id" not in item or not isinstance(item.get("caption"), str):
            return Rejection(where, "", "bad_field", f"expected an object with id and caption, found {str(item)[:80]}")
        publisher_id = str(item["id"])
        stem = publisher_id.removesuffix(".wav")  # AudioSet's ids are the names of files in another format
        clip_id = f"{source}/{stem}"
        if publisher_id in excluded:
            reason = f"excluded_{excluded[publisher_id]}"
            return Rejection(where, clip_id, reason, "on the publisher's list of clips that are in this set too")
        caption = item["caption"].strip()
        if not caption:
            return Rejection(where, clip_id, "empty_caption", "the caption is empty; expected words")
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
        """Returns source -> publisher's id -> the first list that it is on."""
        found: dict[str, dict[str, str]] = {}
        for exclusion in chosen(self, "exclude", tuple(_EXCLUSIONS)):
            name, key, source = _EXCLUSIONS[exclusion]
            path = self.require(f"json_files/blacklist/{name}", f"data/json_files/blacklist/{name}")
            try:
                ids = json.loads(path.read_text(encoding="utf-8"))[key]
            except (ValueError, KeyError, TypeError) as error:
                raise LayoutError(f'{path} is not JSON like {{"{key}": [ids]}} ({error}): get it again') from error
            for publisher_id in ids:
                found.setdefault(source, {}).setdefault(str(publisher_id), exclusion)
        return found

    def _audio_folder(self, source: str) -> Path:
        """Returns the first folder with FLAC files below one of the places where a source's audio may be."""
        places = (
            f"audio/{source}",
            f"Audio/{source}",
            source,
            f"Zip_files/{source}",
            f"{_ARCHIVE_FOLDER}/{source}_flac",
        )
        for place in places:
            for folder, subfolders, names in os.walk(self.root / place):
                subfolders.sort()
                if any(name.endswith(".flac") for name in names):
                    return Path(folder)
        others = "+".join(name for name in chosen_splits(self) if name != source)
        raise LayoutError(
            f"{self.root} has no FLAC files of {source} in {', '.join(places)}; extract its archives there, or do "
            f"without it by the option splits={others or NOTHING}"
        )
