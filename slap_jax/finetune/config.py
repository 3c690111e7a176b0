"""Configs of fine-tuning: from a trained model, a task and prepared data to a config for `slap train`.

The model fixes the front end, the sizes of the towers and the vocabulary (`base_config`). The data decide which splits
train the model and which one chooses the best step (`training_sources`, `validation_sources`), the classes, and the
shape of a batch. The task decides what is trained, and how.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from slap_jax.checkpoints.hub import find_export
from slap_jax.checkpoints.model_dir import CONFIG, is_export, load_export
from slap_jax.checkpoints.read_model import run_config
from slap_jax.checkpoints.run import has_checkpoint
from slap_jax.config.defaults import columns_of, default_config, source
from slap_jax.config.rules import RULES, require
from slap_jax.data.batches.before_training import FILL, clips_per_batch, columns_per_clip
from slap_jax.data.records import Records, open_split, parse_dir_split, split_sizes
from slap_jax.finetune.classes import find_classes, require_captions
from slap_jax.inference.classifier import FinetuneError

TASKS = ("retrieval", "classification", "captioning")

# Parameters that a task does not train, as path regexes; no gradient is computed for them.
FROZEN: Mapping[str, tuple[str, ...]] = {
    "retrieval": (),
    "classification": ("^model/text_", "^model/audio_projection/"),
    "captioning": ("^model/text_", "^model/audio_projection/", "^model/audio_pooling/"),
}

# Starting points that we have not tuned.
LEARNING_RATE = {"retrieval": 3e-5, "classification": 3e-4, "captioning": 1e-4}
LAYER_DECAY = {"retrieval": 0.9, "classification": 0.75, "captioning": 0.75}
EPOCHS = {"retrieval": 10, "classification": 30, "captioning": 10}
BEST_METRIC = {
    "retrieval": "retrieval/{}/t2a_map10",
    "classification": "classification/{}/accuracy",
    "captioning": "-caption_loss/{}/nats_per_token",
}
VALIDATION_SPLITS = ("val", "validation", "valid", "dev")

_ROWS = 8  # rows are a multiple of this, so that up to 8 devices can share them
_MOST_EVALUATIONS = 20
_FEW_STEPS = 50


def finetune_config(
    model: str,
    task: str,
    train: Mapping[str, ConfigDict],
    evaluation: Mapping[str, ConfigDict] | None = None,
    *,
    label: str = "",
    multi_label: bool = False,
    balance: float = 0.0,
    max_seconds: float = 0.0,
    clips_per_step: int = 64,
    epochs: int = 0,
) -> ConfigDict:
    """Builds a config; every setting may be changed afterwards.

    Args:
        model: run directory or export directory to start from.
        task: retrieval, classification or captioning.
        train: name -> `source(path, split)` of prepared data.
        evaluation: name -> `source(path, split)`, evaluated once per epoch, but at most 20 times in total; the first
            one chooses the best checkpoint.
        label: classification: key of the labels; "" for `label`, or for the only key in the data.
        multi_label: classification: whether a clip may have several classes.
        balance: classification: 0 weights all clips equally, 1 all classes; see `Classes.weights`.
        max_seconds: longer clips are cropped at random; 0 for the model's value.
        clips_per_step: approximate number of clips in a step.
        epochs: approximate number of passes over the data; 0 for the default of the task.

    Raises:
        FinetuneError: there is no such model or task, or the data lack captions or the label.
        RecordsError: the data are not prepared or lack the split.
    """
    if task not in TASKS:
        raise FinetuneError(f"task {task!r} is unknown; give one of {', '.join(TASKS)}")
    config = base_config(model)
    splits = [open_split(source.path, source.split) for source in train.values()]
    for name, settings in train.items():
        config.data.train[name] = settings
    for name, settings in (evaluation or {}).items():
        open_split(settings.path, settings.split)  # reports a missing split before anything is built
        config.data.evaluation[name] = settings

    _choose_objective(config, task, splits, label, multi_label, balance)
    _choose_rows(config, splits, max_seconds, clips_per_step)
    _choose_schedule(config, task, steps_per_epoch(config, splits), epochs or EPOCHS[task])
    if advice := few_steps(config, splits, epochs or EPOCHS[task]):
        logging.warning("warning: %s", advice)
    return config


def base_config(model: str) -> ConfigDict:
    """Returns the default config with the settings that a trained model fixes, and `init_from` set to the model.

    Args:
        model: run directory, its `best`, or export directory; or an export on the Hugging Face hub, which
            `init_from` then names by its directory in the cache of the hub.

    Raises:
        FinetuneError: the run has no checkpoint.
        ExportError: there is no model, or a damaged one.
    """
    directory = find_export(model)
    config = default_config()
    if is_export(directory):
        export = load_export(directory)
        saved, tokenizer = export.config, str(export.tokenizer_path)
    else:
        saved = run_config(directory)
        tokenizer = saved.data.tokenizer
        if not has_checkpoint(directory):
            raise FinetuneError(f"{directory} has no checkpoint yet; train it first, or give another model")
    for section in ("audio", "spec_augment", "model", "objectives"):
        if section in saved:
            _copy_known(config[section], saved[section], f"{directory / CONFIG}: {section}")
    for setting in ("max_caption_tokens", "max_seconds"):
        if setting in saved.data:
            config.data[setting] = saved.data[setting]
    config.data.tokenizer = tokenizer
    config.model.attention, config.model.remat = "auto", "none"
    config.init_from = str(directory)
    return config


def training_sources(data: Sequence[str]) -> dict[str, ConfigDict]:
    """Parses training data `DIR[:SPLIT]`; the default split is `train`.

    Raises:
        FinetuneError: no split is named, and there is no `train`.
        RecordsError: the data are not prepared.
    """
    sources = {}
    for argument in data:
        path, split = parse_dir_split(argument)
        sizes = split_sizes(path)
        if not split and "train" not in sizes:
            raise FinetuneError(f"{path} has no split 'train', but {', '.join(sizes)}; name one: --data {path}:SPLIT")
        sources[_source_name(path, sources)] = source(path, split or "train", weight=1.0, captions={"tag_keys": ()})
    return sources


def validation_sources(data: Sequence[str], given: Sequence[str] | None) -> dict[str, ConfigDict]:
    """Parses validation data `DIR[:SPLIT]`.

    Args:
        data: the training data, whose first validation split is used if no validation data are given.
        given: the validation data.

    Raises:
        FinetuneError: no split is named, and there is none to validate on.
        RecordsError: the data are not prepared.
    """
    if given:
        sources = {}
        for argument in given:
            path, split = parse_dir_split(argument)
            split = split or _validation_split(path)
            if not split:
                splits = ", ".join(split_sizes(path))
                raise FinetuneError(
                    f"{path} has no validation split, but {splits}; name one: --validation {path}:SPLIT"
                )
            sources[_source_name("val", sources)] = source(path, split)
        return sources
    for argument in data:
        path, trained = parse_dir_split(argument)
        split = _validation_split(path)
        if split and split != trained:
            return {"val": source(path, split)}
    logging.warning("no validation data: nothing is evaluated during training; name some with --validation DIR:SPLIT")
    return {}


def best_metric(config: ConfigDict, task: str) -> str:
    """Returns the metric of the first evaluation set, which chooses the best checkpoint."""
    metric = BEST_METRIC[task].format(next(iter(config.data.evaluation)))
    multi_label = task == "classification" and config.objectives.classification.multi_label
    return metric.replace("/accuracy", "/map") if multi_label else metric


def steps_per_epoch(config: ConfigDict, splits: Sequence[Records]) -> int:
    """Returns about how many steps a pass over the data takes."""
    columns = columns_per_clip(config, splits) * sum(map(len, splits))
    return max(1, math.ceil(columns / (FILL * config.data.rows * config.data.columns)))


def few_steps(config: ConfigDict, splits: Sequence[Records], epochs: int) -> str:
    """Returns a warning and what gives more steps, if there are too few to learn much; "" otherwise.

    Args:
        config: a config of fine-tuning.
        splits: the training data.
        epochs: passes over the data that it makes.
    """
    steps = config.train.steps
    if steps >= _FEW_STEPS:
        return ""
    more = []
    if config.data.rows > _ROWS:
        smaller = config.copy_and_resolve_references()
        smaller.data.rows = _ROWS
        clips, many = clips_per_batch(smaller, splits), steps_per_epoch(smaller, splits) * epochs
        more = [f"--clips {clips} gives {many}"] if many > steps else []
    enough = math.ceil(2 * _FEW_STEPS / steps_per_epoch(config, splits))
    more.append(f"--epochs {enough} gives {enough * steps_per_epoch(config, splits)}")
    return f"{steps} steps are few for {sum(map(len, splits))} clips; {', '.join(more)}"


def _choose_objective(
    config: ConfigDict, task: str, splits: Sequence[Records], label: str, multi_label: bool, balance: float
) -> None:
    objectives = config.objectives
    for objective in objectives.values():
        objective.weight = 0.0
    if task == "classification":
        classes = find_classes(splits, label, multi_label)
        objectives.classification.update(
            weight=1.0,
            label=classes.label,
            classes=classes.names,
            multi_label=multi_label,
            class_weights=classes.weights(balance),
        )
        for settings in config.data.evaluation.values():
            if not multi_label:
                settings.label = settings.label or classes.label  # what `slap evaluate` classifies zero-shot
        logging.info("%d classes of label %s; %d clips lack it", len(classes.names), classes.label, classes.unlabelled)
    else:
        require_captions(splits, task)
        objectives["contrastive" if task == "retrieval" else "captioning"].weight = 1.0
    config.optimizer.learning_rate_factors = tuple((pattern, 0.0) for pattern in FROZEN[task])


def _choose_rows(config: ConfigDict, splits: Sequence[Records], max_seconds: float, clips_per_step: int) -> None:
    """Chooses rows as long as the longest clip, and as many as hold about `clips_per_step` clips."""
    data = config.data
    data.max_seconds = float(max_seconds or data.max_seconds)
    rule = RULES["data.max_seconds"]
    require(rule.accepts(data.max_seconds), f"max_seconds is {data.max_seconds}; write {rule.text}")
    data.columns = columns_of(data.max_seconds, config.audio)
    per_clip = columns_per_clip(config, splits)
    data.rows = _ROWS * max(1, round(clips_per_step * per_clip / (FILL * data.columns * _ROWS)))
    data.slots = max(4, math.ceil(2 * data.columns / per_clip))
    data.text_tokens = max(data.max_caption_tokens, 32 * math.ceil(data.slots / 2))
    data.update(virtual_shards=_ROWS, packing_bins=8, decode_threads=2)


def _choose_schedule(config: ConfigDict, task: str, steps_per_epoch: int, epochs: int) -> None:
    steps = steps_per_epoch * epochs
    config.optimizer.update(
        learning_rate=LEARNING_RATE[task],
        layer_decay=LAYER_DECAY[task],
        warmup_steps=max(1, steps // 10),
        schedule="cosine",
    )
    evaluate_every = steps_per_epoch * max(1, math.ceil(epochs / _MOST_EVALUATIONS))
    config.train.update(steps=steps, log_every=max(1, min(10, steps_per_epoch)))
    config.checkpoint.update(every=evaluate_every, keep=1)
    if len(config.data.evaluation):
        config.train.evaluate_every = evaluate_every
        config.train.best_metric = best_metric(config, task)
    logging.info("%d epochs of about %d steps: %d steps", epochs, steps_per_epoch, steps)


def _validation_split(path: str) -> str:
    sizes = split_sizes(path)
    return next((name for name in VALIDATION_SPLITS if name in sizes), "")


def _source_name(path: str, taken: Mapping[str, ConfigDict]) -> str:
    """Returns the name of the folder as a config key that is not taken yet."""
    stem = "".join(c if c.isalnum() else "_" for c in Path(path).name.lower()) or "data"
    stem = stem if stem[0].isalpha() else f"data_{stem}"
    names = [stem, *(f"{stem}_{number}" for number in range(2, len(taken) + 3))]
    return next(name for name in names if name not in taken)


def _copy_known(config: ConfigDict, saved: ConfigDict, where: str) -> None:
    """Copies the settings that both groups have; a model of another version may lack some, or have others."""
    for name in config:
        if name not in saved:
            continue
        value: Any = saved[name]
        if isinstance(config[name], ConfigDict):
            _copy_known(config[name], value, f"{where}.{name}")
            continue
        try:
            config[name] = tuple(value) if isinstance(config[name], tuple) else value
        except TypeError as error:
            raise FinetuneError(f"{where}.{name} is {value!r}: {error}; another version wrote this model") from None
