"""The config of an export: completed if an older version wrote it, rejected if it was edited."""

import pytest

from slap_jax.config.defaults import default_config
from slap_jax.config.exported import ADDED_LATER, complete_exported, validate_exported
from slap_jax.config.rules import ConfigError


def exported():
    config = default_config()
    for section in ("spec_augment", "optimizer", "train", "checkpoint", "parallel", "distributed", "metrics"):
        with config.unlocked():
            del config[section]
    return config


def without(config, *paths):
    for path in paths:
        *groups, name = path.split(".")
        node = config
        for group in groups:
            node = node[group]
        with node.unlocked():
            del node[name]
    return config


def test_a_config_of_version_1_is_completed_with_the_values_that_it_was_trained_with():
    later = [f"{group}.{name}" for group, settings in ADDED_LATER.items() for name in settings]
    old = without(exported(), *later)
    with pytest.raises(ConfigError, match=r"config\.model\.\w+(\.kind)? is missing; all settings are required"):
        validate_exported(old)
    completed = complete_exported(old)
    validate_exported(completed)
    assert (completed.model.pad_id, completed.model.bos_id, completed.model.eos_id) == (0, 1, 2)
    assert completed.model.text_encoder.kind == "scratch" and completed.model.text_encoder.rope_base_local is None
    assert "pad_id" not in old.model
    assert completed.data.augment.lead_in_seconds == 0.0  # a run that began before it existed resumes without it


def test_completion_keeps_existing_settings():
    config = exported()
    config.model.update(vocab_size=50_368, pad_id=50_283, bos_id=50_281, eos_id=50_282)
    assert complete_exported(config) == config


@pytest.mark.parametrize("path", ["audio.std", "model.text_encoder", "model.audio_encoder.heads", "model.vocab_size"])
def test_settings_without_a_historical_default_are_required(path):
    with pytest.raises(ConfigError, match=f"config.{path} is missing; all settings are required"):
        validate_exported(complete_exported(without(exported(), path)))
