"""The training objectives: one file and one class each, found by the name of its settings.

An objective has
    teacher_parameters: paths of the parameters that need an averaged (EMA) copy;
    forward(context: StepContext): maps some rows of the batch to a dict of arrays [R, ...], one entry per row;
    loss(outputs, context: BatchContext): the loss of the whole batch, from the outputs of all its rows.
Because `forward` sees rows independently, a batch can be computed in parts while the loss stays that of the whole
batch (`slap_jax.training.grad_cache`).
"""

from flax import nnx
from ml_collections import ConfigDict

from slap_jax.objectives.base import BatchContext, LossTerm, StepContext
from slap_jax.objectives.captioning import Captioning
from slap_jax.objectives.classification import Classification
from slap_jax.objectives.contrastive import Contrastive
from slap_jax.objectives.distillation import SelfDistillation

OBJECTIVES = {
    "contrastive": Contrastive,
    "distillation": SelfDistillation,
    "captioning": Captioning,
    "classification": Classification,
}


def build_objectives(config: ConfigDict, *, rngs: nnx.Rngs) -> nnx.Dict:
    """Builds the objectives whose weight is above 0; the others leave no trace in the program."""
    return nnx.Dict(
        {
            name: objective(config, rngs=rngs)
            for name, objective in OBJECTIVES.items()
            if config.objectives[name].weight > 0
        }
    )


__all__ = [
    "OBJECTIVES",
    "BatchContext",
    "Captioning",
    "Classification",
    "Contrastive",
    "LossTerm",
    "SelfDistillation",
    "StepContext",
    "build_objectives",
]
