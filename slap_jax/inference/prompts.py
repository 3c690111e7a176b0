"""TODO slap_jax/inference/prompts.py"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from slap_jax.errors import UserError

# Named prompt sets; {} is the class name. A result is only comparable with another of the same template.
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
    """Labels or a template that zero-shot classification cannot use; the message says what to write instead."""


def template_prompts(template: str) -> tuple[str, ...]:
    """Returns the prompts of a named template; a string that holds `{}` is a template of its own.

    Raises:
        ZeroShotError: neither a known name nor a string with `{}`.
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
    """Returns the prompts of all classes, the prompts of a class together; underscores of names become spaces.

    Args:
        classes: their names.
        template: see `template_prompts`.
        words: class -> what stands for its name in the prompts, for those that are called otherwise.
    """
    prompts = template_prompts(template)
    names = [(words or {}).get(name, name).replace("_", " ") for name in classes]
    return [prompt.replace("{}", name) for name in names for prompt in prompts]


def class_embeddings(prompts: Float[np.ndarray, "P E"], classes: int) -> Float[np.ndarray, "Y E"]:
    """Averages the unit embeddings of `class_prompts` over the prompts of each of the Y classes; unit length again."""
    mean = np.asarray(prompts, np.float32).reshape(classes, -1, prompts.shape[-1]).mean(axis=1)
    return mean / np.maximum(np.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)
