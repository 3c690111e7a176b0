"""Classification: a head on the pooled audio features predicts the classes of a clip; for fine-tuning on labels."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from slap_jax.batch import LabelledBatch
from slap_jax.models.slap import ClassificationHead
from slap_jax.objectives.base import BatchContext, LossTerm, StepContext, total_weight, weighted


class Classification(nnx.Module):
    """Cross-entropy, or binary cross-entropy of every class, averaged over the labelled clips.

        loss = sum_i w_i -sum_y t_iy log softmax(z_i)_y / sum_i w_i

    with logits z_i and targets t_i of clip i; w_i is the weight of its source times sum_y t_iy class_weights_y. Targets
    of mixed clips are fractional. Clips without a label are left out. With `multi_label`, each clip's loss is
    `binary_cross_entropy`, and class weights apply there.
    """

    teacher_parameters: tuple[str, ...] = ()

    def __init__(self, config: ConfigDict, *, rngs: nnx.Rngs):
        """Creates the head, which exports keep."""
        settings = config.objectives.classification
        self.multi_label = settings.multi_label
        self.class_weights = tuple(map(float, settings.class_weights)) or (1.0,) * len(settings.classes)
        self.head = ClassificationHead(config.model.audio_encoder.width, len(settings.classes), rngs=rngs)

    def forward(self, context: StepContext) -> dict[str, Array]:
        """Returns the logits of each clip, fp32 [R, K, Y]."""
        return {"logits": self.head(context.pooled_audio)}

    def loss(self, outputs: dict[str, Array], context: BatchContext) -> LossTerm:
        """Returns the loss over the labelled clips, weighted by class and by source."""
        batch = context.batch
        assert isinstance(batch, LabelledBatch), "a run with this objective has a LabelledBatch"
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
        # A prediction is correct if no class has a larger target; the targets of mixed clips are fractional.
        prediction = jnp.argmax(logits, axis=-1)
        target = jnp.take_along_axis(targets, prediction[..., None], axis=-1)[..., 0]
        correct = target == jnp.max(targets, axis=-1)
        return LossTerm(
            loss,
            {
                "classification_accuracy": jnp.sum(labelled & correct) / total_weight(labelled, None),
                "labelled_clips": jnp.sum(labelled, dtype=jnp.float32),
            },
        )


def binary_cross_entropy(
    logits: Float[Array, "R K Y"], targets: Float[Array, "R K Y"], class_weights: Float[Array, " Y"]
) -> Float[Array, "R K"]:
    """Returns the mean over the classes of `-w t log s - (1 - t) log (1 - s)`, where s is the sigmoid of the logit."""
    positive = class_weights * targets * jax.nn.log_sigmoid(logits)
    negative = (1.0 - targets) * jax.nn.log_sigmoid(-logits)
    return -jnp.mean(positive + negative, axis=-1)
