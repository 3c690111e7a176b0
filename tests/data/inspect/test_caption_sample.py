import numpy as np
import pytest

from slap_jax.config.defaults import default_config, source
from slap_jax.data.inspect.caption_sample import sample_captions, sample_evenly
from slap_jax.data.preparation.prepare import prepare_records
from slap_jax.data.records import make_record
from tests.data.tiny_data import tiny_captions


@pytest.fixture
def mixture(dataset, tmp_path):
    """Returns `config.data` of 24 clips with two captions each, and of ten with labels only."""
    labels = ("label=sea waves",)
    labelled = [make_record(str(index), np.zeros(160, np.int16), (), labels=labels) for index in range(10)]
    prepare_records({"train": (10, labelled)}, tmp_path / "labelled", {}, log=lambda line: None)
    config = default_config()
    config.data.train.captioned = source(str(dataset), "train", weight=3.0)
    config.data.train.labelled = source(str(tmp_path / "labelled"), "train", captions={"tag_templates": ("the {}",)})
    return config.data


def test_all_captions_if_there_is_room(mixture):
    captions = list(sample_captions(mixture, 1_000))
    assert captions[:48] == [caption for index in range(24) for caption in tiny_captions(index)]
    assert captions[48:] == ["the sea waves"] * 10


def test_sources_are_sampled_by_their_fraction_of_the_mixture(mixture):
    captions = list(sample_captions(mixture, 16))
    assert len(captions) == 16 and captions[12:] == ["the sea waves"] * 4
    numbers = [next(n for n in range(24) if caption in tiny_captions(n)) for caption in captions[:12]]
    assert len(set(numbers)) == 12 and all(n // 2 == place for place, n in enumerate(numbers))
    assert captions == list(sample_captions(mixture, 16)) != list(sample_captions(mixture, 16, seed=1))
    mixture.temperature = 1.0  # every clip equally often: 72 to 10
    assert sum(caption == "the sea waves" for caption in sample_captions(mixture, 16)) == 1


def test_few_captions_of_each_clip(mixture):
    assert len(list(sample_captions(mixture, 32))) == 24 + 8  # one caption a clip, though all clips are read


@pytest.mark.parametrize(("count", "size"), [(10, 10), (10, 99), (1, 1), (1_000_003, 1_000), (7, 6)])
def test_sampled_numbers_are_distinct_and_spread(count, size):
    numbers = sample_evenly(count, size, seed=3)
    assert len(numbers) == min(count, size) and (np.diff(numbers) > 0).all()
    assert numbers[0] >= 0 and numbers[-1] < count and np.diff(numbers, prepend=0).max() <= 2 * count / size + 1
