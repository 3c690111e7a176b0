"""Checks of `config.objectives.classification`: the classes, and that mixing clips does not make captions wrong."""

from ml_collections import ConfigDict

from slap_jax.config_checks import check_share, require

_NAME = "config.objectives.classification"


def validate_classification(config: ConfigDict) -> None:
    """Requires, where the objective is trained, a label key and its classes."""
    settings = config.objectives.classification
    check_share(settings.mixup_probability, f"{_NAME}.mixup_probability")
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
