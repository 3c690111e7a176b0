"""No evaluation clip in training: detected by its audio in any source and split; an equal id alone is a warning."""

import logging
import shutil

import numpy as np
import pytest

from slap_jax.data.batches.leakage import LeakageError, check_leakage
from slap_jax.data.preparation.prepare import prepare_records
from slap_jax.data.records import RecordsError, dataset_directory, make_record


def clip(number: int, name: str, collection: str):
    """A record whose samples depend on its number only."""
    return make_record(name, (np.arange(800) * (number + 1) % 251).astype(np.int16), ["a tone"], source=collection)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two datasets: "big" without overlap among its splits; "other" with an id and a sound of its split test."""
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


def test_equal_samples_under_any_id_are_an_error_and_an_equal_id_is_a_warning(data, caplog):
    train = {"big": (str(data / "big"), "train"), "other": (str(data / "other"), "train")}
    with caplog.at_level(logging.WARNING), pytest.raises(LeakageError) as error:
        check_leakage(train, {"held_out": (str(data / "big"), "test")})
    lines = str(error.value).splitlines()
    sets = f"config.data.evaluation.held_out ({data}/big, test) and config.data.train.other ({data}/other, train)"
    assert lines[:3] == [
        "evaluation clips are in the training data, 1 in all:",
        f"  {sets} have 1 in common:",
        "    big/clip37 has the samples of other/renamed",
    ]
    assert len(lines) == 4 and f"slap prepare ... --exclude {data}/big:test)" in lines[3]
    (warning,) = caplog.messages
    assert warning.startswith("1 evaluation clips have the id of a training clip, but other samples:\n")
    assert "    big/clip33\n" in warning and "clip37" not in warning and f"--exclude {data}/big:test" in warning


def test_two_collections_with_equal_file_names_train(tmp_path, caplog):
    """Folders of the same name have equal sources, and their files 000.wav, 001.wav, ... have equal ids."""
    for directory, first in (("dev", 0), ("eval", 50)):
        clips = [clip(first + number, f"{number:03d}", "audio") for number in range(3)]
        prepare_records({"train": (3, clips)}, tmp_path / directory, {}, log=lambda line: None)
    with caplog.at_level(logging.WARNING):
        check_leakage({"a": (tmp_path / "dev", "train")}, {"b": (tmp_path / "eval", "train")})
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith("3 evaluation clips have the id of")


def test_leakage_is_checked_in_joined_splits_and_reported_with_examples(data):
    big = str(data / "big")
    evaluation = {"some": (big, "more"), "all": (big, "more+test")}
    with pytest.raises(LeakageError) as error:
        check_leakage({"joined": (big, "train+more")}, evaluation)
    message = str(error.value)
    assert "in the training data, 20 in all" in message and "... and 15 more" in message
    assert message.count("    big/clip") == 5 and "big/clip20\n" in message
    assert f"--exclude {big}:more --exclude {big}:more+test" in message


def test_data_without_an_index_must_be_prepared_again(data, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(data / "big", old)
    shutil.rmtree(dataset_directory(old) / "index")
    check_leakage({"old": (old, "train")}, {})
    with pytest.raises(RecordsError, match=r"old has no index of split 'train': an older version wrote it; prepare it"):
        check_leakage({"old": (old, "train")}, {"big": (data / "big", "test")})
