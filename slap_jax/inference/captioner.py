"""Audio captioning by greedy decoding or beam search."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Shaped

from slap_jax.errors import UserError
from slap_jax.inference.embedder import AudioProgram, Embedder, one_clip_rows
from slap_jax.models.caption_decoder import CaptionDecoder
from slap_jax.models.encoders import token_segment_ids


class BeamError(UserError, ValueError):
    """A beam width that is not a positive integer."""


class Captioner:
    """Writes captions with the decoder that the captioning objective trained."""

    def __init__(self, embedder: Embedder, max_tokens: int, beam: int = 1):
        """Sets up the program; it is compiled at the first call.

        Args:
            embedder: embedder of the same config; it forms the batches.
            max_tokens: caption length at which decoding stops, with or without EOS.
            beam: beam width, see `CaptionDecoder.beam`; 1 is greedy decoding.

        Raises:
            BeamError: `beam` is not a positive integer.
        """
        check_beam(beam)
        self._embedder, self._max_tokens, self._beam = embedder, max_tokens, beam
        self._graph, state = nnx.split(nnx.eval_shape(self._decoder))
        self.abstract_params: dict[str, Any] = nnx.to_pure_dict(state)
        self._program = jax.jit(self._caption_rows, out_shardings=embedder.bucketing.output_sharding())

    def __call__(
        self,
        model_params: Mapping[str, Any],
        decoder_params: Mapping[str, Any],
        waveforms: Sequence[Shaped[np.ndarray, " n"]],
    ) -> list[list[int]]:
        """Returns the token ids of a caption per clip; ids after the first EOS are meaningless.

        Args:
            model_params: `params["model"]` of a run.
            decoder_params: `params["objectives"]["captioning"]["decoder"]` of a run.
            waveforms: as for `Embedder.audio`.
        """
        program = self.program(model_params, decoder_params)
        return [tokens.tolist() for tokens in self._embedder.map_audio(program, waveforms)]

    def program(self, model_params: Mapping[str, Any], decoder_params: Mapping[str, Any]) -> AudioProgram:
        """Returns a program for `Embedder.stream_audio` that maps rows to the token ids of their captions."""
        return functools.partial(self._program, model_params, decoder_params)

    def _decoder(self) -> CaptionDecoder:
        model = self._embedder.config.model
        return CaptionDecoder(model, model.audio_encoder.width, rngs=nnx.Rngs(0))

    def _caption_rows(
        self,
        model_params: Mapping[str, Any],
        decoder_params: Mapping[str, Any],
        waveform: Float[Array, "R S"],
        samples: Int[Array, " R"],
    ) -> Int[Array, "R N"]:
        per_column = self._embedder.per_column
        model = self._embedder.model(model_params)
        decoder = nnx.merge(self._graph, decoder_params)
        segments, columns = one_clip_rows(samples, waveform.shape[1] // per_column, per_column)
        memory = model.audio_tokens(model.audio_patches(waveform, segments), segments, columns)
        memory_segments = token_segment_ids(segments, self._embedder.patches)
        if self._beam == 1:
            return decoder.greedy(memory, memory_segments, 1, self._max_tokens)[:, 0]
        return decoder.beam(memory, memory_segments, 1, self._max_tokens, self._beam)[0][:, 0]


def check_beam(beam: Any) -> None:
    """Raises `BeamError` unless `beam` is a positive integer."""
    if not isinstance(beam, (int, np.integer)) or isinstance(beam, bool) or beam < 1:
        raise BeamError(f"beam is {beam!r}; write a whole number, 1 or more")
