import json
import re
from collections import Counter
from pathlib import Path

import pytest

from slap_jax.data.audio import SAMPLE_RATE, decode_audio

ROOT = Path(__file__).parents[2] / "demo_data"


@pytest.fixture(scope="module")
def clips():
    return [json.loads(line) for line in (ROOT / "manifest.jsonl").read_text().splitlines()]


def test_every_clip_decodes_to_the_duration_that_the_manifest_states(clips):
    for clip in clips:
        seconds = len(decode_audio(ROOT / clip["path"])) / SAMPLE_RATE
        assert abs(seconds - clip["duration_s"]) < 0.01, clip["path"]


def test_the_manifest_and_the_folder_hold_the_same_files(clips):
    listed = [clip["path"] for clip in clips]
    assert len(listed) == len(set(listed)) == 254
    assert set(listed) == {file.relative_to(ROOT).as_posix() for file in ROOT.glob("audio/**/*") if file.is_file()}


def test_every_clip_has_a_licence_and_its_source_is_in_the_licences_file(clips):
    licences = (ROOT / "LICENSES").read_text()
    stated = Counter()
    for package, number in re.findall(r"^(.+): (\d+) clips, ", licences, flags=re.MULTILINE):
        stated[package] += int(number)
    assert stated == Counter(clip["source_package"] for clip in clips)
    for clip in clips:
        assert clip["licence"]
        assert all(credit.strip() in licences for credit in clip["credit"].split(";"))


def test_no_recording_is_in_both_splits(clips):
    groups = {split: {clip["group"] for clip in clips if clip["split"] == split} for split in ("train", "test")}
    assert groups["train"] and groups["test"] and not groups["train"] & groups["test"]
    assert {clip["split"] for clip in clips} == {"train", "test"}
