"""Settings that contradict each other fail before anything is built, and the error says what to write."""

import re
from pathlib import Path

import pytest

from slap_jax.config.defaults import columns_of, default_config, source
from slap_jax.config.files import read_config
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
        with node.unlocked(), node.ignore_type():
            node[name] = value
    return config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_are_valid_and_say_how_to_run_them(path):
    validate(read_config(str(path)), process_count=2)
    # On its own, or after the launch script for its machines.
    assert re.search(rf"(slap|--)[ \\\n]+train --config configs/{path.name}\b", path.read_text())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__widht": 3}, "config.model.widht is not a setting; config.model takes: "),
        ({"data__train__clips__wieght": 3}, "config.data.train.clips.wieght is not a setting; did you mean"),
        ({"data__train__mine": "somewhere"}, "write config.data.train.mine = source(path, split)"),
        ({"data__augment": 3}, "config.data.augment is 3; expected a group of settings"),
        ({"data__train": 3}, "config.data.train is 3; expected a group of settings"),
        ({"audio__mels": 100_000}, "config.audio.mels is 100000; write at most half of config.audio.n_fft=512"),
        ({"audio__mels": 60}, "config.audio.mels is 60, not a multiple of config.audio.mels_per_patch=16"),
        ({"audio__window_length": 600}, "config.audio.window_length is 600; write at most config.audio.n_fft=512"),
        ({"audio__n_fft": 4096}, "config.audio.n_fft is 4096; write at most the 2560 samples of a column"),
        ({"audio__f_min": 9_000.0}, "config.audio.f_min is 9000.0 and f_max is 8000.0; write f_min below f_max"),
        ({"audio__f_max": 9_000.0}, "f_max at most half of config.audio.sample_rate=16000"),
        ({"model__audio_encoder__layers": 10}, "write a multiple of 3"),
        ({"model__audio_encoder__heads": 7}, "not a multiple of its heads=7"),
        ({"model__audio_encoder__width": 24}, "has heads of width 24/12=2; write a width and heads whose quotient is"),
        ({"model__eos_id": 1}, "pad_id=0, bos_id=1, eos_id=1; write three different ids below vocab_size=32000"),
        ({"init_text_from": "folder"}, "config.model.text_encoder.kind is 'scratch'; write kind='modernbert'"),
        ({"data__columns": 100}, "needs 188 columns; write columns=188 or more, or a smaller max_seconds"),
        ({"data__slots": 2}, "fill 376 of the 512 columns: rows would never be full; write slots=3 or more"),
        (
            {"data__slots": 1, "data__rows": 1, "data__virtual_shards": 1, "data__columns": 188},
            "contrastive learning needs at least two clips",
        ),
        ({"data__rows": 7}, "config.data.rows is 7, not a multiple of config.data.virtual_shards=8; write 8"),
        ({"data__rows": 20}, "config.data.rows is 20, not a multiple of config.data.virtual_shards=8; write 16 or 24"),
        ({"data__text_tokens": 64}, "less than one caption of config.data.max_caption_tokens=128"),
        ({"train__accumulate": 3}, "config.train.accumulate is 3; write a divisor of config.data.rows=256"),
        (
            {"optimizer__warmup_steps": 10**6},
            "config.train.steps=100000; write at most that many, such as 10000",
        ),
        ({"optimizer__learning_rate_factors": (("audio_encoder(", 0.1),)}, "'audio_encoder(' is not a regex"),
        ({"train__patience": 3}, "config.train.patience is 3, but config.train.best_metric is empty"),
        ({"train__best_metric": "retrieval/val/t2a_r1"}, "nothing is evaluated during training; set"),
        ({"train__suite": "paper"}, "config.train.suite is 'paper' and suite_data is ''; set both"),
        ({"data__augment__noise_probability": 0.5}, "config.data.augment.noise_dir is empty; name a folder"),
        ({"data__augment__room_probability": 0.1}, "config.data.augment.room_dir is empty; name a folder"),
        ({"data__augment__noise_snr_db": (30.0, 5.0)}, "noise_snr_db is (30.0, 5.0); write (lowest, highest)"),
        ({"data__train__clips__objectives__captioning": 0.0}, "write config.objectives.captioning.weight=0"),
        ({"data__train__clips__captions__length_bounds": (20, 8)}, "is (20, 8); write the larger number of words last"),
        ({"data__train__clips__captions__length_shares": (0, 0, 0)}, "write at least one number above 0"),
        ({"data__train__clips__captions__length_shares": (1.0, 2.0, 1.0)}, "only choice='by_length' uses it"),
        ({"data__train__clips__captions__tag_templates": ("a sound",)}, "has 'a sound'; write a template with exactly"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_that_contradict_each_other_say_what_to_write(changes, message):
    with pytest.raises(ConfigError) as error:
        validate(config_with(**changes))
    assert message in str(error.value)


def test_accumulation_needs_rows_for_every_device():
    config = config_with(train__accumulate=4, data__rows=64, data__virtual_shards=64)
    validate(config, device_count=16)
    with pytest.raises(ConfigError, match="accumulate=4 on 32 devices write a multiple of 128"):
        validate(config, device_count=32)


def test_missing_sources_objectives_and_hosts_that_do_not_divide_are_errors():
    with pytest.raises(ConfigError, match="names no source"):
        validate(default_config())
    nothing = {f"objectives__{name}__weight": 0.0 for name in ("contrastive", "distillation", "captioning")}
    with pytest.raises(ConfigError, match="nothing would be trained"):
        validate(config_with(**nothing))
    with pytest.raises(ConfigError, match="not a multiple of the 3 hosts"):
        validate(config_with(), process_count=3)


def test_a_source_without_any_objective_is_an_error():
    config = config_with(objectives__distillation__weight=0.0)
    config.data.train.labelled = source("there", "train", objectives={"contrastive": 0, "captioning": 0})
    with pytest.raises(ConfigError, match=r"train.labelled.objectives is 0 for captioning and contrastive: nothing"):
        validate(config)
    config.objectives.distillation.weight = 1.0
    validate(config)


def test_source_accepts_changes_and_rejects_unknown_names():
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
    with pytest.raises(ConfigError, match="describes 3 devices, but there are 8; write sizes whose product is 8"):
        validate(config_with(parallel__fsdp=3), device_count=8)
    with pytest.raises(ConfigError, match="has -1 for 2 axes; write it for one axis at most"):
        validate(config_with(parallel__fsdp=-1), device_count=8)
    with pytest.raises(ConfigError, match="not a multiple of the 16 devices"):
        validate(config_with(data__rows=8), device_count=16)


def test_missing_setting_is_named():
    config = config_with()
    with config.unlocked():
        del config.optimizer.b1
    with pytest.raises(ConfigError, match=r"config.optimizer.b1 is missing"):
        validate(config)


def test_a_clip_occupies_whole_columns_and_at_least_one():
    audio = default_config().audio
    assert [columns_of(seconds, audio) for seconds in (0.0, 0.16, 0.161, 10.24, 30.0)] == [1, 1, 2, 64, 188]
