from collections import Counter
from pathlib import Path

import pytest

from slap_jax.data.collections.entries import AudioFile, Entry, Rejection
from slap_jax.data.preparation.splits import SplitError, parse_shares


def entry(clip_id, **fields):
    return Entry(clip_id, AudioFile(Path("/none.wav")), ("x",), fields.pop("split", "train"), **fields)


def test_shares_are_met_and_seeded():
    shares = parse_shares("80/15/5")
    splits = [shares.split_of(entry(f"{index}.wav")) for index in range(4_000)]
    # Binomial: the standard deviations are 25, 23 and 14 clips.
    for split, expected in {"train": 3_200, "val": 600, "test": 200}.items():
        assert abs(Counter(splits)[split] - expected) < 4 * 25
    assert splits == [shares.split_of(entry(f"{index}.wav", source="moved")) for index in range(4_000)]
    other = parse_shares("80/15/5", seed=1)
    assert splits != [other.split_of(entry(f"{index}.wav")) for index in range(4_000)]


def test_groups_decide_before_ids():
    shares = parse_shares("50/50")
    assert len({shares.split_of(entry(str(index), group="a recording")) for index in range(50)}) == 1
    assert {shares.split_of(entry(str(index), group=str(index))) for index in range(50)} == {"train", "val"}


@pytest.mark.parametrize(
    ("text", "percent"),
    [
        ("80/10/10", {"train": 80, "val": 10, "test": 10}),
        ("90/10", {"train": 90, "val": 10}),
        ("70/0/30", {"train": 70, "test": 30}),
        ("99.5/0.25/0.25", {"train": 99.5, "val": 0.25, "test": 0.25}),
    ],
)
def test_forms_of_shares(text, percent):
    assert parse_shares(text).percent == percent


@pytest.mark.parametrize(
    "text", ["80", "80/10", "80/10/10/0", "0/50/50", "110/-10", "a/b", "80:10:10", "nan/nan", "", "/"]
)
def test_other_forms_are_refused(text):
    with pytest.raises(SplitError, match="TRAIN/VAL/TEST like 80/10/10, or TRAIN/VAL like 90/10"):
        parse_shares(text)


def test_rejections_pass_and_named_splits_are_refused():
    rejection = Rejection("a", "a", "bad_json", "")
    assert list(parse_shares("80/20").assign(iter([rejection]))) == [rejection]
    with pytest.raises(SplitError, match=r"names its splits itself \(m.jsonl:2 is in 'val'\)"):
        list(parse_shares("80/20").assign(iter([entry("a"), entry("b", split="val", where="m.jsonl:2")])))
