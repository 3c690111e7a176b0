"""The configs of the repository fit the data that they are given."""

from pathlib import Path

import numpy as np
import pytest

from slap_jax.config.files import read_config
from slap_jax.config.validate import validate
from slap_jax.data.log_mel_statistics import read_log_mel_statistics
from slap_jax.data.preparation.prepare import prepare_records
from slap_jax.data.records import make_record
from slap_jax.data.tokenizer import load_tokenizer, train_tokenizer

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize(("steps", "warmup"), [(5, 0), (30, 3), (99, 9), (1_000, 100), (20_000, 100)])
def test_the_warm_up_fits_any_number_of_steps(steps, warmup):
    config = read_config(f"{CONFIGS / 'corpus_cpu.py'}:steps={steps}")
    validate(config)
    assert config.optimizer.warmup_steps == warmup and config.train.steps == steps


def test_front_end_and_vocabulary_come_from_the_data(tmp_path):
    captions = [f"sound number {number} of a bell" for number in range(12)]
    samples = (np.random.default_rng(0).normal(size=8_000) * 300).astype(np.int16)
    records = [make_record(f"c{i}", samples, [caption], source="s") for i, caption in enumerate(captions)]
    prepare_records({"train": (12, records)}, tmp_path / "clips", {"s": 1}, log=lambda line: None)
    without = read_config(f"{CONFIGS / 'corpus_cpu.py'}:data={tmp_path}")
    assert without.model.vocab_size == 2_000  # no tokenizer yet
    train_tokenizer(captions, tmp_path / "tokenizer.model", 40)
    config = read_config(f"{CONFIGS / 'corpus_cpu.py'}:data={tmp_path}")
    assert config.model.vocab_size == load_tokenizer(tmp_path / "tokenizer.model").vocab_size < 100
    measured = read_log_mel_statistics(tmp_path / "clips")
    assert (config.audio.mean, config.audio.std) == pytest.approx(measured, abs=0.01)
    validate(config)
    for name in ("slap_small", "slap_base", "slap_large"):
        assert read_config(f"{CONFIGS / name}.py:data={tmp_path}").model.vocab_size == config.model.vocab_size
