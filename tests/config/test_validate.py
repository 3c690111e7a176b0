"""Every impossible setting fails before anything is built, and says what to write."""

import re
from pathlib import Path

import pytest

from slap_jax.config.defaults import columns_of, default_config, source
from slap_jax.config.files import parse_arg, read_config
from slap_jax.config.rules import ConfigError
from slap_jax.config.validate import validate

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))


def config_with(**changes):
    config = default_config()
    config.data.train.clips = source("somewhere", "train")
    for path, value in changes.items():
        *parents, name = path.split("__")
        node = config
        for parent in parents:
            node = node[parent]
        with node.unlocked():
            node[name] = value
    return config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_are_valid_and_say_how_to_run_them(path):
    validate(read_config(str(path)), process_count=2)
    # By itself, or after what launches it on the machines that it is for.
    assert re.search(rf"(slap|--)[ \\\n]+train --config configs/{path.name}\b", path.read_text())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__widht": 3}, "config.model.widht is not a setting; config.model takes: "),
        ({"data__train__clips__wieght": 3}, "config.data.train.clips.wieght is not a setting"),
        ({"data__columns": 100}, "owns 188 columns; write columns=188 or more, or a smaller max_seconds"),
        ({"data__slots": 0}, "config.data.slots is 0"),
        ({"data__slots": 2}, "own 376 of the 512 columns of a row, so rows would never be full; write slots=3 or more"),
        (
            {"data__slots": 1, "data__rows": 1, "data__virtual_shards": 1, "data__columns": 188},
            "contrastive learning needs two clips",
        ),
        ({"data__rows": 7}, "config.data.rows is 7, not a multiple of config.data.virtual_shards=8"),
        ({"data__text_tokens": 64}, "less than one caption of config.data.max_caption_tokens=128"),
        ({"model__audio_encoder__layers": 10}, "write a multiple of 3"),
        ({"model__audio_encoder__heads": 7}, "not a multiple of its heads=7"),
        ({"model__compute_dtype": "float16"}, "write one of bfloat16, float32"),
        ({"objectives__contrastive__form": "triplet"}, "write one of softmax, sigmoid"),
        ({"optimizer__warmup_steps": 10**6}, "more than config.train.steps=100000"),
        ({"optimizer__learning_rate_factors": (("audio_encoder(", 0.1),)}, "is not a regex"),
        ({"objectives__distillation__mask_ratio": 1.0}, "write a value between 0 and 1"),
        ({"objectives__contrastive__block": 0}, "config.objectives.contrastive.block is 0; write 1 or more"),
        ({"objectives__distillation__token_chunk": -1}, "token_chunk is -1; write 0 or more"),
        ({"objectives__distillation__sinkhorn_iterations": 0}, "sinkhorn_iterations is 0; write 1 or more"),
        ({"train__accumulate": 3}, "config.train.accumulate is 3; write 1 or more, a divisor of config.data.rows=256"),
        ({"train__profile_steps": -1}, "config.train.profile_steps is -1; write 0 (for none) or more"),
        ({"distributed__heartbeat_timeout": 0}, "config.distributed.heartbeat_timeout is 0; write the seconds"),
        ({"data__temperature": 0.0}, "config.data.temperature is 0.0; write a number above 0, or None"),
        ({"data__read_threads": -1}, "config.data.read_threads is -1; write 0 to read as needed"),
        ({"data__decode_threads": 0}, "config.data.decode_threads is 0; write 1 or more"),
        ({"data__workers": -1}, "config.data.workers is -1; write 0 for threads"),
        ({"data__augment__gain_db": -3.0}, "config.data.augment.gain_db is -3.0; write the most decibels up or down"),
        ({"data__augment__noise_probability": 1.5}, "noise_probability is 1.5; write a value from 0 to 1"),
        ({"data__augment__noise_probability": 0.5}, "config.data.augment.noise_dir is empty; name a folder"),
        ({"data__augment__room_probability": 0.1}, "config.data.augment.room_dir is empty; name a folder"),
        ({"data__augment__noise_snr_db": (30.0, 5.0)}, "noise_snr_db is (30.0, 5.0); write (lowest, highest)"),
        ({"data__train__mine": "somewhere"}, "write config.data.train.mine = source(path, split)"),
        ({"data__train__clips__weight": 0.0}, "config.data.train.clips.weight is 0.0; write a number above 0"),
        ({"data__train__clips__objectives__contrast": 0.0}, "clips.objectives.contrast is not a setting"),
        ({"data__train__clips__objectives__captioning": -1.0}, "objectives.captioning is -1.0; write 0 or more"),
        ({"data__train__clips__objectives__captioning": 0.0}, "write config.objectives.captioning.weight=0"),
        ({"data__train__clips__captions__choice": "best"}, "choice is 'best'; write one of uniform, first, by_length"),
        ({"data__train__clips__captions__tag_probability": 2.0}, "tag_probability is 2.0; write a value from 0 to 1"),
        ({"data__train__clips__captions__length_bounds": (20, 8)}, "length_bounds is (20, 8); write the most words"),
        ({"data__train__clips__captions__length_shares": (0.0, 0.0, 0.0)}, "write three numbers, 0 or more"),
        ({"data__train__clips__captions__length_shares": (1.0, 2.0, 1.0)}, "only choice='by_length' uses it"),
        ({"data__train__clips__captions__paraphrase_probability": 0.1}, "only choice='first' uses it"),
        (
            {"data__train__clips__captions__tag_templates": ("a sound",)},
            "holds 'a sound'; write a template",
        ),
        ({"data__train__clips__captions__tag_templates": ()}, "tag_templates is empty"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_impossible_settings_say_what_to_write(changes, message):
    with pytest.raises(ConfigError) as error:
        validate(config_with(**changes))
    assert message in str(error.value)


def test_parts_of_a_batch_need_rows_for_every_device():
    config = config_with(train__accumulate=4, data__rows=64, data__virtual_shards=64)
    validate(config, device_count=16)
    with pytest.raises(ConfigError, match="accumulate=4 parts on 32 devices need a multiple of 128"):
        validate(config, device_count=32)


def test_no_source_no_objective_and_hosts_that_do_not_divide():
    with pytest.raises(ConfigError, match="names no source"):
        validate(default_config())
    nothing = {f"objectives__{name}__weight": 0.0 for name in ("contrastive", "distillation", "captioning")}
    with pytest.raises(ConfigError, match="nothing would be trained"):
        validate(config_with(**nothing))
    with pytest.raises(ConfigError, match="not a multiple of the 3 hosts"):
        validate(config_with(), process_count=3)


def test_a_source_that_no_objective_sees_is_named():
    config = config_with(objectives__distillation__weight=0.0)
    config.data.train.labelled = source("there", "train", objectives={"contrastive": 0, "captioning": 0})
    with pytest.raises(ConfigError, match=r"train.labelled.objectives is 0 for captioning and contrastive: nothing"):
        validate(config)
    config.objectives.distillation.weight = 1.0
    validate(config)


def test_sources_take_what_differs_from_the_defaults_and_know_every_name():
    given = source("data", "train", objectives={"captioning": 0}, captions={"choice": "first"})
    assert dict(given.objectives) == {"contrastive": 1, "distillation": 1, "captioning": 0, "classification": 1}
    assert given.captions.choice == "first" and given.captions.tag_keys == ("label",)
    assert source("data", "train").captions.choice == "uniform"
    with pytest.raises(ConfigError, match=r"objectives=\{'caption': \.\.\.\}\) is not a setting; it takes: con"):
        source("data", "train", objectives={"caption": 0})
    with pytest.raises(ConfigError, match=r"captions=\{'lenght': \.\.\.\}\) is not a setting; it takes: choice"):
        source("data", "train", captions={"lenght": 3})


def test_mesh_must_fit_the_devices_and_the_rows():
    validate(config_with(parallel__fsdp=4), device_count=8)
    with pytest.raises(ConfigError, match="does not divide 8 devices"):
        validate(config_with(parallel__fsdp=3), device_count=8)
    with pytest.raises(ConfigError, match="not a multiple of the 16 devices"):
        validate(config_with(data__rows=8), device_count=16)


def test_missing_setting_is_named():
    config = config_with()
    with config.unlocked():
        del config.optimizer.b1
    with pytest.raises(ConfigError, match=r"config.optimizer.b1 is missing"):
        validate(config)


def test_arguments_are_typed_and_unknown_ones_named():
    args = parse_arg("steps=30,small", steps=10, small=False, data="d")
    assert (args.steps, args.small, args.data) == (30, True, "d")
    with pytest.raises(ConfigError, match="'stpes' is unknown; this config takes: steps"):
        parse_arg("stpes=3", steps=1)
    with pytest.raises(ConfigError, match="steps='many' is not a int"):
        parse_arg("steps=many", steps=1)


def test_a_clip_owns_whole_columns_and_at_least_one():
    audio = default_config().audio
    assert [columns_of(seconds, audio) for seconds in (0.0, 0.16, 0.161, 10.24, 30.0)] == [1, 1, 2, 64, 188]
