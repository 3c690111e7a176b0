"""The config inside an export, which another version may have written and which people edit."""

from ml_collections import ConfigDict

from slap_jax.config.defaults import default_config
from slap_jax.config.rules import RULES, check_keys, check_rules, require
from slap_jax.config.validate import validate_front_end, validate_towers

_SECTIONS = ("audio", "model")

# Settings that older versions did not have, by group, with the values that reproduce the behaviour of those versions.
# A setting that is added to `audio` or `model` in `defaults.py` needs an entry here.
ADDED_LATER = {
    "model": {"pad_id": 0, "bos_id": 1, "eos_id": 2},
    "model.text_encoder": {"kind": "scratch", "rope_base_local": None},
    "data.augment": {"lead_in_seconds": 0.0},  # of runs, so that they can resume
}


def complete_exported(config: ConfigDict) -> ConfigDict:
    """Returns a copy of a config of an export or a run, with the settings that were added after it was written."""
    config = config.copy_and_resolve_references()
    for path, settings in ADDED_LATER.items():
        group = config
        for name in path.split("."):
            group = group.get(name) if isinstance(group, ConfigDict) else None
        if isinstance(group, ConfigDict):  # otherwise `validate_exported` reports the missing group
            with group.unlocked():
                group.update({name: value for name, value in settings.items() if name not in group})
    return config


def validate_exported(config: ConfigDict) -> None:
    """Requires `audio` and `model` to have every setting, each valid, and `data` the length of captions.

    Raises:
        ConfigError: names the setting, its value and what to write instead.
    """
    reference = default_config()
    for name in _SECTIONS:
        check_keys(config[name], reference[name], f"config.{name}", advice="all settings are required")
    check_rules(config, {path: rule for path, rule in RULES.items() if path.startswith(("audio.", "model."))})
    validate_front_end(config.audio)
    validate_towers(config.model)
    rule, tokens = RULES["data.max_caption_tokens"], config.data.get("max_caption_tokens")
    require(rule.accepts(tokens), f"config.data.max_caption_tokens is {tokens!r}; write {rule.text}")
