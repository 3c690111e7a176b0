"""Embeds clips and captions of any length. Parameters are an argument, so the training loop evaluates with it too."""

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Shaped
from ml_collections import ConfigDict
from tqdm import tqdm

from slap_jax.config.defaults import patches_per_column, samples_per_column
from slap_jax.data.audio import INT16_SCALE
from slap_jax.data.packing import clip_columns
from slap_jax.inference.bucketing import Item, LengthBucketing
from slap_jax.models.slap import Slap

# Smallest buckets. A shorter row would save little, and each further program takes a second or more to compile.
SMALLEST_COLUMNS = 16  # 2.56 s
SMALLEST_TOKENS = 32

# (waveform [R, S], samples [R]) -> [R, ...]
AudioProgram = Callable[[Any, Any], jax.Array]
Output = Literal["audio", "projection", "frames", "frame_embeddings"]


def inference_config(config: ConfigDict) -> ConfigDict:
    """Returns the config of a forward pass.

    The attention backend is chosen by length, since a clip may be longer than any training row, and rematerialisation
    is off, since there is no backward pass.
    """
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.model.attention = "auto"
        config.model.remat = "none"
    return config


def one_clip_rows(
    samples: Int[Array, " R"], columns: int, per_column: int
) -> tuple[Int[Array, "R C"], Int[Array, "R C"]]:
    """Returns segment ids and positions of rows that hold one clip each, as packing writes them.

    Args:
        samples: length of each clip; 0 marks a row of padding.
        columns: C.
        per_column: samples per column.

    Returns:
        `audio_segment_ids` (1 in the columns of the clip, else 0) and `audio_positions`.
    """
    column = jnp.arange(columns, dtype=jnp.int32)[None]
    clip_length = (samples[:, None] + per_column - 1) // per_column
    inside = column < clip_length
    return inside.astype(jnp.int32), jnp.where(inside, column, 0)


