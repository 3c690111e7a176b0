"""Checks of `config.data`: rows, augmentation, and the sources of the mixture.

Checks of the towers and the vocabulary of `config.model`.

Checks of `config.objectives.classification`: the classes, and that mixing clips does not make captions wrong.

Whether the config of an export describes a model: a file that people edit, and that other versions wrote.
"""

import math
import re
from typing import Any, Protocol

from ml_collections import ConfigDict

from slap_jax.config.defaults import (
    CAPTION_POLICY,
    columns_of,
    default_config,
    samples_per_column,
    source,
)
from slap_jax.config.rules import ConfigError, check_choice, check_fraction, check_keys, require


def validate_data(config: ConfigDict, process_count: int) -> None:
    """Requires that clips fit into rows, rows onto hosts, and that every source teaches something."""
    data = config.data
    needed = columns_of(data.max_seconds, config.audio)
    require(
        data.columns >= needed,
        f"config.data.columns is {data.columns}, but a clip of config.data.max_seconds={data.max_seconds} owns "
        f"{needed} columns; write columns={needed} or more, or a smaller max_seconds",
    )
    enough = math.ceil(data.columns / needed)
    require(
        data.slots >= enough,
        f"config.data.slots is {data.slots}: as many of the longest clips own {data.slots * needed} of the "
        f"{data.columns} columns of a row, so rows would never be full; write slots={enough} or more",
    )
    require(
        data.max_caption_tokens >= 3,
        f"config.data.max_caption_tokens is {data.max_caption_tokens}; the start and end tokens alone take 2",
    )
    require(
        data.text_tokens >= data.max_caption_tokens,
        f"config.data.text_tokens is {data.text_tokens}, less than one caption of "
        f"config.data.max_caption_tokens={data.max_caption_tokens}",
    )
    shards = data.virtual_shards
    require(
        shards % process_count == 0,
        f"config.data.virtual_shards is {shards}, not a multiple of the {process_count} hosts; write a multiple of "
        "every number of hosts that may ever resume this run",
    )
    require(
        data.rows % shards == 0,
        f"config.data.rows is {data.rows}, not a multiple of config.data.virtual_shards={shards}",
    )
    if config.objectives.contrastive.weight > 0:
        require(
            data.rows * data.slots >= 2,
            f"config.data.slots is {data.slots} with rows={data.rows}: contrastive learning needs two clips or more "
            "in a batch",
        )
    require(data.read_threads >= 0, f"config.data.read_threads is {data.read_threads}; write 0 to read as needed")
    require(data.decode_threads >= 1, f"config.data.decode_threads is {data.decode_threads}; write 1 or more")
    require(data.workers >= 0, f"config.data.workers is {data.workers}; write 0 for threads, or a number of processes")
    _validate_augment(data.augment)
    _validate_sources(config)


def _validate_augment(augment: ConfigDict) -> None:
    name = "config.data.augment"
    require(augment.gain_db >= 0, f"{name}.gain_db is {augment.gain_db}; write the most decibels up or down, 0 or more")
    for kind in ("noise", "room"):
        probability = augment[f"{kind}_probability"]
        check_fraction(probability, f"{name}.{kind}_probability")
        require(
            probability == 0 or augment[f"{kind}_dir"] != "",
            f"{name}.{kind}_probability is {probability}, but {name}.{kind}_dir is empty; name a folder of audio files",
        )
    bounds = augment.noise_snr_db
    require(
        len(bounds) == 2 and bounds[0] <= bounds[1],
        f"{name}.noise_snr_db is {bounds}; write (lowest, highest) signal-to-noise ratio in decibels",
    )


