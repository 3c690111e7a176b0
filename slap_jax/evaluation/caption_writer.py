"""Writes captions for evaluation with the decoder of a run, whose parameters may change between calls."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from slap_jax.data.tokenizer import Tokenizer
from slap_jax.evaluation.captioning import Captions
from slap_jax.inference.captioner import Captioner
from slap_jax.inference.embedder import Embedder


class CaptionWriter:
    """Keep it between calls, it holds the compiled programs."""

    def __init__(self, embedder: Embedder, tokenizer: Tokenizer, max_tokens: int, beam: int = 1):
        """Prepares; nothing is compiled before the first caption.

        Args:
            embedder: of the model.
            tokenizer: of the model.
            max_tokens: at which a caption ends.
            beam: hypotheses kept; 1 is greedy decoding.

        Raises:
            CaptionError: a beam that is not a positive integer.
        """
        self._captioner = Captioner(embedder, max_tokens, beam)
        self._tokenizer, self._beam = tokenizer, beam

    def captions(self, params: Mapping[str, Any], extra_scores: Sequence[str] = ()) -> Captions | None:
        """What `evaluate` wants.

        Args:
            params: of a run: `model` and, with the captioning objective, its decoder.
            extra_scores: see `Captions`.

        Returns:
            None where the run has no decoder.
        """
        if not has_decoder(params):
            return None
        return Captions(functools.partial(self._write, params), {"beam": self._beam}, extra_scores)

    def _write(self, params: Mapping[str, Any], waveforms: Sequence[np.ndarray]) -> list[str]:
        written = self._captioner(params["model"], params["objectives"]["captioning"]["decoder"], waveforms)
        # A model may have more ids than its vocabulary has pieces; the surplus ones spell nothing.
        size = self._tokenizer.vocab_size
        return [self._tokenizer.decode([token for token in tokens if token < size]) for tokens in written]


def has_decoder(params: Mapping[str, Any]) -> bool:
    """Whether a run's parameters have a caption decoder."""
    return "decoder" in params.get("objectives", {}).get("captioning", {})
