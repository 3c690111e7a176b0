"""Which tasks this model and this installation cannot do."""

from collections.abc import Sequence

from slap_jax.evaluation.captioning import CaptioningError, require_scorers
from slap_jax.evaluation.probe import ProbeError, require_classifier
from slap_jax.evaluation.task import EvaluationTask


def able(tasks: Sequence[EvaluationTask], decoder: bool) -> tuple[list[EvaluationTask], dict[str, str]]:
    """Leaves out what needs a caption decoder or a package that is not there.

    Args:
        tasks: of any kind.
        decoder: whether the model writes captions.

    Returns:
        The others, and "NAME, KIND" -> why of those that were left out.
    """
    reasons: dict[str, str] = {}
    try:
        require_scorers()
    except CaptioningError as error:
        reasons["captioning"] = str(error)
    if not decoder:
        reasons["captioning"] = "the model has no caption decoder: it was trained without the captioning objective"
    try:
        require_classifier()
    except ProbeError as error:
        reasons["probe"] = str(error)
    left = [task for task in tasks if not set(task.kinds) & set(reasons)]
    return left, {f"{task.name}, {kind}": reasons[kind] for task in tasks for kind in task.kinds if kind in reasons}
