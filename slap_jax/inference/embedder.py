"""Embeddings of clips and captions of any length; parameters are an argument, so training evaluates with this too."""

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

from slap_jax.config.defaults import patches_per_column, samples_per_column
from slap_jax.data.audio import INT16_SCALE
from slap_jax.data.packing import clip_columns
from slap_jax.inference.bucketing import Item, Rows
from slap_jax.models.slap import Slap

# Below these a row costs little whatever its length, and compiling one more program costs a second or more.
SMALLEST_COLUMNS = 16  # 2.56 s
SMALLEST_TOKENS = 32

# (waveform [R, S], samples [R]) -> [R, ...]
AudioProgram = Callable[[Any, Any], jax.Array]
Output = Literal["audio", "frames", "frame_embeddings"]


def inference_config(config: ConfigDict) -> ConfigDict:
    """The config with choices that only training needs undone.

    The attention backend is chosen by length again, since a clip may be longer than any row of training; nothing is
    recomputed, as there is no backward pass.
    """
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.model.attention = "auto"
        config.model.remat = "none"
    return config


def one_clip_rows(
    samples: Int[Array, " R"], columns: int, per_column: int
) -> tuple[Int[Array, "R C"], Int[Array, "R C"]]:
    """Segments and columns of rows that hold one clip each, as packing would write them.

    Args:
        samples: length of each clip; 0 marks a row of padding.
        columns: C.
        per_column: samples of a column.

    Returns:
        `audio_segment_ids` (1 in the clip's columns, else 0) and `audio_positions`.
    """
    column = jnp.arange(columns, dtype=jnp.int32)[None]
    owned = (samples[:, None] + per_column - 1) // per_column
    inside = column < owned
    return inside.astype(jnp.int32), jnp.where(inside, column, 0)


