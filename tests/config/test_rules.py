"""Every default setting has a rule, and a value that violates it is an error that names the setting."""

import math
from typing import Any

import pytest
from ml_collections import ConfigDict

from slap_jax.config.defaults import default_config, source
from slap_jax.config.rules import RULES, SOURCE_RULES, ConfigError, Rule
from slap_jax.config.validate import validate

SOURCE = "data.train.clips"
# Settings that accept any text, and any finite number; all others have choices and bounds.
ANY_TEXT = {"init_from", "init_text_from", "data.tokenizer", "data.augment.noise_dir", "data.augment.room_dir"}
ANY_TEXT |= {"objectives.classification.label", "train.suite", "train.suite_data", "train.best_metric"}
ANY_TEXT |= {f"{SOURCE}.path", f"{SOURCE}.split", f"{SOURCE}.label"}
UNBOUNDED = {"audio.mean", "objectives.contrastive.init_bias"}


def valid_config() -> ConfigDict:
    config = default_config()
    config.data.train.clips = source("somewhere", "train")
    return config


def leaves(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    values = {}
    for name in config:
        value = config[name]
        values |= leaves(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else {prefix + name: value}
    return values


def rule_of(path: str) -> Rule:
    return SOURCE_RULES[path.removeprefix(f"{SOURCE}.")] if path.startswith(f"{SOURCE}.") else RULES[path]


def rejected(path: str, value: Any) -> bool:
    """Returns whether validating the defaults with one changed value raises an error that names the setting."""
    config = valid_config()
    *groups, name = path.split(".")
    node = config
    for group in groups:
        node = node[group]
    with node.unlocked(), node.ignore_type():
        node[name] = value
    try:
        validate(config)
    except ConfigError as error:
        assert f"config.{path} is " in str(error) and "; write " in str(error)
        return True
    return False


def values_out_of_bounds(path: str, default: Any) -> list[Any]:
    if isinstance(default, bool):
        return [1, "yes", None]
    if isinstance(default, int | float) or default is None:  # None: an optional number
        values = [math.nan, math.inf, -math.inf, "many", True, (1,)]
        values += [] if isinstance(default, float | None) else [default + 0.5]
        values += [] if path in UNBOUNDED else [-1e9 if isinstance(default, float | None) else -(10**9)]
        return values if default is None else [*values, None]
    if isinstance(default, str):
        return [3, None, ("a",)]
    assert isinstance(default, tuple)
    return ["text", 3, None, (None,), (math.nan,) * len(default) or (math.nan,)]


ALL = leaves(valid_config())


def test_every_setting_has_a_rule_and_every_rule_a_setting():
    own = {path for path in ALL if not path.startswith(f"{SOURCE}.")}
    assert own == set(RULES)
    assert {path.removeprefix(f"{SOURCE}.") for path in set(ALL) - own} == set(SOURCE_RULES)


def test_the_defaults_are_valid():
    validate(valid_config())


@pytest.mark.parametrize("path", ALL)
def test_a_value_out_of_bounds_is_an_error_that_names_the_setting(path):
    rule = rule_of(path)
    values = values_out_of_bounds(path, ALL[path])
    assert [value for value in values if rule.accepts(value)] == []
    assert rejected(path, values[-1])


@pytest.mark.parametrize("path", [path for path, value in ALL.items() if isinstance(value, str)])
def test_an_unknown_choice_is_an_error(path):
    assert rule_of(path).accepts("no such choice") is (path in ANY_TEXT)
    assert path in ANY_TEXT or rejected(path, "no such choice")


@pytest.mark.parametrize(
    ("path", "inside", "outside"),
    [
        ("parallel.fsdp", (1, 8), (0, -2)),
        ("data.prefetch", (1, 1_024), (0, 1_025)),
        ("data.virtual_shards", (1, 8), (0, -8)),
        ("data.packing_bins", (1, 4_096), (0, 4_097)),
        ("audio.log_floor", (1e-30,), (0.0, -1e-5)),
        ("objectives.distillation.mask_ratio", (0.01, 0.99), (0.0, 1.0)),
        ("objectives.distillation.prototypes", (2,), (1,)),
        ("objectives.captioning.vocabulary_chunk", (1,), (0,)),
        ("objectives.contrastive.init_scale", (None, 0.1), (0.0, -1.0)),
        ("optimizer.clip_norm", (1e-9, 1e9), (0.0,)),
        ("optimizer.layer_decay", (0.1, 1.0), (0.0, 1.01)),
        ("optimizer.b2", (0.0, 0.999), (1.0,)),
        ("model.audio_encoder.local_window", (0,), (-1,)),
        ("spec_augment.time_fraction", (0.0, 1.0, 1), (-0.1, 5)),
        ("data.train.clips.weight", (0.1,), (0.0,)),
        ("data.train.clips.captions.length_bounds", ((8, 20), [8, 20]), ((0, 20), (8, 20, 30), (8.5, 20))),
        ("objectives.classification.class_weights", ((), (1.0, 2)), ((0.0, 1.0),)),
        ("optimizer.learning_rate_factors", ((("a", 0),), [["a", 0.5]]), ((("a", -1),), (("a",),), ((1, 2),))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bounds(path, inside, outside):
    rule = rule_of(path)
    assert all(rule.accepts(value) for value in inside)
    assert not any(rule.accepts(value) for value in outside)
    assert all(rejected(path, value) for value in outside)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("data.slots", 0, "config.data.slots is 0; write an integer, 1 or more"),
        ("seed", 2**32, "config.seed is 4294967296; write an integer from 0 to 4294967295"),
        ("audio.mean", math.nan, "config.audio.mean is nan; write a finite number, as `slap stats` prints it"),
        ("data.temperature", 0.0, "config.data.temperature is 0.0; write a number above 0, or None to use the weights"),
        ("optimizer.b1", 1.0, "config.optimizer.b1 is 1.0; write a number at least 0 and below 1"),
        ("model.compute_dtype", "float16", "is 'float16'; write one of bfloat16, float32"),
        ("data.train.clips.path", "gs://bucket/data", "write a path; mount the bucket of a URL and write the path of"),
        (
            "data.tokenizer",
            "s3://bucket/words.model",
            "config.data.tokenizer is 's3://bucket/words.model'; write a path",
        ),
        ("data.train.clips.weight", 0.0, "config.data.train.clips.weight is 0.0; write a number above 0"),
    ],
)
def test_messages(path, value, message):
    config = valid_config()
    config.update_from_flattened_dict({path: value})
    with pytest.raises(ConfigError) as error:
        validate(config)
    assert message in str(error.value)
