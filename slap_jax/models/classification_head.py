"""From a clip's pooled audio features to a score for each class."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from slap_jax.models.layers import RMSNorm


class ClassificationHead(nnx.Module):
    """A norm and an affine map in fp32, which starts at zero: every class is as likely as the others."""

    def __init__(self, width: int, classes: int, *, rngs: nnx.Rngs):
        """Creates the head from D = `width` to Y = `classes`."""
        self.norm = RMSNorm(width, dtype=jnp.float32)
        zeros = jax.nn.initializers.zeros
        self.output = nnx.Linear(width, classes, kernel_init=zeros, bias_init=zeros, rngs=rngs)

    def __call__(self, pooled: Float[Array, "*batch D"]) -> Float[Array, "*batch Y"]:
        """Returns the logits."""
        return self.output(self.norm(pooled))


def class_probabilities(logits: Float[Array, "*batch Y"], multi_label: bool) -> Float[Array, "*batch Y"]:
    """Softmax over the classes, or with `multi_label` the sigmoid of each."""
    return jax.nn.sigmoid(logits) if multi_label else jax.nn.softmax(logits)
