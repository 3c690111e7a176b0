"""Every kind of bad input has its documented outcome: a rejection with a reason, or one clear error."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from slap_jax.data.collections.fields import CollectionError
from slap_jax.data.preparation.plan import REJECTED
from slap_jax.data.preparation.prepare import Prepared, prepare
from slap_jax.data.records import Record, open_split
from tests.data.tiny_data import encoded, tone, write_manifest, write_tone
from tests.data.unprivileged import unprivileged_folder

WITH_NAN = tone(0.2)
WITH_NAN[7] = np.nan
WITH_INFINITY = tone(0.2)
WITH_INFINITY[7] = -np.inf

REJECTED_FILES = {
    "zero_length.wav": (b"", "empty_audio", "0 bytes"),
    "header_only.wav": (encoded(np.zeros(0, np.float32)), "empty_audio", "no samples"),
    "truncated.wav": (encoded(tone(1.0))[:9_000], "truncated_audio", "is truncated"),
    "truncated.flac": (encoded(tone(1.0), container="FLAC")[:5_000], "truncated_audio", "is truncated"),
    "nan.wav": (encoded(WITH_NAN, subtype="FLOAT"), "nonfinite_audio", "1 NaN or infinite"),
    "infinite.wav": (encoded(WITH_INFINITY, subtype="DOUBLE"), "nonfinite_audio", "1 NaN or infinite"),
    "text.wav": (b"this is a text\n" * 40, "unreadable_audio", "not readable as audio"),
}


def prepared(folder: Path, *lines: dict, output: str = "out", **settings) -> tuple[Prepared, dict[str, Record]]:
    """Prepares a manifest next to the files; returns the records by id."""
    manifest = write_manifest(folder, lines)
    settings.setdefault("max_rejected", len(lines))
    result = prepare(manifest, folder / output, workers=1, log=lambda line: None, **settings)
    return result, {record.id: record for record in open_split(folder / output, "train")}


def left_out(output: Path) -> dict[str, dict]:
    (file,) = output.glob(f"*/*/{REJECTED}")
    return {item["id"]: item for item in map(json.loads, file.read_text().splitlines())}


def clip(name: str, **fields) -> dict:
    return {"path": name, "caption": "a sound", **fields}


@pytest.mark.parametrize("name", REJECTED_FILES)
def test_a_file_that_cannot_be_used_is_a_rejection(tmp_path, name):
    data, reason, detail = REJECTED_FILES[name]
    (tmp_path / name).write_bytes(data)
    write_tone(tmp_path / "good.wav")
    result, records = prepared(tmp_path, clip(name), clip("good.wav"))
    assert result.rejected == {reason: 1} and list(records) == ["good.wav"]
    item = left_out(tmp_path / "out")[name]
    assert item["where"] == "manifest.jsonl:1" and detail in item["detail"] and name in item["detail"]


def test_unusual_files_are_clips(tmp_path):
    loud = 4 * tone(0.25)  # twice full scale
    six = np.stack([tone(0.25, rate=96_000, amplitude=level) for level in (0.6, 0.6, 0, 0, 0, 0)], axis=1)
    files = {
        "one_sample.wav": encoded(tone(0.25)[:1]),
        "one_sample_48k.wav": encoded(tone(0.25)[:1], 48_000),
        "8_bit.wav": encoded(tone(0.25), subtype="PCM_U8"),
        "24_bit.wav": encoded(tone(0.25), subtype="PCM_24"),
        "out_of_range.wav": encoded(loud, subtype="FLOAT"),
        "96k_6_channels.wav": encoded(six, 96_000),
        "wrong_extension.wav": encoded(tone(0.25), container="MP3"),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    result, records = prepared(tmp_path, *map(clip, files))
    assert not result.rejected and list(records) == list(files)
    waves = {name: record.waveform() / 32_768 for name, record in records.items()}
    assert len(waves["one_sample.wav"]) == len(waves["one_sample_48k.wav"]) == 1
    np.testing.assert_allclose(waves["8_bit.wav"], tone(0.25), atol=1 / 100)
    np.testing.assert_allclose(waves["24_bit.wav"], tone(0.25), atol=1 / 30_000)
    np.testing.assert_allclose(waves["out_of_range.wav"], np.clip(loud, -1, 1), atol=1 / 30_000)
    middle = slice(400, -400)  # resampling rings at the ends
    expected = tone(0.25, amplitude=0.2)  # the mean of 0.6, 0.6 and four times 0
    np.testing.assert_allclose(waves["96k_6_channels.wav"][middle], expected[middle], atol=2e-3)
    mp3 = waves["wrong_extension.wav"]  # padded by its codec
    assert 0.25 <= len(mp3) / 16_000 < 0.4
    assert np.argmax(np.abs(np.fft.rfft(mp3, 16_000))) == pytest.approx(440, abs=3)


def test_a_file_without_permission_is_a_rejection():
    with unprivileged_folder() as folder:
        write_tone(folder / "good.wav")
        write_tone(folder / "secret.wav")
        (folder / "secret.wav").chmod(0)
        result, records = prepared(folder, clip("secret.wav"), clip("good.wav"))
        assert result.rejected == {"unreadable_file": 1} and list(records) == ["good.wav"]
        detail = left_out(folder / "out")["secret.wav"]["detail"]
        assert "secret.wav cannot be read (Permission denied); correct its permissions" in detail


def test_a_caption_of_10000_words_is_kept_in_the_records(tmp_path):
    write_tone(tmp_path / "long.wav")
    caption = " ".join(f"word{index}" for index in range(10_000))
    _, records = prepared(tmp_path, clip("long.wav", caption=caption))
    assert records["long.wav"].captions == (caption,)


def test_one_line_that_is_not_utf8_is_one_rejection(tmp_path):
    for name in ("0.wav", "1.wav"):
        write_tone(tmp_path / name)
    manifest = write_manifest(tmp_path, [clip("0.wav"), clip("1.wav")])
    first, second = manifest.read_bytes().splitlines(keepends=True)
    manifest.write_bytes(first + b'{"path": "1.wav", "caption": "caf\xe9"}\n' + second)
    result = prepare(manifest, tmp_path / "out", workers=1, max_rejected=1, log=lambda line: None)
    assert result.clips == {"train": 2} and sum(result.rejected.values()) == 1
    ((_, item),) = left_out(tmp_path / "out").items()
    assert item["where"] == "manifest.jsonl:2" and "UTF-8" in item["detail"]


def test_the_second_of_two_equal_ids_is_a_rejection(tmp_path):
    for name in ("0.wav", "1.wav"):
        write_tone(tmp_path / name)
    result, records = prepared(
        tmp_path, clip("0.wav", id="x"), clip("1.wav", id="x"), clip("1.wav", id="x", source="b")
    )
    assert result.rejected == {"duplicate_id": 1} and result.clips == {"train": 2}
    assert left_out(tmp_path / "out")["x"]["where"] == "manifest.jsonl:2" and list(records) == ["x"]


def test_sources_and_ids_with_slashes_are_not_confused(tmp_path):
    for name in ("0.wav", "1.wav"):
        write_tone(tmp_path / name)
    lines = clip("0.wav", source="a", id="b/c"), clip("1.wav", source="a/b", id="c")
    result, records = prepared(tmp_path, *lines)
    assert not result.rejected and result.clips == {"train": 2}
    assert records["b/c"].key != records["c"].key


def test_a_file_name_that_is_not_utf8_rejects_its_clip_only(tmp_path, capsys):
    for name in ("good", "caf\udce9"):
        write_tone(tmp_path / "in" / f"{name}.wav")
        (tmp_path / "in" / f"{name}.txt").write_text("a tone")
    result = prepare(tmp_path / "in", tmp_path / "out", workers=1, max_rejected=1)
    assert result.rejected == {"bad_name": 1} and result.clips == {"train": 1}
    item = left_out(tmp_path / "out")["caf\\udce9.wav"]
    assert "rename the file" in item["detail"] and "bad_name: 1" in capsys.readouterr().out


def test_a_manifest_without_lines_is_one_error_and_writes_nothing(tmp_path):
    manifest = write_manifest(tmp_path / "in", [])
    with pytest.raises(CollectionError, match=r"manifest.jsonl holds no clips"):
        prepare(manifest, tmp_path / "out", log=lambda line: None)
    assert not (tmp_path / "out").exists()


@pytest.mark.process
def test_a_full_disk_is_one_error_and_the_next_call_resumes(tmp_path):
    folder = tmp_path / "in"
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 8_000).astype(np.float32)
    for index in range(6):  # the fourth clip makes a shard that the disk has no room for
        (folder / f"{index}.wav").parent.mkdir(exist_ok=True)
        (folder / f"{index}.wav").write_bytes(encoded(np.tile(noise, 20 if index == 3 else 1)))
    manifest = write_manifest(folder, [clip(f"{index}.wav") for index in range(6)])
    words = ["prepare", str(manifest), str(tmp_path / "out"), "--shard-records", "1", "--workers", "1"]
    program = (  # the most bytes of a file: what a full disk is to a writer
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)); "
        "from slap_jax.cli import main; sys.exit(main())"
    )
    failed = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    assert failed.returncode == 2 and failed.stderr.count("\n") == 1
    assert "00003-of-00006 could not be written" in failed.stderr and "free disk space" in failed.stderr
    (staging,) = (tmp_path / "out").glob(".staging/*")
    finished = {path.name: path.stat().st_ino for path in (staging / "shards").iterdir()}
    assert sorted(finished) == [f"slap_clips-train.array_record-0000{number}-of-00006" for number in range(3)]
    result = prepare(manifest, tmp_path / "out", clips_per_shard=1, workers=1, log=lambda line: None)
    assert result.clips == {"train": 6}
    assert finished.items() <= {path.name: path.stat().st_ino for path in result.directory.iterdir()}.items()


def test_an_output_folder_without_permission_is_one_error():
    with unprivileged_folder() as folder:
        write_tone(folder / "good.wav")
        (folder / "out").mkdir(mode=0o500)
        with pytest.raises(PermissionError, match=os.fspath(folder / "out")):
            prepared(folder, clip("good.wav"))
