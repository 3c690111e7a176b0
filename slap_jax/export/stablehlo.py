"""Writes the model as StableHLO programs for CPU, TPU and CUDA, which JAX runs without slap_jax.

The programs take the weights as an argument, the tensors of `model.safetensors` by name, so they are small and share
one file of weights. Batch size and lengths are free. Attention is dense, because a program for all platforms cannot use
a platform's kernel or choose by length: memory grows with the square of the longest clip.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx
from jax import export as jax_export
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from slap_jax.atomic import write_bytes_atomic, write_text_atomic
from slap_jax.checkpoints.model_dir import CONFIG, WEIGHTS, Export
from slap_jax.config.defaults import patches_per_column, samples_per_column
from slap_jax.export.packages import require_packages
from slap_jax.inference.embedder import inference_config, one_clip_rows
from slap_jax.models.caption_decoder import CaptionDecoder
from slap_jax.models.encoders import token_segment_ids
from slap_jax.models.slap import Slap
from slap_jax.parallel.sharding import compiling_for
from slap_jax.params import flatten, unflatten

STABLEHLO_DIRECTORY = "stablehlo"  # inside an export
PLATFORMS = ("cpu", "tpu", "cuda")

Weights = Mapping[str, Array]


def write_stablehlo(model: Export, directory: str | os.PathLike[str]) -> Path:
    """Writes `audio`, `text` and, if the model has a decoder, `caption` programs into an export directory.

    Args:
        model: model of that export.
        directory: the export; the programs are written to its `stablehlo/`.

    Returns:
        The directory of the programs; its `programs.json` describes their arguments and results.

    Raises:
        ExportError: the package that serialises programs is not installed.
    """
    # jax.export checks for the package too, but only after lowering everything.
    require_packages("writing StableHLO programs", "stablehlo", "flatbuffers")
    out = Path(directory) / STABLEHLO_DIRECTORY
    out.mkdir(parents=True, exist_ok=True)
    weights = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in flatten(model.params).items()}
    programs = Programs(model.config, "captioning" in model.params.get("objectives", {}))
    rows, length = jax_export.symbolic_shape("b, n")
    takes = {
        "audio": (programs.audio, jnp.float32, "waveform", "samples of each clip"),
        "text": (programs.text, jnp.int32, "token ids", "tokens of each text"),
        "caption": (programs.caption, jnp.float32, "waveform", "samples of each clip"),
    }
    described = {}
    for name, (function, dtype, values, lengths) in takes.items():
        if name == "caption" and programs.decoder_graph is None:
            continue
        shapes = (jax.ShapeDtypeStruct((rows, length), dtype), jax.ShapeDtypeStruct((rows,), jnp.int32))
        with compiling_for("any"):  # choose nothing that only one platform has
            program = jax_export.export(jax.jit(function), platforms=PLATFORMS)(weights, *shapes)
        write_bytes_atomic(out / f"{name}.stablehlo", bytes(program.serialize()))
        described[name] = {
            "takes": [f"tensors of ../{WEIGHTS} by name", f"{values} {dtype.__name__} [b, n]", f"{lengths} int32 [b]"],
            "gives": str(program.out_avals[0]),
            "platforms": list(program.platforms),
        }
    text = json.dumps({"jax_version": jax.__version__, "config": f"../{CONFIG}", "programs": described}, indent=2)
    write_text_atomic(out / "programs.json", text + "\n")
    return out


class Programs:
    """The functions to lower. Their arguments are weights by name, padded rows [b, n] and the lengths [b]."""

    def __init__(self, config: ConfigDict, captions: bool):
        self.config = inference_config(config)
        with self.config.unlocked():
            self.config.model.attention = "dense"
            self.config.audio.dft = "matmul"
        self.per_column = samples_per_column(config.audio)
        self.freq_patches = patches_per_column(config.audio)
        self.graph = nnx.split(nnx.eval_shape(self._model))[0]
        self.decoder_graph = nnx.split(nnx.eval_shape(self._decoder))[0] if captions else None

    def audio(self, weights: Weights, waveform: Float[Array, "b n"], samples: Int[Array, " b"]) -> Float[Array, "b E"]:
        """Returns the embeddings of clips."""
        model = self._merged(weights)
        tokens, segment_ids = self._audio_tokens(model, waveform, samples)
        return model.audio_embeddings(tokens, segment_ids, 1)[:, 0]

    def text(self, weights: Weights, tokens: Int[Array, "b n"], lengths: Int[Array, " b"]) -> Float[Array, "b E"]:
        """Returns the embeddings of texts."""
        model = self._merged(weights)
        position = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
        inside = position < lengths[:, None]
        segment_ids = inside.astype(jnp.int32)
        hidden = model.text_tokens(tokens, segment_ids, jnp.where(inside, position, 0))
        return model.text_embeddings(hidden, segment_ids, 1)[:, 0]

    def caption(self, weights: Weights, waveform: Float[Array, "b n"], samples: Int[Array, " b"]) -> Int[Array, "b N"]:
        """Returns the token ids of greedily decoded captions, padded after their end."""
        assert self.decoder_graph is not None
        memory, segment_ids = self._audio_tokens(self._merged(weights), waveform, samples)
        decoder = nnx.merge(self.decoder_graph, unflatten(weights)["objectives"]["captioning"]["decoder"])
        memory_segment_ids = token_segment_ids(segment_ids, self.freq_patches)
        return decoder.greedy(memory, memory_segment_ids, 1, self.config.data.max_caption_tokens)[:, 0]

    def _audio_tokens(self, model: Slap, waveform: Array, samples: Array) -> tuple[Array, Array]:
        columns = (waveform.shape[1] + self.per_column - 1) // self.per_column
        waveform = jnp.pad(waveform, ((0, 0), (0, columns * self.per_column - waveform.shape[1])))
        inside = jnp.arange(waveform.shape[1])[None] < samples[:, None]
        segment_ids, positions = one_clip_rows(samples, columns, self.per_column)
        patches = model.audio_patches(jnp.where(inside, waveform, 0.0), segment_ids)
        return model.audio_tokens(patches, segment_ids, positions), segment_ids

    def _merged(self, weights: Weights) -> Slap:
        return nnx.merge(self.graph, unflatten(weights)["model"])

    def _model(self) -> Slap:
        return Slap(self.config, rngs=nnx.Rngs(0))

    def _decoder(self) -> CaptionDecoder:
        return CaptionDecoder(self.config.model, self.config.model.audio_encoder.width, rngs=nnx.Rngs(0))
