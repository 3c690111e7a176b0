"""One source of clips in the configuration: where it is, how much of it, which captions, for which objectives."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from slap_jax.config_checks import ConfigError, check_choice, check_keys, check_share, require

OBJECTIVE_FACTORS: Mapping[str, float] = {
    "contrastive": 1.0,
    "distillation": 1.0,
    "captioning": 1.0,
    "classification": 1.0,
}

CAPTION_POLICY: Mapping[str, Any] = {
    "choice": "uniform",  # uniform | first | by_length
    "paraphrase_probability": 0.0,  # first only: of one of the other captions
    "length_bounds": (8, 20),  # by_length only: the most words of a short and of a medium caption
    "length_shares": (1.0, 1.0, 1.0),  # by_length only: of short, medium and long captions
    "tag_probability": 0.0,  # of a caption made from the labels; a clip without captions always gets one
    "tag_templates": ("{}", "the sound of {}", "a recording of {}", "{} can be heard"),
    "tag_keys": ("label",),  # labels "key=value" that are tags; () for every key. Plain words always are
}


def source(
    path: str,
    split: str,
    weight: float = 1.0,
    label: str = "",
    objectives: Mapping[str, float] | None = None,
    captions: Mapping[str, Any] | None = None,
) -> ConfigDict:
    """Describes one prepared data set for `config.data.train` or `config.data.evaluation`.

    Args:
        path: directory that `slap prepare` wrote.
        split: which of its splits.
        weight: share in the training mixture, relative to the other sources.
        label: evaluation only; the key of `labels` that zero-shot classification predicts, "" for none.
        objectives: training only; what the clips of this source count in each objective, relative to those of the
            other sources, as far as it is not 1. With 0 an objective does not see them.
        captions: training only; which caption a clip gets, as far as it differs from `CAPTION_POLICY`.

    Raises:
        ConfigError: `objectives` or `captions` hold a name that is no setting.
    """
    return ConfigDict(
        dict(
            path=path,
            split=split,
            weight=float(weight),
            label=label,
            objectives=_complete(
                "objectives", OBJECTIVE_FACTORS, {key: float(factor) for key, factor in (objectives or {}).items()}
            ),
            captions=_complete("captions", CAPTION_POLICY, captions or {}),
        )
    )


def _complete(name: str, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> ConfigDict:
    for key in given:
        if key not in defaults:
            raise ConfigError(f"source(..., {name}={{{key!r}: ...}}) is not a setting; it takes: {', '.join(defaults)}")
    return ConfigDict({**defaults, **given})


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
    check_share(policy.paraphrase_probability, f"{name}.paraphrase_probability")
    check_share(policy.tag_probability, f"{name}.tag_probability")
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
