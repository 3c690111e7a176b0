"""From a trained model, a task and prepared data to the config of a fine-tuning, which runs as any other.

The data that `slap finetune` is given: which splits train, and which one chooses the best step.

What a new run takes over from the model that it starts from: its front end, its sizes and its vocabulary.
"""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from slap_jax.checkpoints.model_dir import CONFIG, is_export, load_export
from slap_jax.checkpoints.read_model import run_config
from slap_jax.checkpoints.run import has_checkpoint
from slap_jax.config.defaults import columns_of, default_config, source
from slap_jax.data.records import SUMMARY, Records, dataset_directory, open_split, parse_dir_split, split_sizes
from slap_jax.finetune.classes import find_classes, require_captions
from slap_jax.inference.classifier import FinetuneError

TASKS = ("retrieval", "classification", "captioning")

# What a task does not train; it stays as it is, and costs no gradient.
FROZEN: Mapping[str, tuple[str, ...]] = {
    "retrieval": (),
    "classification": ("^model/text_", "^model/audio_projection/"),
    "captioning": ("^model/text_", "^model/audio_projection/", "^model/audio_pooling/"),
}

# Where to start; none of these was tuned by us.
LEARNING_RATE = {"retrieval": 3e-5, "classification": 3e-4, "captioning": 1e-4}
LAYER_DECAY = {"retrieval": 0.9, "classification": 0.75, "captioning": 0.75}
EPOCHS = {"retrieval": 10, "classification": 30, "captioning": 10}
BEST_METRIC = {
    "retrieval": "retrieval/{}/t2a_map10",
    "classification": "classification/{}/accuracy",
    "captioning": "-caption_loss/{}/nats_per_token",
}
_ROWS = 8  # are a multiple of this, for as many devices
_FILL = 0.95  # of the columns, roughly
_MOST_EVALUATIONS = 20


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
    """Builds a config; everything in it may be changed afterwards.

    Args:
        model: run directory or export directory to start from.
        task: retrieval, classification or captioning.
        train: name -> `source(path, split)` of prepared data.
        evaluation: likewise, evaluated once an epoch, but at most 20 times in all; the first one chooses the best
            checkpoint.
        label: classification: key of the labels; "" takes `label`, or the only key that there is.
        multi_label: classification: a clip may have several classes.
        balance: classification: 0 counts all clips alike, 1 all classes, see `Classes.weights`.
        max_seconds: longer clips are cropped at random; 0 takes the model's.
        clips_per_step: about so many clips in a step.
        epochs: about so many passes over the data; 0 takes that of the task.

    Raises:
        FinetuneError: no model there, unknown task, no captions or no such labels in the data.
        RecordsError: data that are not prepared, or lack the split.
    """
    if task not in TASKS:
        raise FinetuneError(f"task {task!r} is unknown; give one of {', '.join(TASKS)}")
    config = base_config(model)
    splits = [open_split(source.path, source.split) for source in train.values()]
    for name, settings in train.items():
        config.data.train[name] = settings
    for name, settings in (evaluation or {}).items():
        open_split(settings.path, settings.split)  # a split that is missing is told before anything is built
        config.data.evaluation[name] = settings

    _choose_objective(config, task, splits, label, multi_label, balance)
    _choose_rows(config, splits, max_seconds, clips_per_step)
    _choose_schedule(config, task, steps_per_epoch(config, splits), epochs or EPOCHS[task])
    return config


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
        logging.info("%d classes of %s; %d clips without it", len(classes.names), classes.label, classes.unlabelled)
    else:
        require_captions(splits, task)
        objectives["contrastive" if task == "retrieval" else "captioning"].weight = 1.0
    config.optimizer.learning_rate_factors = tuple((pattern, 0.0) for pattern in FROZEN[task])


def _choose_rows(config: ConfigDict, splits: Sequence[Records], max_seconds: float, clips_per_step: int) -> None:
    """Rows as long as the longest clip, and as many as hold about the clips wanted."""
    data = config.data
    data.max_seconds = float(max_seconds or data.max_seconds)
    data.columns = columns_of(data.max_seconds, config.audio)
    per_clip = _columns_per_clip(config, splits)
    data.rows = _ROWS * max(1, round(clips_per_step * per_clip / (_FILL * data.columns * _ROWS)))
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
    logging.info("%d steps: %d epochs of about %d steps", steps, epochs, steps_per_epoch)


def best_metric(config: ConfigDict, task: str) -> str:
    """The metric by which the best checkpoint is chosen, of the first evaluation set."""
    metric = BEST_METRIC[task].format(next(iter(config.data.evaluation)))
    multi_label = task == "classification" and config.objectives.classification.multi_label
    return metric.replace("/accuracy", "/map") if multi_label else metric


