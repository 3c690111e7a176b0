"""The rule of every setting: its type, its bounds or choices, and what to write instead of a value that breaks it.

`RULES` has an entry for every value in `default_config()`, `SOURCE_RULES` for every value in `source(...)`; a test
compares both tables with the defaults. Checks that involve several settings are in `validate.py`, which applies these
tables first: the checks after them may divide by any size.
"""

import dataclasses
import difflib
import math
import numbers
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ml_collections import ConfigDict

from slap_jax.errors import UserError, is_url


class ConfigError(UserError, ValueError):
    """A setting that cannot work; the message names the setting, its value and what to write."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """What one setting accepts.

    Attributes:
        text: completes the message "config.x is 0; write ...".
        accepts: returns whether a value, of any type, is valid.
    """

    text: str
    accepts: Callable[[Any], bool]


def integer(low: int, high: int | None = None, note: str = "", special: tuple[Any, ...] = ()) -> Rule:
    """Accepts integers from `low` to `high`, and the special values; the message ends with the note."""
    text = f"an integer, {low} or more" if high is None else f"an integer from {low} to {high}"
    return Rule(
        _with_note(text, note),
        lambda value: (
            value in special
            or (_is_number(value, numbers.Integral) and value >= low and (high is None or value <= high))
        ),
    )


def real(
    low: float = -math.inf,
    high: float = math.inf,
    note: str = "",
    special: tuple[Any, ...] = (),
    *,
    above: float = -math.inf,
    below: float = math.inf,
) -> Rule:
    """Accepts finite numbers from `low` to `high`, larger than `above` and smaller than `below`."""
    bounds = {"at least": low, "above": above, "at most": high, "below": below}
    limits = [f"{word} {bound:g}" for word, bound in bounds.items() if math.isfinite(bound)]
    text = f"a number {' and '.join(limits)}" if limits else "a finite number"
    if math.isfinite(low) and math.isfinite(high):
        text = f"a number from {low:g} to {high:g}"
    return Rule(
        _with_note(text, note),
        lambda value: (
            value in special or (_is_number(value, numbers.Real) and low <= value <= high and above < value < below)
        ),
    )


def choice(*options: str) -> Rule:
    """Accepts one of several words."""
    return Rule(f"one of {', '.join(options)}", lambda value: isinstance(value, str) and value in options)


def items(rule: Rule, text: str, least: int = 0) -> Rule:
    """Accepts a tuple or list of any length whose items all obey the rule."""
    return Rule(text, lambda value: _is_sequence(value) and len(value) >= least and all(map(rule.accepts, value)))


def fixed(text: str, *rules: Rule) -> Rule:
    """Accepts a tuple or list with as many items as there are rules, each obeying its own."""
    return Rule(
        text,
        lambda value: (
            _is_sequence(value)
            and len(value) == len(rules)
            and all(rule.accepts(item) for rule, item in zip(rules, value, strict=True))
        ),
    )


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)


def _is_sequence(value: Any) -> bool:
    return isinstance(value, tuple | list)


def _with_note(text: str, note: str) -> str:
    return f"{text}, {note}" if note else text


_TEXT = Rule("text", lambda value: isinstance(value, str))
_PATH = Rule(
    "a path; mount the bucket of a URL and write the path of the mount",
    lambda value: isinstance(value, str) and not is_url(value),
)
_FLAG = Rule("True or False", lambda value: isinstance(value, bool))
_FRACTION = real(0, 1)
_WEIGHT = real(0, note="0 to train without it")
_ID = integer(0, note="the tokenizer's id")


def _tower_rules(name: str, **more: Rule) -> dict[str, Rule]:
    sizes = dict.fromkeys(("layers", "heads", "width", "mlp_width"), integer(1))
    return {f"model.{name}.{setting}": rule for setting, rule in {**sizes, **more}.items()}


RULES: Mapping[str, Rule] = {
    "seed": integer(0, 2**32 - 1),
    "init_from": _PATH,
    "init_text_from": _PATH,
    #
    "audio.sample_rate": integer(1, note="in Hz"),
    "audio.n_fft": integer(1),
    "audio.window_length": integer(1),
    "audio.hop_length": integer(1),
    "audio.mels": integer(1),
    "audio.f_min": real(0, note="in Hz"),
    "audio.f_max": real(above=0, note="in Hz"),
    "audio.log_floor": real(above=0),
    "audio.mean": real(note="as `slap stats` prints it"),
    "audio.std": real(above=0, note="as `slap stats` prints it"),
    "audio.dft": choice("auto", "matmul", "rfft"),
    "audio.frames_per_column": integer(1),
    "audio.mels_per_patch": integer(1),
    #
    "spec_augment.time_masks": integer(0, note="0 for none"),
    "spec_augment.time_fraction": _FRACTION,
    "spec_augment.frequency_masks": integer(0, note="0 for none"),
    "spec_augment.frequency_bins": integer(0, note="0 for none"),
    #
    "data.temperature": real(above=0, special=(None,), note="or None to use the weights as given"),
    "data.tokenizer": _PATH,
    "data.rows": integer(1),
    "data.columns": integer(1),
    "data.slots": integer(1),
    "data.text_tokens": integer(1),
    "data.max_seconds": real(above=0),
    "data.max_caption_tokens": integer(3, note="as the start and end tokens alone take 2"),
    "data.virtual_shards": integer(1),
    "data.packing_bins": integer(1, 4_096, note="each bin keeps a row in memory"),
    "data.read_threads": integer(0, 1_024, note="0 to read clips only as they are needed"),
    "data.decode_threads": integer(1, 1_024),
    "data.workers": integer(0, 1_024, note="0 to read with threads"),
    "data.prefetch": integer(1, 1_024, note="each batch takes memory on the device"),
    "data.allow_mismatch": _FLAG,
    "data.augment.lead_in_seconds": real(0, note="0 for none"),
    "data.augment.gain_db": real(0, note="in decibels up or down; 0 for none"),
    "data.augment.noise_dir": _PATH,
    "data.augment.noise_probability": _FRACTION,
    "data.augment.noise_snr_db": fixed("(lowest, highest) signal-to-noise ratio in decibels", real(), real()),
    "data.augment.room_dir": _PATH,
    "data.augment.room_probability": _FRACTION,
    #
    "model.embed_dim": integer(1),
    "model.vocab_size": integer(3),
    "model.pad_id": _ID,
    "model.bos_id": _ID,
    "model.eos_id": _ID,
    "model.compute_dtype": choice("bfloat16", "float32"),
    "model.attention": choice("auto", "dense", "blocked", "chunked", "splash", "flash"),
    "model.remat": choice("none", "dots", "full"),
    "model.scan_unroll": integer(1),
    **_tower_rules(
        "audio_encoder",
        locals_per_global=integer(0, note="0 to make every layer global"),
        local_window=integer(0),
        rope_base_time=real(above=0),
        rope_base_frequency=real(above=0),
    ),
    **_tower_rules(
        "text_encoder",
        kind=choice("scratch", "modernbert"),
        locals_per_global=integer(0, note="0 to make every layer global"),
        local_window=integer(0),
        rope_base=real(above=0),
        rope_base_local=real(above=0, special=(None,), note="or None for rope_base"),
    ),
    **_tower_rules("caption_decoder", rope_base=real(above=0)),
    #
    "objectives.contrastive.weight": _WEIGHT,
    "objectives.contrastive.form": choice("softmax", "sigmoid"),
    "objectives.contrastive.init_scale": real(above=0, special=(None,), note="or None for the value of CLIP or SigLIP"),
    "objectives.contrastive.init_bias": real(),
    "objectives.contrastive.max_scale": real(above=0),
    "objectives.contrastive.block": integer(1),
    "objectives.distillation.weight": _WEIGHT,
    "objectives.distillation.view": choice("separate", "shared"),
    "objectives.distillation.mask_ratio": real(above=0, below=1),
    "objectives.distillation.prototypes": integer(2),
    "objectives.distillation.hidden": integer(1),
    "objectives.distillation.bottleneck": integer(1),
    "objectives.distillation.student_temperature": real(above=0),
    "objectives.distillation.teacher_temperature_start": real(above=0),
    "objectives.distillation.teacher_temperature_end": real(above=0),
    "objectives.distillation.teacher_temperature_warmup": _FRACTION,
    "objectives.distillation.freeze_last_layer": _FRACTION,
    "objectives.distillation.momentum_start": _FRACTION,
    "objectives.distillation.sinkhorn_iterations": integer(1),
    "objectives.distillation.token_chunk": integer(0, note="0 for all tokens at once"),
    "objectives.captioning.weight": _WEIGHT,
    "objectives.captioning.vocabulary_chunk": integer(1),
    "objectives.classification.weight": _WEIGHT,
    "objectives.classification.label": _TEXT,
    "objectives.classification.classes": items(_TEXT, "a tuple of class names"),
    "objectives.classification.multi_label": _FLAG,
    "objectives.classification.class_weights": items(real(above=0), "a tuple of positive numbers, or ()"),
    "objectives.classification.mixup_probability": _FRACTION,
    "objectives.classification.mixup_alpha": real(above=0),
    #
    "optimizer.learning_rate": real(0),
    "optimizer.schedule": choice("cosine", "wsd", "constant"),
    "optimizer.warmup_steps": integer(0),
    "optimizer.decay_fraction": _FRACTION,
    "optimizer.final_factor": _FRACTION,
    "optimizer.b1": real(0, below=1),
    "optimizer.b2": real(0, below=1),
    "optimizer.eps": real(above=0),
    "optimizer.weight_decay": real(0),
    "optimizer.clip_norm": real(above=0, note="a large one, such as 1e9, to clip nothing"),
    "optimizer.learning_rate_factors": items(fixed("", _TEXT, real(0)), "a tuple of (path regex, factor) pairs"),
    "optimizer.layer_decay": real(above=0, high=1),
    "optimizer.max_bad_steps": integer(1),
    #
    "train.steps": integer(1),
    "train.accumulate": integer(1),
    "train.log_every": integer(1),
    "train.evaluate_every": integer(0, note="0 to evaluate nothing while training"),
    "train.suite": _TEXT,
    "train.suite_data": _PATH,
    "train.best_metric": _TEXT,
    "train.patience": integer(0, note="0 to never stop early"),
    "train.peak_flops_per_device": real(0, note="0 for the known peak of the device"),
    "train.profile_start": integer(0),
    "train.profile_steps": integer(0, note="0 for no profile"),
    "train.watchdog_seconds": real(0, note="0 for no watchdog"),
    "checkpoint.every": integer(1),
    "checkpoint.keep": integer(1),
    "parallel.data": integer(1, special=(-1,), note="or -1 for the devices that the other axes leave"),
    "parallel.fsdp": integer(1, special=(-1,), note="or -1 for the devices that the other axes leave"),
    "parallel.tensor": integer(1, special=(-1,), note="or -1 for the devices that the other axes leave"),
    "distributed.initialization_timeout": integer(1, note="in seconds"),
    "distributed.heartbeat_timeout": integer(1, note="in seconds"),
    "metrics.tensorboard": _FLAG,
}

SOURCE_RULES: Mapping[str, Rule] = {
    "path": _PATH,
    "split": _TEXT,
    "weight": real(above=0),
    "label": _TEXT,
    "objectives.contrastive": real(0),
    "objectives.distillation": real(0),
    "objectives.captioning": real(0),
    "objectives.classification": real(0),
    "captions.choice": choice("uniform", "first", "by_length"),
    "captions.paraphrase_probability": _FRACTION,
    "captions.length_bounds": fixed(
        "the most words of a short and of a medium caption, like (8, 20)", integer(1), integer(1)
    ),
    "captions.length_shares": fixed(
        "three numbers, 0 or more, for short, medium and long captions", real(0), real(0), real(0)
    ),
    "captions.tag_probability": _FRACTION,
    "captions.tag_templates": items(_TEXT, "one or more templates, like 'the sound of {}'", least=1),
    "captions.tag_keys": items(_TEXT, "a tuple of label keys, or () for every key"),
}


def require(condition: bool, message: str) -> None:
    """Raises `ConfigError(message)` unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def check_rules(config: ConfigDict, rules: Mapping[str, Rule], prefix: str = "config") -> None:
    """Requires every setting that has a rule to obey it.

    Args:
        config: a group that has all the settings; see `check_keys`.
        rules: rules by path below the group.
        prefix: name of the group in messages.
    """
    for path, rule in rules.items():
        value = config
        for part in path.split("."):
            value = value[part]
        require(rule.accepts(value), f"{prefix}.{path} is {value!r}; write {rule.text}")


