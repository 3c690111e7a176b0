"""Rejects a config that cannot work before anything is built: first every setting alone, then settings together.

`validate` applies the tables of `rules.py` and then the checks below, from the sizes that others are computed from
(front end, towers) to those that use them (rows, sources, schedule, mesh).
"""

import math
import re
from typing import Protocol

from ml_collections import ConfigDict

from slap_jax.config.defaults import CAPTION_POLICY, columns_of, default_config, mesh_sizes, samples_per_column, source
from slap_jax.config.rules import RULES, SOURCE_RULES, ConfigError, check_keys, check_rules, require

_GROUPS_OF_SOURCES = ("config.data.train", "config.data.evaluation")


class Vocabulary(Protocol):
    """The part of a tokenizer that `require_vocabulary` compares with the config."""

    path: str
    vocab_size: int
    pad: int
    bos: int
    eos: int


def validate(config: ConfigDict, process_count: int = 1, device_count: int | None = None) -> None:
    """Checks a config before anything is built.

    Args:
        config: result of a config file, with overrides applied.
        process_count: hosts that will run it.
        device_count: devices over all hosts; None skips the checks of the mesh.

    Raises:
        ConfigError: names the setting, its value and what to write instead.
    """
    check_keys(config, default_config(), named_by_user=_GROUPS_OF_SOURCES)
    check_rules(config, RULES)
    for group in ("train", "evaluation"):
        for name, settings in config.data[group].items():
            _validate_source(settings, f"config.data.{group}.{name}")
    validate_front_end(config.audio)
    validate_towers(config.model)
    _validate_start(config)
    _validate_objectives(config)
    _validate_classification(config)
    _validate_rows(config, process_count)
    _validate_augment(config.data.augment)
    _validate_mixture(config)
    _validate_optimizer(config)
    _validate_evaluation(config)
    if device_count is not None:
        _validate_mesh(config, device_count)


def validate_front_end(audio: ConfigDict) -> None:
    """Requires windows to fit into frames, frames into columns, and patches into the mel axis.

    Args:
        audio: `config.audio`, whose settings obey `RULES`.

    Raises:
        ConfigError: as `validate`.
    """
    require(
        audio.mels % audio.mels_per_patch == 0,
        f"config.audio.mels is {audio.mels}, not a multiple of config.audio.mels_per_patch={audio.mels_per_patch}; "
        f"{_multiples(audio.mels, audio.mels_per_patch)}",
    )
    require(
        audio.mels <= audio.n_fft // 2,
        f"config.audio.mels is {audio.mels}; write at most half of config.audio.n_fft={audio.n_fft}",
    )
    require(
        audio.window_length <= audio.n_fft,
        f"config.audio.window_length is {audio.window_length}; write at most config.audio.n_fft={audio.n_fft}",
    )
    require(
        audio.n_fft <= samples_per_column(audio),
        f"config.audio.n_fft is {audio.n_fft}; write at most the {samples_per_column(audio)} samples of a column",
    )
    require(
        audio.f_min < audio.f_max <= audio.sample_rate / 2,
        f"config.audio.f_min is {audio.f_min} and f_max is {audio.f_max}; write f_min below f_max, and f_max at most "
        f"half of config.audio.sample_rate={audio.sample_rate}",
    )


def validate_towers(model: ConfigDict) -> None:
    """Requires heads to divide widths, super-blocks to divide depths, and the special tokens to be distinct ids.

    Args:
        model: `config.model`, whose settings obey `RULES`.

    Raises:
        ConfigError: as `validate`.
    """
    for name in ("audio_encoder", "text_encoder", "caption_decoder"):
        tower = model[name]
        require(
            tower.width % tower.heads == 0,
            f"config.model.{name}.width is {tower.width}, not a multiple of its heads={tower.heads}; "
            f"{_multiples(tower.width, tower.heads)}",
        )
        head_dim = tower.width // tower.heads
        multiple = 4 if name == "audio_encoder" else 2  # RoPE rotates pairs; 2-D RoPE gives each axis half of a head
        require(
            head_dim % multiple == 0,
            f"config.model.{name} has heads of width {tower.width}/{tower.heads}={head_dim}; write a width and heads "
            f"whose quotient is a multiple of {multiple}",
        )
        if "locals_per_global" not in tower:
            continue
        period = tower.locals_per_global + 1
        first = int(name == "text_encoder" and tower.kind == "modernbert")  # ModernBERT starts with a global layer
        depths = f"1 + a multiple of {period} for ModernBERT" if first else f"a multiple of {period}"
        require(
            tower.layers > first and (tower.layers - first) % period == 0,
            f"config.model.{name}.layers is {tower.layers}; with locals_per_global={tower.locals_per_global} "
            f"write {depths}",
        )
    ids = {name: model[name] for name in ("pad_id", "bos_id", "eos_id")}
    require(
        len(set(ids.values())) == 3 and max(ids.values()) < model.vocab_size,
        f"config.model has {', '.join(f'{name}={value}' for name, value in ids.items())}; write three different ids "
        f"below vocab_size={model.vocab_size}: 0, 1 and 2, or those of the tokenizer.json",
    )


