"""Text prompts for zero-shot classification: templates, the prompts of classes, and their averaged embeddings.

A class is represented by the mean embedding of its prompts, scaled to unit length (prompt ensembling, Radford et al.,
CLIP, arXiv 2103.00020, section 3.1.4). Results are comparable only if they use the same template.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from slap_jax.errors import UserError

# Named prompt sets; {} stands for the class name.
TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "ensemble": ("{}", "the sound of {}", "a sound of {}", "{} can be heard", "this is a recording of {}"),
    "sound": ("this is a sound of {}",),
    "heard": ("{} can be heard",),
    "plain": ("{}",),
    "ensemble_music": (
        "{} music can be heard",
        "this is a {} song",
        "this audio is a {} song",
        "the music in the style of {}",
    ),
    "ensemble_instrument": (
        "{}",
        "the musical instrument sound of {} can be heard",
        "a note played on a {}",
        "the sound of a {}",
    ),
    "ensemble_emotion": ("{}", "this person is feeling {}", "a {} voice", "someone speaks in a {} voice"),
    "ensemble_word": ("{}", "someone says {}", "a person saying {}", "the word {}"),
}
DEFAULT_TEMPLATE = "ensemble"


class ZeroShotError(UserError, ValueError):
    """Labels or a template that zero-shot classification cannot use."""


def template_prompts(template: str) -> tuple[str, ...]:
    """Returns the prompts of a named template; a string that contains `{}` is a template with one prompt.

    Raises:
        ZeroShotError: `template` is neither a known name nor a string with `{}`.
    """
    if isinstance(template, str):
        if template in TEMPLATES:
            return TEMPLATES[template]
        if "{}" in template:
            return (template,)
    raise ZeroShotError(
        f"template {template!r} is not known; name one of {', '.join(TEMPLATES)}, or write a prompt with {{}} in it, "
        "such as 'the sound of {}'"
    )


def class_prompts(
    classes: Sequence[str], template: str = DEFAULT_TEMPLATE, words: Mapping[str, str] | None = None
) -> list[str]:
    """Returns the prompts of all classes, those of a class consecutively.

    Args:
        classes: Y names; underscores become spaces.
        template: see `template_prompts`.
        words: class -> text that replaces the class name in its prompts.

    Raises:
        ZeroShotError: see `template_prompts`.
    """
    prompts = template_prompts(template)
    names = [(words or {}).get(name, name).replace("_", " ") for name in classes]
    return [prompt.replace("{}", name) for name in names for prompt in prompts]


def class_embeddings(prompts: Float[np.ndarray, "P E"], classes: int) -> Float[np.ndarray, "Y E"]:
    """Averages the embeddings of `class_prompts` per class and scales the means to unit length.

    Args:
        prompts: unit embeddings of the P = Y * (prompts per class) prompts, in the order of `class_prompts`.
        classes: Y.
    """
    mean = np.asarray(prompts, np.float32).reshape(classes, -1, prompts.shape[-1]).mean(axis=1)
    return mean / np.maximum(np.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)


def check_labels(labels: Any) -> list[str]:
    """Returns labels as a list.

    Raises:
        ZeroShotError: there are none, one is not a string with content, or one occurs twice.
    """
    names = [] if isinstance(labels, str) or not isinstance(labels, Iterable) else list(labels)
    named = all(isinstance(name, str) and name.strip() for name in names)
    if not names or not named or len(set(names)) != len(names):
        raise ZeroShotError(
            f"labels are {names or labels!r}; expected a list of distinct names with content, at least one"
        )
    return names


class LabelEmbeddings:
    """Embeds labels, and keeps the most recent ones: classifying a folder takes several calls with the same labels."""

    def __init__(self) -> None:
        """Starts without labels."""
        self._recent: dict[tuple[tuple[str, ...], str], np.ndarray] = {}

    def embed(
        self, labels: Iterable[str], template: str, embed_text: Callable[[list[str]], Float[np.ndarray, "P E"]]
    ) -> tuple[list[str], Float[np.ndarray, "Y E"]]:
        """Returns the labels as a list, and their embeddings.

        Args:
            labels: Y names.
            template: see `template_prompts`.
            embed_text: embeds prompts; always the same function.

        Raises:
            ZeroShotError: see `check_labels` and `template_prompts`.
        """
        names = check_labels(labels)
        prompts = class_prompts(names, template)  # checks the template, before it becomes part of a key
        key = (tuple(names), template)
        if key not in self._recent:
            if len(names) == 1:
                logging.warning("there is one label, so its probability is 1 for every clip; give several to compare")
            self._recent = {key: class_embeddings(embed_text(prompts), len(names))}
        return names, self._recent[key]


def label_probabilities(similarity: Float[np.ndarray, "n Y"], names: list[str], scale: float) -> list[dict[str, float]]:
    """Returns label -> probability for each clip, the most probable label first.

    Args:
        similarity: cosine similarity of clips with `class_embeddings`.
        names: the labels.
        scale: inverse temperature of the softmax over the labels.
    """
    logits = scale * np.asarray(similarity, np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return [{names[index]: float(row[index]) for index in np.argsort(-row, kind="stable")} for row in probabilities]