def float_waveform(waveform: Shaped[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Returns int16 samples as float32 in [-1, 1), and float samples as float32."""
    if waveform.dtype == np.int16:
        return waveform / np.float32(INT16_SCALE)
    return np.asarray(waveform, np.float32)


class Embedder:
    """Embeds lists of clips and captions; an input gives the same bits alone, in a list, and in any order (on CPU).

    XLA compiles one program per length bucket (see `slap_jax.inference.bucketing`). Parameters may change between calls
    without recompiling.

    Attributes:
        config: config of the run, changed as `inference_config` says.
        bucketing: forms the batches.
        per_column: samples per column.
        patches: F, frequency patches per column.
    """

    def __init__(
        self,
        config: ConfigDict,
        mesh: Mesh | None = None,
        tokens_per_call: int | None = None,
        device: Any | None = None,
    ):
        """Sets up the programs; each is compiled at its first call.

        Args:
            config: config of a run or an export; `audio` and `model` are read.
            mesh: shards the rows over its devices; the parameters must be on it.
            tokens_per_call: see `LengthBucketing`.
            device: runs the programs, unless there is a mesh; the parameters must be on it. None for JAX's default.
        """
        self.config = inference_config(config)
        self.bucketing = LengthBucketing(mesh, tokens_per_call, device)
        self.per_column = samples_per_column(self.config.audio)
        self.patches = patches_per_column(self.config.audio)
        self._graph, _ = nnx.split(nnx.eval_shape(lambda: Slap(self.config, rngs=nnx.Rngs(0))))
        out = self.bucketing.output_sharding()
        self._programs: dict[str, Any] = {
            "audio": jax.jit(self._audio_rows, out_shardings=out),
            "projection": jax.jit(functools.partial(self._audio_rows, normalize=False), out_shardings=out),
            "frames": jax.jit(self._frame_rows, out_shardings=out),
            "frame_embeddings": jax.jit(self._frame_embedding_rows, out_shardings=out),
        }
        self._text_programs = {
            True: jax.jit(self._text_rows, out_shardings=out),
            False: jax.jit(functools.partial(self._text_rows, normalize=False), out_shardings=out),
        }

    def with_batch_size(self, batch_size: int | None) -> "Embedder":
        """Returns an embedder with the same programs that runs at most `batch_size` clips or texts at a time."""
        limited = copy.copy(self)
        limited.bucketing = dataclasses.replace(self.bucketing, most_rows=batch_size)
        return limited

    def model(self, params: Mapping[str, Any]) -> Slap:
        """Returns the model with these parameters, for use inside a jitted function."""
        return nnx.merge(self._graph, params)

    def abstract_params(self) -> dict[str, Any]:
        """Returns the shapes of the model's parameters as nested dicts."""
        _, state = nnx.split(nnx.eval_shape(lambda: Slap(self.config, rngs=nnx.Rngs(0))))
        return nnx.to_pure_dict(state)

    def audio(
        self, params: Mapping[str, Any], waveforms: Sequence[Shaped[np.ndarray, " n"]]
    ) -> Float[np.ndarray, "N E"]:
        """Embeds whole clips.

        Args:
            params: `params["model"]` of a run.
            waveforms: mono samples at `config.audio.sample_rate`, float or int16, of any duration from one sample on.

        Returns:
            fp32 unit vectors.
        """
        outputs = self.map_audio(self.audio_program(params), waveforms)
        return np.stack(outputs) if outputs else np.zeros((0, self.config.model.embed_dim), np.float32)

    def frames(
        self, params: Mapping[str, Any], waveforms: Sequence[Shaped[np.ndarray, " n"]]
    ) -> list[Float[np.ndarray, "c D"]]:
        """Computes dense features before pooling.

        Args:
            params: as for `audio`.
            waveforms: as for `audio`.

        Returns:
            Per clip, fp32 features of its columns of 160 ms, each the mean over the F patches of the column.
        """
        return self._columns(self.audio_program(params, "frames"), waveforms)

    def frame_embeddings(
        self, params: Mapping[str, Any], waveforms: Sequence[Shaped[np.ndarray, " n"]]
    ) -> list[Float[np.ndarray, "c E"]]:
        """Embeds every column of clips: attention pooling over the patches of the column, then the projection.

        Args:
            params: as for `audio`.
            waveforms: as for `audio`.

        Returns:
            Per clip, fp32 unit vectors of its columns, comparable with text embeddings.
        """
        return self._columns(self.audio_program(params, "frame_embeddings"), waveforms)

    def _columns(self, program: Any, waveforms: Sequence[Shaped[np.ndarray, " n"]]) -> list[np.ndarray]:
        """Runs a program with one output per column and drops the padding columns."""
        outputs = self.map_audio(program, waveforms)
        columns = [clip_columns(len(waveform), self.per_column) for waveform in waveforms]
        return [output[:count] for output, count in zip(outputs, columns, strict=True)]

    def map_audio(self, program: AudioProgram, waveforms: Sequence[Shaped[np.ndarray, " n"]]) -> list[np.ndarray]:
        """Runs `program` on rows of one clip each and returns the result row of each clip."""
        results: list[Any] = [None] * len(waveforms)
        for index, row in self.stream_audio(program, range(len(waveforms)), waveforms.__getitem__):
            results[index] = row
        return results

    def stream_audio(
        self, program: AudioProgram, items: Iterable[Item], waveform: Callable[[Item], Shaped[np.ndarray, " n"]]
    ) -> Iterator[tuple[Item, np.ndarray]]:
        """Runs `program` on a stream of items, one row each, with few of them in memory.

        Args:
            program: jitted (waveform [R, S], samples [R]) -> [R, ...], see `audio_program`.
            items: fetched while programs run.
            waveform: returns the samples of an item, as for `audio`.

        Yields:
            Each item with its row of the result, in the order that `LengthBucketing.stream` documents.
        """

        def build(members: Sequence[Item], rows: int, bucket: int) -> tuple[np.ndarray, np.ndarray]:
            padded = np.zeros((rows, bucket * self.per_column), np.float32)
            samples = np.zeros(rows, np.int32)
            for row, member in enumerate(members):
                clip = float_waveform(waveform(member))
                padded[row, : len(clip)] = clip
                samples[row] = len(clip)
            return padded, samples

        def columns(item: Item) -> int:
            return clip_columns(len(waveform(item)), self.per_column)

        return self.bucketing.stream(program, build, items, columns, SMALLEST_COLUMNS, self.patches)

    def audio_program(self, params: Mapping[str, Any], output: Output = "audio") -> AudioProgram:
        """Returns a program for `stream_audio`.

        Args:
            params: as for `audio`.
            output: the method whose result the program computes, or "projection" for the vectors of `audio` before
                they are scaled to unit length. Rows of "frames" and "frame_embeddings" also hold
                padding columns, which are meaningless.
        """
        return functools.partial(self._programs[output], params)

    def text(
        self,
        params: Mapping[str, Any],
        captions: Sequence[Sequence[int]],
        normalize: bool = True,
        show_progress: bool = False,
    ) -> Float[np.ndarray, "M E"]:
        """Embeds captions.

        Args:
            params: as for `audio`.
            captions: token ids, `[BOS, ..., EOS]` each.
            normalize: whether the vectors are scaled to unit length.
            show_progress: whether to count the captions in a progress bar on standard error.

        Returns:
            fp32 vectors.
        """

        def build(indices: Sequence[int], rows: int, bucket: int) -> tuple[np.ndarray, np.ndarray]:
            tokens, lengths = np.zeros((rows, bucket), np.int32), np.zeros(rows, np.int32)
            for row, index in enumerate(indices):
                tokens[row, : len(captions[index])] = captions[index]
                lengths[row] = len(captions[index])
            return tokens, lengths

        program = functools.partial(self._text_programs[normalize], params)
        lengths = [len(caption) for caption in captions]
        with tqdm(total=len(captions), unit=" texts", disable=not show_progress) as bar:
            outputs = self.bucketing.run(program, build, lengths, SMALLEST_TOKENS, 1, bar.update)
        return np.stack(outputs) if outputs else np.zeros((0, self.config.model.embed_dim), np.float32)

    def _tokens(
        self, model: Slap, waveform: Float[Array, "R S"], samples: Int[Array, " R"]
    ) -> tuple[Float[Array, "R L D"], Int[Array, "R C"]]:
        """Returns the dense features of rows of one clip each, and the segment ids of their columns."""
        segments, columns = one_clip_rows(samples, waveform.shape[1] // self.per_column, self.per_column)
        return model.audio_tokens(model.audio_patches(waveform, segments), segments, columns), segments

    def _audio_rows(
        self,
        params: Mapping[str, Any],
        waveform: Float[Array, "R S"],
        samples: Int[Array, " R"],
        normalize: bool = True,
    ) -> Float[Array, "R E"]:
        model = self.model(params)
        tokens, segments = self._tokens(model, waveform, samples)
        return model.audio_embeddings(tokens, segments, 1, normalize)[:, 0]

    def _frame_rows(
        self, params: Mapping[str, Any], waveform: Float[Array, "R S"], samples: Int[Array, " R"]
    ) -> Float[Array, "R C D"]:
        tokens, segments = self._tokens(self.model(params), waveform, samples)
        return tokens.astype(jnp.float32).reshape(*segments.shape, self.patches, -1).mean(axis=2)

    def _frame_embedding_rows(
        self, params: Mapping[str, Any], waveform: Float[Array, "R S"], samples: Int[Array, " R"]
    ) -> Float[Array, "R C E"]:
        model = self.model(params)
        tokens, segments = self._tokens(model, waveform, samples)
        # Each column becomes a row with one slot. C slots per row would take [R, C, L] memory.
        columns = tokens.reshape(-1, self.patches, tokens.shape[-1])
        return model.audio_embeddings(columns, segments.reshape(-1, 1), 1).reshape(*segments.shape, -1)

    def _text_rows(
        self,
        params: Mapping[str, Any],
        tokens: Int[Array, "R T"],
        lengths: Int[Array, " R"],
        normalize: bool = True,
    ) -> Float[Array, "R E"]:
        model = self.model(params)
        position = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
        inside = position < lengths[:, None]
        segments = inside.astype(jnp.int32)
        hidden = model.text_tokens(tokens, segments, jnp.where(inside, position, 0))
        return model.text_embeddings(hidden, segments, 1, normalize)[:, 0]
