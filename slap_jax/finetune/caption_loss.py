"""How likely a model finds captions that it was not trained on: a cheap metric by which captioning finds its best step.

Scores of written captions (`slap evaluate --measure captioning`) tell more, and take far longer.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from slap_jax.batch import PackedBatch
from slap_jax.config import samples_per_column
from slap_jax.data.evaluation_set import load_evaluation
from slap_jax.data.packing import Clip, pack_rows
from slap_jax.data.tokenizer import Tokenizer
from slap_jax.finetune.classes import FinetuneError
from slap_jax.inference.embedder import Embedder
from slap_jax.models.audio_encoder import token_segments
from slap_jax.models.caption_decoder import CaptionDecoder
from slap_jax.objectives.captioning import next_tokens
from slap_jax.objectives.vocabulary import token_losses

_CLIPS_AT_ONCE = 256


class CaptionLoss:
    """Cross-entropy of the first caption of every clip, with teacher forcing; clips are cut at `data.max_seconds`.

    Keep it between calls, it holds the compiled program.
    """

    def __init__(self, config: ConfigDict, embedder: Embedder, tokenizer: Tokenizer, sets: Mapping[str, Any]):
        """Opens the sets.

        Args:
            config: of a run with the captioning objective.
            embedder: of the same config; says where rows run.
            tokenizer: of the model.
            sets: name -> `source(path, split)`, as `config.data.evaluation`.

        Raises:
            RecordsError: data that are not prepared, or have no such split.
            FinetuneError: a set without captions.
        """
        self._config, self._embedder, self._tokenizer = config, embedder, tokenizer
        self._sets = {name: load_evaluation(settings.path, settings.split) for name, settings in sets.items()}
        for name, clips in self._sets.items():
            if not any(facts.captions for facts in clips.facts()):
                raise FinetuneError(f"evaluation set {name!r} ({clips.path}, split {clips.split!r}) has no captions")
        self._graph, _ = nnx.split(nnx.eval_shape(self._decoder))
        self._program = jax.jit(self._rows, out_shardings=embedder.rows.output_sharding())

    def __call__(self, params: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Returns for every set `nats_per_token`, `token_accuracy` and `n_tokens`; `params` are those of a run."""
        decoder = params["objectives"]["captioning"]["decoder"]
        mesh = self._embedder.rows.mesh
        results = {}
        with contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh):
            for name, clips in self._sets.items():
                total = np.zeros(3)
                for batch in self._batches(clips):
                    placed = jax.tree.map(self._embedder.rows.place, batch)
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

    def _batches(self, clips: Any) -> Iterator[PackedBatch]:
        """The captioned clips, packed into batches of the training's shape; rows that are left over are empty."""
        data, per_column = self._config.data, samples_per_column(self._config.audio)
        most = round(data.max_seconds * self._config.audio.sample_rate)
        shape = (data.columns, data.slots, data.text_tokens, per_column)
        for start in range(0, len(clips), _CLIPS_AT_ONCE):
            some = [clip for clip in clips[start : start + _CLIPS_AT_ONCE] if clip.captions]
            packed = [
                Clip(clip.waveform[:most], self._tokenizer.encode(clip.captions[0], data.max_caption_tokens), clip.key)
                for clip in some
            ]
            if not packed:
                continue
            needed = pack_rows(packed, *shape)[0].clip_valid.shape[0]
            rows = -(-needed // data.rows) * data.rows
            batch, _ = pack_rows(packed, *shape, rows=rows)
            for row in range(0, rows, data.rows):
                yield jax.tree.map(lambda array, row=row: array[row : row + data.rows], batch)

    def _rows(self, params: Any, decoder_params: Any, batch: PackedBatch) -> Float[Array, "3"]:
        """Sums over the rows: the losses of the tokens, how many are found, and how many there are."""
        model, decoder = self._embedder.model(params), nnx.merge(self._graph, decoder_params)
        patches = model.audio_patches(batch.waveform, batch.audio_segments)
        memory = model.audio_tokens(patches, batch.audio_segments, batch.audio_columns)
        owners = token_segments(batch.audio_segments, self._embedder.patches)
        hidden = decoder(batch.text_tokens, batch.text_segments, batch.text_positions, memory, owners)
        targets, real = next_tokens(batch.text_tokens, batch.text_segments)
        chunk = self._config.objectives.captioning.vocabulary_chunk
        losses, correct = token_losses(hidden, decoder.embedding.table[...], targets, real, chunk)
        sums = (jnp.where(real, losses, 0.0), real & correct, real)
        return jnp.stack([jnp.sum(value, dtype=jnp.float32) for value in sums])