def _validate_sources(config: ConfigDict) -> None:
    data = config.data
    require(len(data.train) > 0, "config.data.train names no source; add config.data.train.NAME = source(path, split)")
    for group in ("train", "evaluation"):
        for name, settings in data[group].items():
            validate_source(settings, f"config.data.{group}.{name}")
    require(
        data.temperature is None or data.temperature > 0,
        f"config.data.temperature is {data.temperature}; write a number above 0, or None for the weights as given",
    )
    trained = [name for name, objective in config.objectives.items() if objective.weight > 0]
    for name, settings in data.train.items():
        require(
            any(settings.objectives[objective] > 0 for objective in trained),
            f"config.data.train.{name}.objectives is 0 for {' and '.join(trained)}: nothing would learn from this "
            "source; set one above 0, or take the source out",
        )
    for objective in trained:
        require(
            any(settings.objectives[objective] > 0 for settings in data.train.values()),
            f"config.data.train.*.objectives.{objective} is 0 for every source; to train without it write "
            f"config.objectives.{objective}.weight=0",
        )


class Vocabulary(Protocol):
    """What is asked of a tokenizer here."""

    path: str
    vocab_size: int
    pad: int
    bos: int
    eos: int


def validate_towers(config: ConfigDict) -> None:
    """Requires that heads divide widths, super-blocks divide depths, and that special tokens are in the vocabulary."""
    model = config.model
    check_choice(config, "model.text_encoder.kind", ("scratch", "modernbert"))
    modernbert = model.text_encoder.kind == "modernbert"
    require(
        modernbert or config.init_text_from == "",
        f"config.init_text_from is {config.init_text_from!r}, the folder of a ModernBERT, but "
        f"config.model.text_encoder.kind is {model.text_encoder.kind!r}; write kind='modernbert'",
    )
    for name in ("audio_encoder", "text_encoder", "caption_decoder"):
        tower = model[name]
        require(
            tower.width % tower.heads == 0,
            f"config.model.{name}.width is {tower.width}, not a multiple of its heads={tower.heads}",
        )
        head_dim = tower.width // tower.heads
        multiple = 4 if name == "audio_encoder" else 2
        require(
            head_dim % multiple == 0,
            f"config.model.{name}: head size {tower.width}/{tower.heads}={head_dim} must be a multiple of {multiple}",
        )
        if "locals_per_global" not in tower:
            continue
        period, first = tower.locals_per_global + 1, int(modernbert and name == "text_encoder")
        wanted = f"1 + a multiple of {period}, as ModernBERT starts with a global layer"
        wanted = wanted if first else f"a multiple of {period}"
        require(
            tower.layers > first and (tower.layers - first) % period == 0,
            f"config.model.{name}.layers is {tower.layers}; with locals_per_global={tower.locals_per_global} "
            f"write {wanted}",
        )
    special = {f"{name}_id": model[f"{name}_id"] for name in ("pad", "bos", "eos")}
    found = ", ".join(f"{name}={value}" for name, value in special.items())
    require(
        len(set(special.values())) == 3 and all(0 <= value < model.vocab_size for value in special.values()),
        f"config.model has {found}; write three different ids below vocab_size={model.vocab_size}: 0, 1 and 2, or "
        "those of the tokenizer.json",
    )


def require_vocabulary(model: ConfigDict, tokenizer: Vocabulary) -> None:
    """Requires that `config.model` has room for a vocabulary and knows its special tokens.

    Raises:
        ConfigError: names the setting, what it is and what to write.
    """
    require(
        tokenizer.vocab_size <= model.vocab_size,
        f"config.model.vocab_size is {model.vocab_size}, but {tokenizer.path} has {tokenizer.vocab_size} pieces; write "
        f"vocab_size={tokenizer.vocab_size} or more",
    )
    for name in ("pad", "bos", "eos"):
        here, there = model[f"{name}_id"], getattr(tokenizer, name)
        require(
            here == there,
            f"config.model.{name}_id is {here}, but {tokenizer.path} has {there}; write config.model.{name}_id={there}",
        )


_NAME = "config.objectives.classification"