def require_vocabulary(model: ConfigDict, tokenizer: Vocabulary) -> None:
    """Requires `config.model` to have room for a vocabulary and to use its special tokens.

    Raises:
        ConfigError: as `validate`.
    """
    require(
        tokenizer.vocab_size <= model.vocab_size,
        f"config.model.vocab_size is {model.vocab_size}, but {tokenizer.path} has {tokenizer.vocab_size} pieces; write "
        f"vocab_size={tokenizer.vocab_size} or more",
    )
    for name in ("pad", "bos", "eos"):
        configured, actual = model[f"{name}_id"], getattr(tokenizer, name)
        require(
            configured == actual,
            f"config.model.{name}_id is {configured}, but {tokenizer.path} has {actual}; write "
            f"config.model.{name}_id={actual}",
        )


def _validate_source(settings: ConfigDict, name: str) -> None:
    if not isinstance(settings, ConfigDict):
        raise ConfigError(f"{name} is {settings!r}; write {name} = source(path, split)")
    check_keys(settings, source("", ""), name, advice=f"write {name} = source(path, split)")
    check_rules(settings, SOURCE_RULES, name)
    policy, name = settings.captions, f"{name}.captions"
    require(
        policy.length_bounds[0] < policy.length_bounds[1],
        f"{name}.length_bounds is {policy.length_bounds}; write the larger number of words last, like (8, 20)",
    )
    require(
        max(policy.length_shares) > 0,
        f"{name}.length_shares is {policy.length_shares}; write at least one number above 0",
    )
    for template in policy.tag_templates:
        require(
            template.count("{}") == 1,
            f"{name}.tag_templates has {template!r}; write a template with exactly one {{}}, which the labels replace",
        )
    used_by = {"paraphrase_probability": "first", "length_bounds": "by_length", "length_shares": "by_length"}
    for setting, choice in used_by.items():
        require(
            policy.choice == choice or _tuple_of(policy[setting]) == _tuple_of(CAPTION_POLICY[setting]),
            f"{name}.{setting} is set, but only choice={choice!r} uses it and {name}.choice is {policy.choice!r}",
        )


def _validate_start(config: ConfigDict) -> None:
    kind = config.model.text_encoder.kind
    require(
        config.init_text_from == "" or kind == "modernbert",
        f"config.init_text_from is {config.init_text_from!r}, a ModernBERT folder, but config.model.text_encoder.kind "
        f"is {kind!r}; write kind='modernbert'",
    )


def _validate_objectives(config: ConfigDict) -> None:
    require(
        any(objective.weight > 0 for objective in config.objectives.values()),
        "every config.objectives.*.weight is 0, so nothing would be trained; set at least one above 0",
    )


def _validate_classification(config: ConfigDict) -> None:
    name, settings = "config.objectives.classification", config.objectives.classification
    if settings.weight == 0:
        require(
            settings.mixup_probability == 0,
            f"{name}.mixup_probability is {settings.mixup_probability}, but {name}.weight is 0; only classification "
            "learns from mixed clips, so set the weight or leave out mixup",
        )
        return
    require(settings.label != "", f"{name}.label is empty; write the key of the labels key=value to predict")
    require(
        len(settings.classes) >= 2 and len(set(settings.classes)) == len(settings.classes),
        f"{name}.classes is {tuple(settings.classes)!r}; write two or more distinct names, or let `slap finetune` read "
        "them from the training data",
    )
    require(
        len(settings.class_weights) in (0, len(settings.classes)),
        f"{name}.class_weights has {len(settings.class_weights)} values for {len(settings.classes)} classes; write one "
        "for each class, or ()",
    )
    for other in ("contrastive", "captioning"):
        weight = config.objectives[other].weight
        require(
            settings.mixup_probability == 0 or weight == 0,
            f"{name}.mixup_probability is {settings.mixup_probability} while config.objectives.{other}.weight is "
            f"{weight}: captions do not describe mixed clips; set one of the two to 0",
        )