def check_keys(
    config: ConfigDict,
    reference: ConfigDict,
    prefix: str = "config",
    named_by_user: Collection[str] = (),
    advice: str = "start the config from slap_jax.config.default_config()",
) -> None:
    """Requires the settings of a group to be those of the reference, no more and no fewer.

    Args:
        config: the group to check.
        reference: a group that has every setting.
        prefix: name of the group in messages.
        named_by_user: full names of groups whose entries the user names; these entries are not checked.
        advice: advice for a missing setting.
    """
    for key in config:
        name = f"{prefix}.{key}"
        if key not in reference:
            raise ConfigError(unknown_setting(name, reference))
        if isinstance(reference[key], ConfigDict):
            if not isinstance(config[key], ConfigDict):
                raise ConfigError(f"{name} is {config[key]!r}; expected a group of settings")
            if name not in named_by_user:
                check_keys(config[key], reference[key], name, named_by_user, advice)
    for key in reference:
        require(key in config, f"{prefix}.{key} is missing; {advice}")


def unknown_setting(name: str, group: ConfigDict) -> str:
    """Returns the message for a setting that its group does not have, with the nearest name that it has."""
    prefix, _, key = name.rpartition(".")
    near = difflib.get_close_matches(key, list(group), n=1)
    hint = f"did you mean {prefix}.{near[0]}? " if near else ""
    return f"{name} is not a setting; {hint}{prefix} takes: {', '.join(sorted(group))}"