def validate_classification(config: ConfigDict) -> None:
    """Requires, where the objective is trained, a label key and its classes."""
    settings = config.objectives.classification
    check_fraction(settings.mixup_probability, f"{_NAME}.mixup_probability")
    require(settings.mixup_alpha > 0, f"{_NAME}.mixup_alpha is {settings.mixup_alpha}; write a number above 0")
    if settings.weight == 0:
        require(
            settings.mixup_probability == 0,
            f"{_NAME}.mixup_probability is {settings.mixup_probability}, but the objective's weight is 0: only clips "
            "with classes are mixed",
        )
        return
    classes = list(settings.classes)
    require(settings.label != "", f"{_NAME}.label is empty; write the key of the labels key=value to be predicted")
    require(
        len(classes) >= 2 and len(set(classes)) == len(classes),
        f"{_NAME}.classes is {tuple(classes)!r}; write two or more distinct names, or let `slap finetune` read them "
        "from the training data",
    )
    weights = list(settings.class_weights)
    require(
        not weights or (len(weights) == len(classes) and min(weights) > 0),
        f"{_NAME}.class_weights has {len(weights)} values for {len(classes)} classes; write a positive one for each, "
        "or ()",
    )
    for name in ("contrastive", "captioning"):
        require(
            settings.mixup_probability == 0 or config.objectives[name].weight == 0,
            f"{_NAME}.mixup_probability is {settings.mixup_probability} while config.objectives.{name}.weight is "
            f"{config.objectives[name].weight}: captions do not describe mixed clips; set one of the two to 0",
        )


def validate_exported(config: ConfigDict) -> None:
    """Requires that `audio` and `model` hold all settings, of their types and fitting together, and `data` its length.

    Raises:
        ConfigError: names the setting, the value found and what is expected.
    """
    whole = default_config()
    for name in ("audio", "model"):
        check_keys(config[name], whole[name], f"config.{name}", advice="every one must be there")
        _put(whole[name], config[name], f"config.{name}")
    validate_model(whole)
    most = config.data.get("max_caption_tokens")
    wanted = "expected an integer above 2"
    require(isinstance(most, int) and most > 2, f"config.data.max_caption_tokens is {most!r}; {wanted}")


def _put(into: ConfigDict, values: ConfigDict, name: str) -> None:
    """Sets settings one by one, so that a wrong type is told with its name."""
    for key, value in values.items():
        if isinstance(value, ConfigDict):
            _put(into[key], value, f"{name}.{key}")
            continue
        try:
            into[key] = value
        except TypeError:
            raise ConfigError(f"{name}.{key} is {value!r}; expected {into.get_type(key).__name__}") from None


def validate(config: ConfigDict, process_count: int = 1, device_count: int | None = None) -> None:
    """Checks a config before anything is built.

    Args:
        config: what a config file returned, overrides applied.
        process_count: hosts that will run it.
        device_count: devices over all hosts; None skips the checks of the mesh.

    Raises:
        ConfigError: names the setting, the value found and what to write instead.
    """
    check_keys(config, default_config(), named_by_user=("config.data.train", "config.data.evaluation"))
    check_choice(config, "objectives.contrastive.form", ("softmax", "sigmoid"))
    check_choice(config, "objectives.distillation.view", ("separate", "shared"))
    check_choice(config, "optimizer.schedule", ("cosine", "wsd", "constant"))
    validate_model(config)
    _validate_objectives(config)
    validate_classification(config)
    validate_data(config, process_count)
    _validate_training(config)
    if device_count is not None:
        _validate_mesh(config, device_count)


