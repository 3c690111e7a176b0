"""Which clips `--exclude` leaves out: by id and by audio, of one or several splits."""

import numpy as np
import pytest

from slap_jax.data.preparation.exclusion import ExclusionError, excluded_clips
from slap_jax.data.record_index import hash_audio
from slap_jax.data.records import RecordsError, open_split
from tests.data.tiny_data import tiny_dataset


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tiny_dataset(tmp_path_factory.mktemp("exclusion") / "tiny", count=8, test_count=3)


def test_clips_of_the_split_are_known_by_id_and_by_audio(path):
    excluded = excluded_clips([f"{path}:test"])
    for split, wanted in (("test", True), ("train", False)):
        for record in open_split(path, split):
            assert excluded.has_id(record.source, record.id) is wanted
            assert not excluded.has_id("elsewhere", record.id)
            assert excluded.has_audio(hash_audio(record.waveform())) is wanted


def test_several_splits_and_none(path):
    both = excluded_clips([f"{path}:test", f"{path}:train+test"])
    assert len(both.ids) == len(both.audio) == 11
    nothing = excluded_clips([])
    assert not nothing.has_id("tiny", "clip-0") and not nothing.has_audio(0)
    assert len({excluded.digest for excluded in (both, nothing, excluded_clips([f"{path}:test"]))}) == 3
    assert excluded_clips([f"{path}:train+test"]).digest == both.digest


def test_hashes_at_the_ends_are_found(path):
    excluded = excluded_clips([f"{path}:train"])
    for value in (excluded.audio[0], excluded.audio[-1]):
        assert excluded.has_audio(int(value))
    assert not excluded.has_audio(2**64 - 1) and not excluded.has_audio(0)
    np.testing.assert_array_equal(excluded.audio, np.sort(excluded.audio))


def test_what_is_no_split_of_prepared_data(path):
    with pytest.raises(ExclusionError, match=r"--exclude 'data/esc50' is not PATH:SPLIT of prepared data"):
        excluded_clips(["data/esc50"])
    with pytest.raises(RecordsError, match="has no split 'dev'"):
        excluded_clips([f"{path}:dev"])
