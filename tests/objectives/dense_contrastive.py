"""The contrastive losses written down plainly, with all N x N scores at once: what the tiled ones are compared with."""

import jax
import jax.numpy as jnp


def dense_negatives(keys):
    same = (keys.recording[:, None] == keys.recording) | (keys.caption[:, None] == keys.caption)
    return keys.valid[:, None] & keys.valid & ~same


def dense_softmax_loss(audio, text, scale, keys, weights=None):
    logits = scale * jnp.matmul(audio, text.T, precision="highest")
    own = jnp.eye(len(keys.valid), dtype=bool)
    masked = jnp.where(dense_negatives(keys) | own, logits, -jnp.inf)
    losses = jax.nn.logsumexp(masked, axis=1) + jax.nn.logsumexp(masked, axis=0) - 2 * jnp.diagonal(logits)
    weights = jnp.where(keys.valid, 1.0 if weights is None else weights, 0.0)
    total = jnp.sum(weights)
    return jnp.sum(jnp.where(keys.valid, losses, 0.0) * weights) / (2 * jnp.where(total > 0, total, 1.0))


def dense_sigmoid_loss(audio, text, scale, bias, keys, weights=None):
    logits = scale * jnp.matmul(audio, text.T, precision="highest") + bias
    weights = jnp.where(keys.valid, 1.0 if weights is None else weights, 0.0)
    positive = jnp.where(keys.valid, jax.nn.log_sigmoid(jnp.diagonal(logits)), 0.0) * weights
    pair_weights = (weights[:, None] + weights) / 2
    negative = jnp.where(dense_negatives(keys), jax.nn.log_sigmoid(-logits), 0.0) * pair_weights
    total = jnp.sum(weights)
    return -(jnp.sum(positive) + jnp.sum(negative)) / jnp.where(total > 0, total, 1.0)
