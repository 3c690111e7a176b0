import numpy as np
import pytest

from slap_jax.data.builders import synthetic_scenes
from slap_jax.data.builders.synthetic_scenes import prepare_scenes
from slap_jax.data.records import label_value, open_split
from slap_jax.data.scenes import scene


def test_prepared_scenes_are_the_scenes(tmp_path):
    prepared = prepare_scenes(tmp_path, seed=7, train=12, test=5, log=lambda line: None)
    assert prepared.clips == {"train": 12, "test": 5} and not prepared.rejected
    for split, held_out in (("train", False), ("test", True)):
        for index, record in enumerate(open_split(tmp_path, split)):
            made = scene(7, index, held_out)
            np.testing.assert_array_equal(record.waveform(), made.waveform * 32_768)
            assert list(record.captions) == made.captions
            assert label_value(record.labels, "structure") == made.composition.structure
            assert [caption for _, _, caption in record.regions] == [caption for _, _, caption in made.regions]
            np.testing.assert_allclose([times[:2] for times in record.regions], [times[:2] for times in made.regions])


def test_unchanged_arguments_write_nothing_and_changed_ones_everything(tmp_path, monkeypatch):
    def quiet(line):
        pass

    assert not prepare_scenes(tmp_path, train=4, test=0, log=quiet).reused
    assert prepare_scenes(tmp_path, train=4, test=0, log=quiet).reused
    assert not prepare_scenes(tmp_path, train=4, test=0, max_seconds=5.0, log=quiet).reused
    monkeypatch.setattr(synthetic_scenes, "SCENES_VERSION", 999)
    assert not prepare_scenes(tmp_path, train=4, test=0, max_seconds=5.0, log=quiet).reused


@pytest.mark.parametrize("train, test", [(0, 0), (-1, 5)])
def test_no_scenes_are_refused(tmp_path, train, test):
    with pytest.raises(ValueError, match=f"train={train}, test={test}"):
        prepare_scenes(tmp_path, train=train, test=test)
