"""The classification loss against NumPy, on one device and accumulated on four; unlabelled clips do not count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from slap_jax.batch import LabelledBatch, with_labels
from slap_jax.config.rules import ConfigError
from slap_jax.config.validate import validate
from slap_jax.objectives import OBJECTIVES, BatchContext, Classification
from slap_jax.parallel.distributed import place_batch
from slap_jax.parallel.sharding import create_mesh
from slap_jax.training.optimizer import create_optimizer
from slap_jax.training.state import abstract_learner, create_state, graph_of
from slap_jax.training.step import StepLoss, global_batch_shapes
from tests.tiny import tiny_batch, tiny_config

pytestmark = pytest.mark.compile

CLASSES = ("bark", "bell", "rain")


def labelled_config(**settings):
    config = tiny_config(contrastive=0.0, distillation=0.0, captioning=0.0, classification=1.0)
    config.objectives.classification.update({"label": "sound", "classes": CLASSES, **settings})
    return config


def labelled_batch(config, several: bool = False) -> LabelledBatch:
    """Every fourth clip has no label, and the first one is a mixture."""
    batch = tiny_batch(config)
    generator = np.random.default_rng(0)
    labels = np.eye(len(CLASSES), dtype=np.float32)[generator.integers(len(CLASSES), size=batch.clip_valid.shape)]
    if several:
        labels = np.maximum(labels, generator.integers(2, size=labels.shape)).astype(np.float32)
    labels[0, 0] = [0.75, 0.0, 0.25]
    labels[:, 3] = 0.0
    return with_labels(batch, labels * batch.clip_valid[..., None])


def numpy_loss(logits, batch, weights=(1.0, 1.0, 1.0), several=False) -> float:
    total = count = 0.0
    for row, slot in zip(*np.nonzero(batch.clip_valid), strict=True):
        target, scores = batch.clip_labels[row, slot].astype(np.float64), logits[row, slot].astype(np.float64)
        if not target.any():
            continue
        if several:
            positive = 1 / (1 + np.exp(-scores))
            terms = -np.array(weights) * target * np.log(positive) - (1 - target) * np.log(1 - positive)
            total, count = total + terms.mean(), count + 1
        else:
            weight = float(np.dot(target, weights))
            total -= weight * np.dot(target, scores - np.log(np.sum(np.exp(scores))))
            count += weight
    return total / count


@pytest.mark.parametrize(
    ("several", "weights"),
    [(False, ()), (False, (0.5, 1.0, 2.0)), (True, ()), (True, (0.5, 1.0, 2.0))],
    ids=["one", "one-weighted", "several", "several-weighted"],
)
def test_loss_equals_numpy(several, weights):
    config = labelled_config(multi_label=several, class_weights=weights)
    batch = labelled_batch(config, several)
    logits = np.random.default_rng(1).normal(size=batch.clip_labels.shape).astype(np.float32)
    objective = Classification(config, rngs=nnx.Rngs(0))
    term = objective.loss({"logits": jnp.asarray(logits)}, BatchContext(batch, {}, jnp.zeros(()), config))
    assert float(term.loss) == pytest.approx(numpy_loss(logits, batch, weights or (1.0, 1.0, 1.0), several), rel=1e-5)
    counted = batch.clip_valid & batch.clip_labels.any(axis=-1)
    assert float(term.metrics["labelled_clips"]) == counted.sum() < batch.clip_valid.sum()
    chosen = np.take_along_axis(batch.clip_labels, logits.argmax(-1)[..., None], -1)[..., 0]
    right = (chosen == batch.clip_labels.max(-1))[counted].mean()
    assert float(term.metrics["classification_accuracy"]) == pytest.approx(right)


def test_a_new_head_gives_every_class_the_same_probability_and_no_labels_give_zero():
    config = labelled_config()
    objective = Classification(config, rngs=nnx.Rngs(0))
    batch = labelled_batch(config)
    context = BatchContext(batch, {}, jnp.zeros(()), config)
    pooled = jax.random.normal(jax.random.key(0), (*batch.clip_valid.shape, config.model.audio_encoder.width))
    assert float(objective.loss({"logits": objective.head(pooled)}, context).loss) == pytest.approx(np.log(3), rel=1e-6)
    nothing = BatchContext(batch.replace(clip_labels=0.0 * batch.clip_labels), {}, jnp.zeros(()), config)
    assert float(objective.loss({"logits": objective.head(pooled)}, nothing).loss) == 0.0


def test_gradients_are_the_same_on_one_device_and_in_parts_on_four():
    config = labelled_config(class_weights=(0.5, 1.0, 2.0))
    config.optimizer.learning_rate_factors = (("^model/text_", 0.0),)
    batch = labelled_batch(config)
    transform = create_optimizer(config.optimizer, config.train.steps)
    params = jax.jit(lambda: create_state(config, transform))().params
    head = params["objectives"]["classification"]["head"]["output"]
    head["kernel"] = jax.random.normal(jax.random.key(3), head["kernel"].shape)
    graph, step = graph_of(abstract_learner(config)), jnp.zeros((), jnp.int32)

    def gradient(config, batch):
        return jax.jit(lambda params, batch: StepLoss(config, graph, {}, step).metrics_and_grad(params, batch))(
            params, batch
        )

    metrics, expected = gradient(config, batch)
    config.train.accumulate = 2
    mesh = create_mesh(config.parallel, jax.devices()[:4])
    with jax.set_mesh(mesh):
        in_parts, result = gradient(config, place_batch(batch, mesh))
    np.testing.assert_allclose(in_parts["loss/total"], metrics["loss/total"], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), result, expected)
    audio = jax.tree.leaves(expected["model"]["audio_encoder"]["patch_embedding"])
    assert all(np.abs(leaf).max() > 0 for leaf in audio)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(expected["model"]["text_encoder"]))


def test_without_the_objective_the_batch_has_no_labels():
    assert not isinstance(global_batch_shapes(tiny_config()), LabelledBatch)
    shapes = global_batch_shapes(labelled_config())
    assert isinstance(shapes, LabelledBatch) and shapes.clip_labels.shape == (8, 4, 3)
    assert OBJECTIVES["classification"] is Classification


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label": ""}, "classification.label is empty"),
        ({"classes": ("bark",)}, r"classes is \('bark',\); write two or more"),
        ({"classes": ("bark", "bark")}, "two or more distinct names"),
        ({"class_weights": (1.0,)}, "class_weights has 1 values for 3 classes"),
        ({"mixup_probability": 2.0}, "write a number from 0 to 1"),
        ({"mixup_alpha": 0.0}, "mixup_alpha is 0.0"),
    ],
)
def test_impossible_settings_are_errors_that_name_them(settings, message):
    config = labelled_config(**settings)
    with pytest.raises(ConfigError, match=message):
        validate(config)


def test_mixing_clips_excludes_captions():
    config = labelled_config(mixup_probability=0.5)
    validate(config)
    config.objectives.captioning.weight = 1.0
    with pytest.raises(ConfigError, match="captions do not describe mixed clips"):
        validate(config)
    config.objectives.captioning.weight = config.objectives.classification.weight = 0.0
    config.objectives.contrastive.weight = 1.0
    with pytest.raises(ConfigError, match="only classification learns from mixed clips"):
        validate(config)
