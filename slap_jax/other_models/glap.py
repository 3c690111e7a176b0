"""GLAP (Dasheng and SONAR), from its package glap_model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from slap_jax.other_models.dual_encoder import OtherModelError
from slap_jax.other_models.torch_models import choose_device, hash_model, require, run_batches

INSTALL = "pip install glap_model"
_SAMPLES_PER_FRAME = 160


class GlapEncoder:
    """A `GLAPInference`; see `slap_jax.other_models.dual_encoder.Encoder`."""

    family = "GLAP"
    sample_rate = 16_000
    max_tokens = 512
    scale = 100.0  # of its own `score`

    def __init__(self, source: str = "", device: str | None = None):
        """Reads a model.

        Args:
            source: checkpoint; "" for the published one, which the package downloads.
            device: "cpu", "cuda", ...; None for a GPU if there is one.

        Raises:
            OtherModelError: glap_model or the file is missing.
        """
        if source and not Path(source).is_file():
            raise OtherModelError(f"glap:{source} is not a file; give glap:FILE, or glap: for the published weights")
        package = require("glap_model", "GLAP", INSTALL)
        self.source = source or "published weights"
        self.device = choose_device(device)
        if source:
            self._model = require("glap_model.models", "GLAP", INSTALL).GLAPInference.from_pretrained(source)
        else:
            self._model = package.glap_inference()
        inner = self._model.model_impl
        self.embed_dim: int = inner.embed_size
        # The encoder cuts longer input into chunks of this many frames, a frame more than whole hops.
        self.max_seconds = (inner.audio_encoder.model.target_length - 1) * _SAMPLES_PER_FRAME / self.sample_rate
        self.model_id = hash_model({"embed_size": self.embed_dim}, inner.state_dict())
        self._model.eval().to(self.device)

    def audio_vectors(self, waveforms: Sequence[Float[np.ndarray, " n"]]) -> Float[np.ndarray, "b E"]:
        """Embeds waveforms of up to `max_seconds`."""
        # One by one on every device: their lengths differ, and the encoder averages over padding too.
        return np.concatenate([run_batches(self._audio, [waveform], self.device) for waveform in waveforms])

    def text_vectors(self, texts: Sequence[str]) -> Float[np.ndarray, "b E"]:
        """Embeds texts in English; other languages work too, since the text encoder knows them."""
        return run_batches(self._text, texts, self.device, on_cpu=8)

    def count_tokens(self, text: str) -> int:
        """Returns the number of tokens of the whole text."""
        tokenizer = self._model.model_impl.text_encoder.tokenizer
        return len(tokenizer.create_encoder(lang="eng_Latn")(text))

    def _audio(self, waveforms: Sequence[np.ndarray]) -> Any:
        import torch

        return self._model.encode_audio(torch.from_numpy(np.stack(waveforms)).to(self.device))

    def _text(self, texts: Sequence[str]) -> Any:
        return self._model.encode_text(list(texts), device=self.device)