def float_waveform(waveform: Shaped[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """int16 samples as float32 in [-1, 1); float samples unchanged."""
    if waveform.dtype == np.int16:
        return waveform / np.float32(INT16_SCALE)
    return np.asarray(waveform, np.float32)


class Embedder:
    """Embeds lists of clips and captions; the same input gives the same bits alone, in a list, and in any order.

    A program is compiled per bucket of lengths (see `slap_jax.inference.bucketing`); parameters can change
    freely between calls.

    Attributes:
        config: with inference's choices.
        rows: how rows are formed.
        programs: how many were traced so far, hence compiled.
    """

    def __init__(self, config: ConfigDict, mesh: Mesh | None = None, tokens_per_call: int | None = None):
        """Prepares; nothing is compiled before the first call.

        Args:
            config: of the run, or of an export (`audio` and `model` are read).
            mesh: split the rows over its devices; the parameters must then live on it.
            tokens_per_call: see `Rows`.
        """
        self.config = inference_config(config)
        self.rows = Rows(mesh, tokens_per_call)
        self.programs = 0
        self.per_column = samples_per_column(self.config.audio)
        self.patches = patches_per_column(self.config.audio)
        self._graph, _ = nnx.split(nnx.eval_shape(lambda: Slap(self.config, rngs=nnx.Rngs(0))))
        out = self.rows.output_sharding()
        self._programs: dict[str, Any] = {
            "audio": jax.jit(self._audio_rows, out_shardings=out),
            "frames": jax.jit(self._frame_rows, out_shardings=out),
            "frame_embeddings": jax.jit(self._frame_embedding_rows, out_shardings=out),
        }
        self._text_program = jax.jit(self._text_rows, out_shardings=out)

    def model(self, params: Mapping[str, Any]) -> Slap:
        """The model with these parameters, for use inside a jitted function."""
        return nnx.merge(self._graph, params)

    def abstract_params(self) -> dict[str, Any]:
        """Shapes of the model's parameters, as nested dicts."""
        _, state = nnx.split(nnx.eval_shape(lambda: Slap(self.config, rngs=nnx.Rngs(0))))
        return nnx.to_pure_dict(state)

    def audio(
        self, params: Mapping[str, Any], waveforms: Sequence[Shaped[np.ndarray, " n"]]
    ) -> Float[np.ndarray, "N E"]:
        """Embeds whole clips.

        Args:
            params: of the model (`params["model"]` of a run).
            waveforms: mono samples at `config.audio.sample_rate`, float or int16, at least one each, any duration.

        Returns:
            fp32 unit vectors.
        """
        outputs = self.map_audio(self.audio_program(params), waveforms)
        return np.stack(outputs) if outputs else np.zeros((0, self.config.model.embed_dim), np.float32)

    def frames(
        self, params: Mapping[str, Any], waveforms: Sequence[Shaped[np.ndarray, " n"]]
    ) -> list[Float[np.ndarray, "c D"]]:
        """Dense features before pooling.

        Args:
            params: of the model.
            waveforms: as for `audio`.

        Returns:
            For each clip fp32 features of its columns (160 ms each): the mean over the F patches of a column.
        """
        return self._columns(self.audio_program(params, "frames"), waveforms)

    def frame_embeddings(
        self, params: Mapping[str, Any], waveforms: Sequence[Shaped[np.ndarray, " n"]]
    ) -> list[Float[np.ndarray, "c E"]]:
        """Embeds every column of clips: attention pooling over the column's own patches, then the projection.

        Args:
            params: of the model.
            waveforms: as for `audio`.

        Returns:
            For each clip fp32 unit vectors of its columns, comparable with texts.
        """
        return self._columns(self.audio_program(params, "frame_embeddings"), waveforms)

    def _columns(self, program: Any, waveforms: Sequence[Shaped[np.ndarray, " n"]]) -> list[np.ndarray]:
        """Results for each column, without those of the padding."""
        outputs = self.map_audio(program, waveforms)
        columns = [clip_columns(len(waveform), self.per_column) for waveform in waveforms]
        return [output[:count] for output, count in zip(outputs, columns, strict=True)]

    def map_audio(self, program: AudioProgram, waveforms: Sequence[Shaped[np.ndarray, " n"]]) -> list[np.ndarray]:
        """Calls `program` on rows of one clip each; returns the row of each clip."""
        results: list[Any] = [None] * len(waveforms)
        for index, row in self.stream_audio(program, range(len(waveforms)), waveforms.__getitem__):
            results[index] = row
        return results

    def stream_audio(
        self, program: AudioProgram, items: Iterable[Item], waveform: Callable[[Item], Shaped[np.ndarray, " n"]]
    ) -> Iterator[tuple[Item, np.ndarray]]:
        """Calls `program` on rows of one clip each as they come.

        Args:
            program: jitted (waveform [R, S], samples [R]) -> [R, ...], see `audio_program`.
            items: things with samples, fetched while programs run; few are in memory at a time.
            waveform: the samples of an item, as for `audio`.

        Yields:
            Each item and its row of the result; in the order of the items on CPU, elsewhere not always.
        """

        def build(members: Sequence[Item], rows: int, bucket: int) -> tuple[np.ndarray, np.ndarray]:
            rows_of_samples = np.zeros((rows, bucket * self.per_column), np.float32)
            samples = np.zeros(rows, np.int32)
            for row, member in enumerate(members):
                clip = float_waveform(waveform(member))
                rows_of_samples[row, : len(clip)] = clip
                samples[row] = len(clip)
            return rows_of_samples, samples

        def columns(item: Item) -> int:
            return clip_columns(len(waveform(item)), self.per_column)

        return self.rows.stream(program, build, items, columns, SMALLEST_COLUMNS, self.patches)

    def audio_program(self, params: Mapping[str, Any], output: Output = "audio") -> AudioProgram:
        """A program for `stream_audio`.

        Args:
            params: of the model.
            output: "audio" for what `audio` returns of a clip; "frames" and "frame_embeddings" for what these return,
                followed by columns of padding without meaning.
        """
        return functools.partial(self._programs[output], params)

    def text(self, params: Mapping[str, Any], captions: Sequence[Sequence[int]]) -> Float[np.ndarray, "M E"]:
        """Embeds captions.

        Args:
            params: of the model.
            captions: token ids, `[BOS, ..., EOS]` each.

        Returns:
            fp32 unit vectors.
        """

        def build(indices: Sequence[int], rows: int, bucket: int) -> tuple[np.ndarray, np.ndarray]:
            tokens, lengths = np.zeros((rows, bucket), np.int32), np.zeros(rows, np.int32)
            for row, index in enumerate(indices):
                tokens[row, : len(captions[index])] = captions[index]
                lengths[row] = len(captions[index])
            return tokens, lengths

        program = functools.partial(self._text_program, params)
        lengths = [len(caption) for caption in captions]
        outputs = self.rows.run(program, build, lengths, SMALLEST_TOKENS, 1)
        return np.stack(outputs) if outputs else np.zeros((0, self.config.model.embed_dim), np.float32)

    def _tokens(
        self, model: Slap, waveform: Float[Array, "R S"], samples: Int[Array, " R"]
    ) -> tuple[Float[Array, "R L D"], Int[Array, "R C"]]:
        """Dense features of rows of one clip each, and the owner of each column."""
        self.programs += 1  # Python runs only while tracing
        segments, columns = one_clip_rows(samples, waveform.shape[1] // self.per_column, self.per_column)
        return model.audio_tokens(model.audio_patches(waveform, segments), segments, columns), segments

    def _audio_rows(
        self, params: Mapping[str, Any], waveform: Float[Array, "R S"], samples: Int[Array, " R"]
    ) -> Float[Array, "R E"]:
        model = self.model(params)
        tokens, segments = self._tokens(model, waveform, samples)
        return model.audio_embeddings(tokens, segments, 1)[:, 0]

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
        # Each column becomes a row of its own with one slot: as slots of the row they would take [R, C, L] memory.
        columns = tokens.reshape(-1, self.patches, tokens.shape[-1])
        return model.audio_embeddings(columns, segments.reshape(-1, 1), 1).reshape(*segments.shape, -1)

    def _text_rows(
        self, params: Mapping[str, Any], tokens: Int[Array, "R T"], lengths: Int[Array, " R"]
    ) -> Float[Array, "R E"]:
        self.programs += 1  # Python runs only while tracing
        model = self.model(params)
        position = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
        inside = position < lengths[:, None]
        segments = inside.astype(jnp.int32)
        hidden = model.text_tokens(tokens, segments, jnp.where(inside, position, 0))
        return model.text_embeddings(hidden, segments, 1)[:, 0]