def steps_per_epoch(config: ConfigDict, splits: Sequence[Records]) -> int:
    """About how many steps a pass over the data takes."""
    columns = _columns_per_clip(config, splits) * sum(map(len, splits))
    return max(1, math.ceil(columns / (_FILL * config.data.rows * config.data.columns)))


def _columns_per_clip(config: ConfigDict, splits: Sequence[Records]) -> float:
    """The mean, from the durations that `slap prepare` wrote down; clips are cropped to `max_seconds`."""
    seconds = sum(_seconds(records) for records in splits) / sum(map(len, splits))
    return columns_of(min(seconds, config.data.max_seconds), config.audio) + 0.5


def _seconds(records: Records) -> float:
    """The duration of all clips; data that other builders wrote are read for it."""
    summary = Path(dataset_directory(records.path)) / SUMMARY
    found: dict[str, Any] = json.loads(summary.read_text())["splits"] if summary.is_file() else {}
    names = records.split.split("+")
    if all(name in found for name in names):
        return sum(float(found[name]["seconds"]) for name in names)
    return sum(record.duration_s for record in records)


VALIDATION_SPLITS = ("val", "validation", "valid", "dev")


def training_sources(data: Sequence[str]) -> dict[str, ConfigDict]:
    """Reads `DIR[:SPLIT]`, of which `train` is the split by default.

    Raises:
        FinetuneError: a directory without that split.
        RecordsError: data that are not prepared.
    """
    found = {}
    for argument in data:
        path, split = parse_dir_split(argument)
        sizes = split_sizes(path)
        if not split and "train" not in sizes:
            raise FinetuneError(f"{path} has no split 'train', but {', '.join(sizes)}; name one: --data {path}:SPLIT")
        found[_name(path, found)] = source(path, split or "train", weight=1.0, captions={"tag_keys": ()})
    return found


def validation_sources(data: Sequence[str], given: Sequence[str] | None) -> dict[str, ConfigDict]:
    """Reads the validation data: those given, else the validation split of the first training data that have one.

    Raises:
        FinetuneError: a directory without a split to validate on.
        RecordsError: data that are not prepared.
    """
    if given:
        found = {}
        for argument in given:
            path, split = parse_dir_split(argument)
            split = split or _validation_split(path)
            if not split:
                there = ", ".join(split_sizes(path))
                raise FinetuneError(f"{path} has no validation split, but {there}; name one: --validation {path}:SPLIT")
            found[_name("val", found)] = source(path, split)
        return found
    for argument in data:
        path, trained = parse_dir_split(argument)
        split = _validation_split(path)
        if split and split != trained:
            return {"val": source(path, split)}
    logging.warning("no validation data: nothing is evaluated while training; give some with --validation DIR:SPLIT")
    return {}


def _validation_split(path: str) -> str:
    sizes = split_sizes(path)
    return next((name for name in VALIDATION_SPLITS if name in sizes), "")


def _name(path: str, taken: dict[str, ConfigDict]) -> str:
    """A name for a source: of its folder, made one that a config can hold."""
    stem = "".join(c if c.isalnum() else "_" for c in Path(path).name.lower()) or "data"
    stem = stem if stem[0].isalpha() else f"data_{stem}"
    names = [stem, *(f"{stem}_{number}" for number in range(2, len(taken) + 3))]
    return next(name for name in names if name not in taken)


def base_config(model: str) -> ConfigDict:
    """Returns the default config with what the model of a run or an export fixes, and `init_from` set to it.

    Args:
        model: run directory, its `best`, or export directory.

    Raises:
        FinetuneError: a run without a checkpoint.
        ExportError: neither a run nor an export, or a damaged one.
    """
    directory = Path(model)
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
            _take(config[section], saved[section], f"{directory / CONFIG}: {section}")
    for setting in ("max_caption_tokens", "max_seconds"):
        if setting in saved.data:
            config.data[setting] = saved.data[setting]
    config.data.tokenizer = tokenizer
    config.model.attention, config.model.remat = "auto", "none"
    config.init_from = model
    return config


def _take(own: ConfigDict, saved: ConfigDict, where: str) -> None:
    """Takes over the settings that both have; a run of another version may lack some, or have others."""
    for name in own:
        if name not in saved:
            continue
        value: Any = saved[name]
        if isinstance(own[name], ConfigDict):
            _take(own[name], value, f"{where}.{name}")
            continue
        try:
            own[name] = tuple(value) if isinstance(own[name], tuple) else value
        except TypeError as error:
            raise FinetuneError(f"{where}.{name} is {value!r}: {error}; the model is of another version") from None