def validate_model(config: ConfigDict) -> None:
    """Rejects a front end and towers that cannot be; all that an export says of a model.

    Raises:
        ConfigError: as `validate`.
    """
    check_choice(config, "audio.dft", ("auto", "matmul", "rfft"))
    check_choice(config, "model.compute_dtype", ("bfloat16", "float32"))
    check_choice(config, "model.attention", ("auto", "dense", "blocked", "chunked", "splash", "flash"))
    check_choice(config, "model.remat", ("none", "dots", "full"))
    audio = config.audio
    require(
        audio.mels % audio.mels_per_patch == 0,
        f"config.audio.mels is {audio.mels}, not a multiple of config.audio.mels_per_patch={audio.mels_per_patch}",
    )
    require(
        audio.window_length <= audio.n_fft,
        f"config.audio.window_length is {audio.window_length}, longer than config.audio.n_fft={audio.n_fft}",
    )
    require(
        audio.n_fft <= samples_per_column(audio),
        f"config.audio.n_fft is {audio.n_fft}, longer than a column of {samples_per_column(audio)} samples",
    )
    require(audio.std > 0, f"config.audio.std is {audio.std}; write the positive value that `slap stats` prints")
    validate_towers(config)


def _validate_objectives(config: ConfigDict) -> None:
    for name, objective in config.objectives.items():
        require(objective.weight >= 0, f"config.objectives.{name}.weight is {objective.weight}; write 0 or more")
    require(
        any(objective.weight > 0 for objective in config.objectives.values()),
        "every config.objectives.*.weight is 0: nothing would be trained; set at least one above 0",
    )
    block = config.objectives.contrastive.block
    require(block >= 1, f"config.objectives.contrastive.block is {block}; write 1 or more")
    distillation = config.objectives.distillation
    for name, least in (("token_chunk", 0), ("sinkhorn_iterations", 1)):
        value = distillation[name]
        require(value >= least, f"config.objectives.distillation.{name} is {value}; write {least} or more")
    ratio = distillation.mask_ratio
    require(0 < ratio < 1, f"config.objectives.distillation.mask_ratio is {ratio}; write a value between 0 and 1")


def _validate_training(config: ConfigDict) -> None:
    optimizer = config.optimizer
    require(config.train.steps >= 1, f"config.train.steps is {config.train.steps}; write 1 or more")
    parts = config.train.accumulate
    require(
        parts >= 1 and config.data.rows % parts == 0,
        f"config.train.accumulate is {parts}; write 1 or more, a divisor of config.data.rows={config.data.rows}",
    )
    for name in ("profile_start", "profile_steps", "watchdog_seconds"):
        require(config.train[name] >= 0, f"config.train.{name} is {config.train[name]}; write 0 (for none) or more")
    best = config.train.best_metric
    require(
        config.train.patience >= 0,
        f"config.train.patience is {config.train.patience}; write evaluations to wait, or 0 for no early stopping",
    )
    require(
        best != "" or config.train.patience == 0,
        f"config.train.patience is {config.train.patience}, but config.train.best_metric is empty; name the metric, "
        "like retrieval/val/t2a_r1",
    )
    require(
        best == ""
        or (config.train.evaluate_every > 0 and (len(config.data.evaluation) > 0 or config.train.suite != "")),
        f"config.train.best_metric is {best!r}, but nothing is evaluated in the loop; set config.train.evaluate_every "
        "and config.data.evaluation",
    )
    require(
        (config.train.suite == "") == (config.train.suite_data == ""),
        f"config.train.suite is {config.train.suite!r} and suite_data is {config.train.suite_data!r}; name both, the "
        "suite and the directory of its prepared data, or neither",
    )
    for name, seconds in config.distributed.items():
        require(seconds >= 1, f"config.distributed.{name} is {seconds}; write the seconds to wait, 1 or more")
    require(config.train.log_every >= 1, f"config.train.log_every is {config.train.log_every}; write 1 or more")
    require(config.checkpoint.every >= 1, f"config.checkpoint.every is {config.checkpoint.every}; write 1 or more")
    require(
        optimizer.warmup_steps <= config.train.steps,
        f"config.optimizer.warmup_steps is {optimizer.warmup_steps}, more than config.train.steps={config.train.steps}",
    )
    require(
        0 < optimizer.layer_decay <= 1,
        f"config.optimizer.layer_decay is {optimizer.layer_decay}; write a value above 0, at most 1",
    )
    for rule in optimizer.learning_rate_factors:
        require(
            len(rule) == 2,
            f"config.optimizer.learning_rate_factors holds {rule!r}; write (path regex, factor) pairs",
        )
        try:
            re.compile(rule[0])
        except re.error as error:
            raise ConfigError(f"config.optimizer.learning_rate_factors: {rule[0]!r} is not a regex: {error}") from None


