"""No evaluation clip in training: found by id and by audio, in any source and split, with a message that helps."""

import shutil

import numpy as np
import pytest

from slap_jax.data.batches.leakage import LeakageError, check_leakage
from slap_jax.data.preparation.prepare import prepare_records
from slap_jax.data.records import RecordsError, dataset_directory, make_record


def clip(number: int, name: str, collection: str):
    """A record whose samples are told by its number alone."""
    return make_record(name, (np.arange(800) * (number + 1) % 251).astype(np.int16), ["a tone"], source=collection)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """ "big" has the splits train, more and test without overlap; "other" has one clip of test by id, one by audio."""
    directory = tmp_path_factory.mktemp("leakage")
    numbers = {"train": range(20), "more": range(20, 30), "test": range(30, 40)}
    splits = {
        split: (len(members), [clip(number, f"clip{number}", "big") for number in members])
        for split, members in numbers.items()
    }
    prepare_records(splits, directory / "big", {}, log=lambda line: None)
    others = [
        *(clip(100 + number, f"clip{number}", "other") for number in range(30, 40)),  # ids of another collection
        clip(200, "clip33", "big"),
        clip(37, "renamed", "other"),
    ]
    prepare_records({"train": (len(others), others)}, directory / "other", {}, log=lambda line: None)
    return directory


def test_splits_without_overlap_pass(data):
    big = str(data / "big")
    check_leakage({"big": (big, "train+more")}, {"big": (big, "test")})
    check_leakage({"big": (big, "train"), "other": (data / "other", "train")}, {"big": (big, "more")})


def test_clips_in_common_are_named_by_id_and_by_audio(data):
    train = {"big": (str(data / "big"), "train"), "other": (str(data / "other"), "train")}
    with pytest.raises(LeakageError) as error:
        check_leakage(train, {"held_out": (str(data / "big"), "test")})
    lines = str(error.value).splitlines()
    assert lines[0] == "evaluation clips are in the training data, 2 in all:"
    assert lines[1] == (
        f"  config.data.evaluation.held_out ({data}/big, test) in config.data.train.other ({data}/other, train): "
        "1 by id, 1 by audio alone"
    )
    assert lines[2:4] == ["    big/clip33 is there", "    big/clip37 has the samples of other/renamed"]
    assert len(lines) == 5 and f"slap prepare ... --exclude {data}/big:test)" in lines[4]


def test_joined_splits_are_looked_into_and_only_some_clips_are_named(data):
    big = str(data / "big")
    evaluation = {"some": (big, "more"), "all": (big, "more+test")}
    with pytest.raises(LeakageError) as error:
        check_leakage({"joined": (big, "train+more")}, evaluation)
    message = str(error.value)
    assert "in the training data, 20 in all" in message and "... and 15 more" in message
    assert message.count(" is there") == 5 and "big/clip20 is there" in message
    assert f"--exclude {big}:more --exclude {big}:more+test" in message


def test_data_without_an_index_must_be_prepared_again(data, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(data / "big", old)
    shutil.rmtree(dataset_directory(old) / "index")
    check_leakage({"old": (old, "train")}, {})
    with pytest.raises(RecordsError, match=r"old has no index of split 'train': an older version wrote it; prepare it"):
        check_leakage({"old": (old, "train")}, {"big": (data / "big", "test")})
