"""Losses on held-out clips: the objectives of training, on evaluation sets.

They show overfitting next to the losses of training, and choose between steps of equal accuracy. The contrastive loss
and that of the classification head are computed from what the evaluation computes anyway. The caption loss needs a
separate pass, so it is computed only if it chooses the best step (`config.train.best_metric`). There is none for
self-distillation, whose targets move with the teacher.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float
from ml_collections import ConfigDict

from slap_jax.batch import PackedBatch
from slap_jax.config.defaults import samples_per_column
from slap_jax.data.evaluation_set import EvaluationSet, load_evaluation
from slap_jax.data.packing import Clip, pack_rows
from slap_jax.data.tokenizer import Tokenizer
from slap_jax.evaluation.embeddings import Progress
from slap_jax.evaluation.retrieval import caption_groups
from slap_jax.inference.classifier import FinetuneError
from slap_jax.inference.embedder import Embedder
from slap_jax.models.caption_decoder import CaptionDecoder
from slap_jax.models.encoders import token_segment_ids
from slap_jax.objectives.captioning import next_tokens, token_losses
from slap_jax.objectives.contrastive import ClipKeys, Contrastive, sigmoid_loss, softmax_loss

HELD_OUT_LOSS = "held_out_loss"
CAPTION_LOSS = "caption_loss"
WEIGHTED_SUM = "weighted_sum"
_CLIPS_AT_ONCE = 256


def tie_break(metric: str) -> str:
    """Returns the name of the loss that decides between equal values of `KIND/SET/METRIC`, that of the same set."""
    kind, _, rest = metric.partition("/")
    name, _, _ = rest.rpartition("/")
    return f"{HELD_OUT_LOSS}/{name or kind}/{WEIGHTED_SUM}"


class ContrastiveLoss:
    """The contrastive objective on pairs of vectors, in groups of about as many clips as a batch of training.

    The softmax loss grows with the number of negatives, so only groups of the size of a batch are comparable with
    training. A set that is smaller than a batch is one group.
    """

    def __init__(self, config: ConfigDict, clips_per_batch: int):
        """Compiles nothing yet.

        Args:
            config: config of a run with the contrastive objective.
            clips_per_batch: approximate number of clips in a batch of training.
        """
        objective = nnx.eval_shape(lambda: Contrastive(config, rngs=nnx.Rngs(0)))
        self._graph, _ = nnx.split(objective)
        self._block, self._clips_per_batch = config.objectives.contrastive.block, clips_per_batch
        self._program = jax.jit(self._loss)

    def __call__(
        self,
        params: Mapping[str, Any],
        audio: Float[np.ndarray, "N E"],
        text: Float[np.ndarray, "N E"],
        captions: Sequence[str],
    ) -> float:
        """Returns the mean over the clips, in nats.

        Args:
            params: parameters of a run.
            audio: unit vectors of the clips.
            text: unit vectors of one caption each.
            captions: these captions; clips with equal ones are not negatives of each other.
        """
        count = max(1, round(len(audio) / self._clips_per_batch))
        # Neighbours in a set are often of one kind; batches of training are mixed.
        order = np.random.default_rng(0).permutation(len(audio))
        size = -(-len(audio) // count)
        scalars = jax.tree.map(np.asarray, params["objectives"]["contrastive"])
        caption = caption_groups(captions).astype(np.int32)
        total = 0.0
        for group in np.array_split(order, count):
            padded = np.resize(group, size)  # one shape for all groups
            valid = np.arange(size) < len(group)
            keys = ClipKeys(*map(jnp.asarray, (valid, padded.astype(np.int32), caption[padded])))
            total += len(group) * float(self._program(scalars, audio[padded], text[padded], keys))
        return total / len(audio)

    def _loss(
        self, params: Any, audio: Float[Array, "N E"], text: Float[Array, "N E"], keys: ClipKeys
    ) -> Float[Array, ""]:
        objective = nnx.merge(self._graph, params)
        if objective.form == "softmax":
            return softmax_loss(audio, text, objective.scale, keys, block=self._block)
        return sigmoid_loss(audio, text, objective.scale, objective.bias[...], keys, block=self._block)


def classification_loss(
    probabilities: Float[np.ndarray, "N Y"],
    truth: Bool[np.ndarray, "N Y"],
    settings: ConfigDict,
) -> float | None:
    """Returns the classification objective on clips of whole length, in nats; None if no clip has a known class.

    Args:
        probabilities: outputs of the head.
        truth: classes of each clip; with one class per clip, clips without a known class are left out.
        settings: `config.objectives.classification`; an export does not keep class weights.
    """
    weights = np.asarray(settings.get("class_weights") or np.ones(truth.shape[1]), np.float64)
    p = np.clip(probabilities.astype(np.float64), np.finfo(np.float32).tiny, 1.0)
    if settings.multi_label:
        rest = np.clip(1.0 - p, np.finfo(np.float32).epsneg, 1.0)  # fp32 has no probability closer to 1
        return float(-np.mean(np.where(truth, weights * np.log(p), np.log(rest))))
    known = truth.any(axis=1)
    if not known.any():
        return None
    classes = truth[known].argmax(axis=1)
    return float(np.average(-np.log(p[known, classes]), weights=weights[classes]))


class CaptionLoss:
    """Cross-entropy of the first caption of every clip, with teacher forcing; clips are cut at `data.max_seconds`.

    Reuse it, because it holds the compiled program.
    """

    def __init__(self, config: ConfigDict, embedder: Embedder, tokenizer: Tokenizer, sets: Mapping[str, Any]):
        """Opens the sets; decodes no audio.

        Args:
            config: config of a run with the captioning objective.
            embedder: embedder of the same config; it places the batches.
            tokenizer: tokenizer of the model.
            sets: name -> `source(path, split)`, as `config.data.evaluation`.

        Raises:
            RecordsError: the data is not prepared, or has no such split.
            FinetuneError: a set has no captions.
        """
        self._config, self._embedder, self._tokenizer = config, embedder, tokenizer
        self._sets = {name: load_evaluation(settings.path, settings.split) for name, settings in sets.items()}
        for name, clips in self._sets.items():
            if not any(facts.captions for facts in clips.facts()):
                raise FinetuneError(f"evaluation set {name!r} ({clips.path}, split {clips.split!r}) has no captions")
        self._graph, _ = nnx.split(nnx.eval_shape(self._decoder))
        self._program = jax.jit(self._rows, out_shardings=embedder.bucketing.output_sharding())

    def __call__(self, params: Mapping[str, Any], progress: Progress | None = None) -> dict[str, dict[str, Any]]:
        """Returns set -> `nats_per_token`, `token_accuracy` and `n_tokens`; `params` are those of a run."""
        decoder = params["objectives"]["captioning"]["decoder"]
        mesh = self._embedder.bucketing.mesh
        results = {}
        with contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh):
            for name, clips in self._sets.items():
                total = np.zeros(3)
                for batch in self._batches(name, clips, progress):
                    placed = jax.tree.map(self._embedder.bucketing.place, batch)
                    total += np.asarray(self._program(params["model"], decoder, placed), np.float64)
                losses, correct, count = total
                results[name] = {
                    "nats_per_token": float(losses / count),
                    "token_accuracy": float(correct / count),
                    "n_tokens": int(count),
                }
        return results

    def _decoder(self) -> CaptionDecoder:
        model = self._config.model
        return CaptionDecoder(model, model.audio_encoder.width, rngs=nnx.Rngs(0))

    def _batches(self, name: str, clips: EvaluationSet, progress: Progress | None) -> Iterator[PackedBatch]:
        """Packs the captioned clips into batches of the shape of training; surplus rows are empty."""
        data, per_column = self._config.data, samples_per_column(self._config.audio)
        longest = round(data.max_seconds * self._config.audio.sample_rate)
        shape = (data.columns, data.slots, data.text_tokens, per_column)
        for start in range(0, len(clips), _CLIPS_AT_ONCE):
            if progress:
                progress(f"{name}, caption loss", start, len(clips))
            captioned = [clip for clip in clips[start : start + _CLIPS_AT_ONCE] if clip.captions]
            packed = [
                Clip(
                    clip.waveform[:longest], self._tokenizer.encode(clip.captions[0], data.max_caption_tokens), clip.key
                )
                for clip in captioned
            ]
            if not packed:
                continue
            needed = pack_rows(packed, *shape)[0].clip_valid.shape[0]
            rows = -(-needed // data.rows) * data.rows
            batch, _ = pack_rows(packed, *shape, rows=rows)
            for row in range(0, rows, data.rows):
                yield jax.tree.map(lambda array, row=row: array[row : row + data.rows], batch)

    def _rows(self, params: Any, decoder_params: Any, batch: PackedBatch) -> Float[Array, "3"]:
        """Returns sums over the rows: token losses, correctly predicted tokens, tokens."""
        model, decoder = self._embedder.model(params), nnx.merge(self._graph, decoder_params)
        patches = model.audio_patches(batch.waveform, batch.audio_segment_ids)
        memory = model.audio_tokens(patches, batch.audio_segment_ids, batch.audio_positions)
        memory_segment_ids = token_segment_ids(batch.audio_segment_ids, self._embedder.patches)
        hidden = decoder(batch.text_tokens, batch.text_segment_ids, batch.text_positions, memory, memory_segment_ids)
        targets, is_token = next_tokens(batch.text_tokens, batch.text_segment_ids)
        chunk = self._config.objectives.captioning.vocabulary_chunk
        losses, correct = token_losses(hidden, decoder.embedding.table[...], targets, is_token, chunk)
        sums = (jnp.where(is_token, losses, 0.0), is_token & correct, is_token)
        return jnp.stack([jnp.sum(value, dtype=jnp.float32) for value in sums])