def _validate_mesh(config: ConfigDict, device_count: int) -> None:
    sizes = dict(config.parallel)
    fixed = math.prod(size for size in sizes.values() if size != -1)
    open_axes = [axis for axis, size in sizes.items() if size == -1]
    require(
        len(open_axes) <= 1, f"config.parallel has -1 for {' and '.join(open_axes)}; only one axis may take the rest"
    )
    require(
        device_count % fixed == 0 and (bool(open_axes) or fixed == device_count),
        f"config.parallel={sizes} does not divide {device_count} devices",
    )
    batch_ways = device_count // sizes["tensor"] if open_axes != ["tensor"] else sizes["data"] * sizes["fsdp"]
    require(
        config.data.rows % batch_ways == 0,
        f"config.data.rows is {config.data.rows}, not a multiple of the {batch_ways} devices over which rows are split "
        "(data x fsdp)",
    )
    parts = config.train.accumulate
    require(
        config.data.rows % (batch_ways * parts) == 0,
        f"config.data.rows is {config.data.rows}: config.train.accumulate={parts} parts on {batch_ways} devices need a "
        f"multiple of {batch_ways * parts}",
    )


def validate_source(settings: Any, name: str) -> None:
    """Checks one source.

    Args:
        settings: what `source` returned, overrides applied.
        name: what messages call it, like "config.data.train.clips".

    Raises:
        ConfigError: names the setting, the value found and what to write instead.
    """
    require(isinstance(settings, ConfigDict), f"{name} is {settings!r}; write {name} = source(path, split)")
    check_keys(settings, source("", ""), name)
    require(settings.weight > 0, f"{name}.weight is {settings.weight}; write a number above 0")
    for objective, factor in settings.objectives.items():
        require(factor >= 0, f"{name}.objectives.{objective} is {factor}; write 0 or more")
    _validate_captions(settings.captions, f"{name}.captions")


def _validate_captions(policy: ConfigDict, name: str) -> None:
    check_choice(policy, "choice", ("uniform", "first", "by_length"), name)
    check_fraction(policy.paraphrase_probability, f"{name}.paraphrase_probability")
    check_fraction(policy.tag_probability, f"{name}.tag_probability")
    bounds, shares = policy.length_bounds, policy.length_shares
    require(
        len(bounds) == 2 and 0 < bounds[0] < bounds[1],
        f"{name}.length_bounds is {bounds}; write the most words of a short and of a medium caption, like (8, 20)",
    )
    require(
        len(shares) == 3 and min(shares) >= 0 and max(shares) > 0,
        f"{name}.length_shares is {shares}; write three numbers, 0 or more, for short, medium and long captions",
    )
    require(
        len(policy.tag_templates) > 0, f"{name}.tag_templates is empty; write one or more, like 'the sound of {{}}'"
    )
    for template in policy.tag_templates:
        require(
            template.count("{}") == 1,
            f"{name}.tag_templates holds {template!r}; write a template with one {{}}, where the labels go",
        )
    used_by = {"paraphrase_probability": "first", "length_bounds": "by_length", "length_shares": "by_length"}
    for setting, choice in used_by.items():
        require(
            policy[setting] == CAPTION_POLICY[setting] or policy.choice == choice,
            f"{name}.{setting} is set, but only choice={choice!r} uses it and {name}.choice is {policy.choice!r}",
        )