def _validate_rows(config: ConfigDict, process_count: int) -> None:
    data = config.data
    needed = columns_of(data.max_seconds, config.audio)
    require(
        data.columns >= needed,
        f"config.data.columns is {data.columns}, but a clip of config.data.max_seconds={data.max_seconds} needs "
        f"{needed} columns; write columns={needed} or more, or a smaller max_seconds",
    )
    enough = math.ceil(data.columns / needed)
    require(
        data.slots >= enough,
        f"config.data.slots is {data.slots}, and {data.slots} of the longest clips fill {data.slots * needed} of the "
        f"{data.columns} columns: rows would never be full; write slots={enough} or more",
    )
    require(
        data.text_tokens >= data.max_caption_tokens,
        f"config.data.text_tokens is {data.text_tokens}, less than one caption of "
        f"config.data.max_caption_tokens={data.max_caption_tokens}; write at least that many, or shorter captions",
    )
    require(
        data.virtual_shards % process_count == 0,
        f"config.data.virtual_shards is {data.virtual_shards}, not a multiple of the {process_count} hosts; write a "
        "multiple of every number of hosts that may ever resume this run",
    )
    require(
        data.rows % data.virtual_shards == 0,
        f"config.data.rows is {data.rows}, not a multiple of config.data.virtual_shards={data.virtual_shards}; "
        f"{_multiples(data.rows, data.virtual_shards)}",
    )
    require(
        data.rows % config.train.accumulate == 0,
        f"config.train.accumulate is {config.train.accumulate}; write a divisor of config.data.rows={data.rows}",
    )
    require(
        data.rows * data.slots >= 2 or config.objectives.contrastive.weight == 0,
        f"config.data.slots is {data.slots} with rows={data.rows}, but contrastive learning needs at least two clips "
        "in a batch; write slots=2 or more",
    )


def _validate_augment(augment: ConfigDict) -> None:
    name = "config.data.augment"
    for kind in ("noise", "room"):
        probability = augment[f"{kind}_probability"]
        require(
            probability == 0 or augment[f"{kind}_dir"] != "",
            f"{name}.{kind}_probability is {probability}, but {name}.{kind}_dir is empty; name a folder of audio files",
        )
    low, high = augment.noise_snr_db
    require(low <= high, f"{name}.noise_snr_db is {(low, high)}; write (lowest, highest)")


def _validate_mixture(config: ConfigDict) -> None:
    sources = config.data.train
    require(len(sources) > 0, "config.data.train names no source; add config.data.train.NAME = source(path, split)")
    trained = [name for name, objective in config.objectives.items() if objective.weight > 0]
    for name, settings in sources.items():
        require(
            any(settings.objectives[objective] > 0 for objective in trained),
            f"config.data.train.{name}.objectives is 0 for {' and '.join(trained)}: nothing would learn from this "
            "source; set one above 0, or remove the source",
        )
    for objective in trained:
        require(
            any(settings.objectives[objective] > 0 for settings in sources.values()),
            f"config.data.train.*.objectives.{objective} is 0 for every source; to train without this objective write "
            f"config.objectives.{objective}.weight=0",
        )


def _validate_optimizer(config: ConfigDict) -> None:
    optimizer = config.optimizer
    require(
        optimizer.warmup_steps <= config.train.steps,
        f"config.optimizer.warmup_steps is {optimizer.warmup_steps}, more than config.train.steps="
        f"{config.train.steps}; write at most that many, such as {config.train.steps // 10}",
    )
    for pattern, _ in optimizer.learning_rate_factors:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ConfigError(f"config.optimizer.learning_rate_factors: {pattern!r} is not a regex: {error}") from None


def _validate_evaluation(config: ConfigDict) -> None:
    train = config.train
    require(
        train.best_metric != "" or train.patience == 0,
        f"config.train.patience is {train.patience}, but config.train.best_metric is empty; name the metric, like "
        "retrieval/val/t2a_r1",
    )
    evaluates = train.evaluate_every > 0 and (len(config.data.evaluation) > 0 or train.suite != "")
    require(
        train.best_metric == "" or evaluates,
        f"config.train.best_metric is {train.best_metric!r}, but nothing is evaluated during training; set "
        "config.train.evaluate_every and config.data.evaluation",
    )
    require(
        (train.suite == "") == (train.suite_data == ""),
        f"config.train.suite is {train.suite!r} and suite_data is {train.suite_data!r}; set both, the suite and the "
        "directory of its prepared data, or neither",
    )


def _validate_mesh(config: ConfigDict, device_count: int) -> None:
    data, fsdp, _ = mesh_sizes(config.parallel, device_count)
    rows, shards, parts = config.data.rows, data * fsdp, config.train.accumulate
    require(
        rows % shards == 0,
        f"config.data.rows is {rows}, not a multiple of the {shards} devices over which rows are split (data x fsdp); "
        f"{_multiples(rows, shards)}",
    )
    require(
        rows % (shards * parts) == 0,
        f"config.data.rows is {rows}; with config.train.accumulate={parts} on {shards} devices write a multiple of "
        f"{shards * parts}",
    )


def _multiples(value: int, factor: int) -> str:
    """Returns the advice to write one of the multiples around a value."""
    below = value // factor * factor
    return f"write {below} or {below + factor}" if below else f"write {factor}"


def _tuple_of(value: object) -> object:
    # Configs that were read from JSON have lists.
    return tuple(value) if isinstance(value, list) else value
