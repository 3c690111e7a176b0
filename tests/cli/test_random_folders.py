"""Random folders of good and bad files: nothing is lost silently, and `slap data check` predicts `slap prepare`."""

import collections
import json
import os

import numpy as np
import pytest

from slap_jax.cli import main
from slap_jax.data.records import split_sizes
from tests.data.tiny_data import encoded, tone

GOOD, BAD = "good", "bad"


def audio_files(generator):
    """Returns kinds of audio files: (suffix, contents, whether they can be used)."""
    noise = generator.standard_normal(1_600) * 0.1
    wav = encoded(tone(0.2, frequency=float(generator.integers(200, 900))))
    broken = noise.copy()
    broken[7] = np.nan
    return [
        (".wav", wav, GOOD),
        (".flac", encoded(noise, container="FLAC"), GOOD),
        (".OGG", encoded(noise, container="OGG", subtype="VORBIS"), GOOD),
        (".wav", encoded(noise * 20, subtype="FLOAT"), GOOD),
        (".wav", encoded(noise * 32_768, subtype="FLOAT"), BAD),
        (".wav", encoded(np.stack([noise, -noise], axis=1)), BAD),
        (".wav", b"", BAD),
        (".mp3", b"this is text " * 40, BAD),
        (".wav", wav[: len(wav) // 2], BAD),
        (".wav", encoded(broken, subtype="FLOAT"), BAD),
        (".flac", bytes(generator.integers(0, 256, 3_000, np.uint8)), BAD),
    ]


def sidecars():
    """Returns kinds of sidecars: (suffix, contents, whether they can be used)."""
    return [
        *[(".txt", b"a sound\n", GOOD)] * 6,
        (".json", json.dumps({"caption": "a sound", "group": "g"}).encode(), GOOD),
        (".json", b"{", BAD),
        (".txt", b"\xff\xfe\x00", BAD),
        (".txt", b"\n \n", BAD),
        ("", b"", BAD),
    ]


def write_folder(folder, generator):
    """Writes up to 16 clips of random kinds; returns how many are good and bad."""
    counts = collections.Counter({GOOD: 0, BAD: 0})
    for number in range(int(generator.integers(1, 17))):
        kinds, texts = audio_files(generator), sidecars()
        suffix, audio, state = kinds[generator.integers(len(kinds))]
        text_suffix, text, text_state = texts[generator.integers(len(texts))]
        stem, name_state = [
            (f"clip {number}".encode(), GOOD),
            (f"Übung-{number}".encode(), GOOD),
            (f"{number}.{'x' * 200}".encode(), GOOD),
            (f"caf{number}".encode() + b"\xe9", BAD),
        ][generator.choice(4, p=[0.6, 0.15, 0.1, 0.15])]
        place = os.path.join(os.fsencode(folder), [b".", b"a", b"a/b.wav"][generator.integers(3)])
        os.makedirs(place, exist_ok=True)
        path = os.path.join(place, stem)
        if generator.random() < 0.08:
            os.symlink("nowhere", path + suffix.encode())
            state = BAD
        else:
            with open(path + suffix.encode(), "wb") as file:
                file.write(audio)
        if text_suffix:
            with open(path + text_suffix.encode(), "wb") as file:
                file.write(text)
        counts[GOOD if {state, text_state, name_state} == {GOOD} else BAD] += 1
    return counts


def rejected_reasons(output):
    """Returns reason -> number of clips in the list of an accepted or a refused preparation."""
    (file,) = list(output.glob("*/*/rejected.jsonl")) or output.glob(".staging/*/plan/rejected.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    reasons = collections.Counter()
    for line in lines:
        reasons[line["reason"]] += line["clips"]
    return reasons


@pytest.mark.parametrize("seed", range(16))
def test_every_clip_is_prepared_or_rejected_and_check_agrees(tmp_path, capsys, seed):
    generator = np.random.default_rng(seed)
    folder, output = tmp_path / "clips", tmp_path / "out"
    present = write_folder(folder, generator)
    limit = ["--max-rejected", str(generator.integers(2, 12))] if seed % 2 else []
    prepared = main(["prepare", str(folder), str(output), "--workers", "1", *limit])
    capsys.readouterr()
    checked = main(["data", "check", str(folder), "--decode", "20", "--json", *limit])
    report = json.loads(capsys.readouterr().out)
    expected = collections.Counter()
    for reasons in (report["rejected"], report["sample"]["unusable"] if report["sample"] else {}):
        expected.update({reason: tally["count"] for reason, tally in reasons.items()})
    assert (prepared, checked) in ((0, 0), (2, 1)) and report["refused"] == (checked == 1)
    clips = sum(split_sizes(output).values()) if prepared == 0 else present[GOOD]
    reasons = rejected_reasons(output)
    if prepared == 0 or list(output.glob(".staging/*/rejected.jsonl")):
        assert clips == present[GOOD] and sum(reasons.values()) == present[BAD] and reasons == expected
    else:  # refused after the listing, before anything was decoded
        assert reasons == {reason: tally["count"] for reason, tally in report["rejected"].items()}
        assert sum(reasons.values()) <= present[BAD] == expected.total()
