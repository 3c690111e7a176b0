"""Classification: a head on the pooled audio features predicts a clip's classes; for fine-tuning on labels."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from slap_jax.batch import LabelledBatch
from slap_jax.models.slap import ClassificationHead
from slap_jax.objectives.base import BatchContext, LossTerm, StepContext, total_weight, weighted


class Classification(nnx.Module):
    """Cross-entropy over one softmax, or binary cross-entropy of every class, averaged over the clips with a label.

    Clips without a label count nothing. Mixed clips have shares of classes as targets.
    """

    teacher_parameters: tuple[str, ...] = ()

    def __init__(self, config: ConfigDict, *, rngs: nnx.Rngs):
        """Creates the head, which `export` keeps."""
        settings = config.objectives.classification
        self.multi_label = settings.multi_label
        self.class_weights = tuple(map(float, settings.class_weights)) or (1.0,) * len(settings.classes)
        self.head = ClassificationHead(config.model.audio_encoder.width, len(settings.classes), rngs=rngs)

    def forward(self, context: StepContext) -> dict[str, Array]:
        """Returns the logits of the clips' classes, fp32 [R, K, Y]."""
        return {"logits": self.head(context.pooled_audio)}

    def loss(self, outputs: dict[str, Array], context: BatchContext) -> LossTerm:
        """Returns the loss over the clips that have a label, weighted by class and by source."""
        batch = context.batch
        assert isinstance(batch, LabelledBatch), "the batch of a run with this objective has labels"
        logits, targets = outputs["logits"], batch.clip_labels
        labelled = batch.clip_valid & jnp.any(targets > 0, axis=-1)
        weights = context.clip_weights("classification")
        class_weights = jnp.asarray(self.class_weights, jnp.float32)
        if self.multi_label:
            losses = binary_cross_entropy(logits, targets, class_weights)
        else:
            losses = -jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1)
            if len(set(self.class_weights)) > 1:
                by_class = jnp.sum(targets * class_weights, axis=-1)
                weights = by_class if weights is None else weights * by_class
        loss = jnp.sum(jnp.where(labelled, weighted(losses, weights), 0.0)) / total_weight(labelled, weights)
        # With shares as targets, the class of the greater share is the one to find.
        best = jnp.argmax(logits, axis=-1)
        found = jnp.take_along_axis(targets, best[..., None], axis=-1)[..., 0] == jnp.max(targets, axis=-1)
        return LossTerm(
            loss,
            {
                "classification_accuracy": jnp.sum(labelled & found) / total_weight(labelled, None),
                "labelled_clips": jnp.sum(labelled, dtype=jnp.float32),
            },
        )


def binary_cross_entropy(
    logits: Float[Array, "R K Y"], targets: Float[Array, "R K Y"], class_weights: Float[Array, " Y"]
) -> Float[Array, "R K"]:
    """The mean over the classes of `-w t log s - (1 - t) log (1 - s)`, where s is the logit's sigmoid."""
    positive = class_weights * targets * jax.nn.log_sigmoid(logits)
    negative = (1.0 - targets) * jax.nn.log_sigmoid(-logits)
    return -jnp.mean(positive + negative, axis=-1)
