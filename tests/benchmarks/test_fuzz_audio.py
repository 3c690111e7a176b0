import io

import numpy as np
import pytest
import soundfile

from benchmarks.fuzz_audio import (
    FAULTS,
    FORMATS,
    Damaged,
    damaged,
    different_share,
    encode,
    outcome,
    recording,
    run,
    table,
)


@pytest.mark.process
def test_damaged_files_are_decoded_as_by_ffmpeg_or_refused_with_a_reason():
    results = run(2 * len(FORMATS), seed=7)
    assert {result["format"] for result in results} == set(FORMATS) and len({r["fault"] for r in results}) == 2
    assert [result for result in results if result["outcome"].startswith("violation")] == []
    assert any(result["outcome"] == "equals FFmpeg" for result in results)
    refused = [result for result in results if result["outcome"].startswith("refused")]
    assert refused and all(result["detail"].startswith("file ") for result in refused)
    last = table(results).splitlines()[-1].split()
    assert last[0] == "all" and sum(map(int, last[1:])) == len(results) and last[-1] == "0"


def test_files_are_seeded_and_have_every_fault():
    count = len(FORMATS) * len(FAULTS)
    items = [damaged(index) for index in range(0, count, len(FORMATS))]
    assert [item.fault for item in items] == list(FAULTS)
    assert damaged(40) == damaged(40) != damaged(40, seed=1)


@pytest.mark.parametrize("name", ["wav", "flac", "vorbis", "opus", "mp3", "aac", "mkv"])
def test_intact_files_equal_ffmpeg(name):
    data = encode(name, recording(0, 2))
    assert outcome(Damaged(name, "pad", data, (data,)))["outcome"] == "equals FFmpeg"


@pytest.mark.parametrize("lossless", [True, False])
def test_other_samples_are_noticed(lossless):
    samples = recording(0, 1)[:, 0]
    assert different_share(samples, 24_000, 24_000, samples, lossless) == 0
    assert different_share(samples[480:], 24_000, 24_000, samples, lossless) == 0  # a beginning that is trimmed
    assert different_share(recording(1, 1)[:, 0], 24_000, 24_000, samples, lossless) == 1
    repeated = np.concatenate([samples[:24_000], samples[:24_000]])
    assert 0.4 < different_share(repeated, 24_000, 24_000, samples, lossless) < 0.6
    assert different_share(samples, 24_000, 24_000, 1.5 * samples, lossless) == 1


def test_lost_samples_are_noticed(monkeypatch):
    data = encode("wav", recording(0, 1))
    half = encode("wav", recording(0, 1)[:24_000])
    samples, _ = soundfile.read(io.BytesIO(half), dtype="float32", always_2d=True)
    monkeypatch.setattr("slap_jax.data.audio.sound_blocks", lambda *_: iter([(24_000, samples)]))
    assert outcome(Damaged("wav", "pad", half, (half,)))["outcome"] == "equals FFmpeg"
    lost = outcome(Damaged("wav", "pad", data, (data,)))
    assert lost["outcome"].startswith("violation") and "0.000 differs from FFmpeg, 1.00 s are missing" in lost["detail"]
