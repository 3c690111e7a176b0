"""Microsoft's CLAP, from its package msclap: versions 2023 (HTSAT and GPT-2) and 2022 (CNN14 and BERT)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from slap_jax.other_models.clap_mel import fill_waveform
from slap_jax.other_models.dual_encoder import OtherModelError
from slap_jax.other_models.torch_models import choose_device, hash_model, require, run_batches

# The package pins numpy below 2 and transformers below 5, although these functions work with both.
INSTALL = "pip install --no-deps msclap && pip install 'slap-jax[clap]' torchlibrosa torchaudio"
VERSIONS = ("2023", "2022")


class MsClapEncoder:
    """A `CLAPWrapper` of msclap; see `slap_jax.other_models.dual_encoder.Encoder`.

    The wrapper's own functions take files, join the channels one after the other, and crop longer clips at random. Here
    its encoders get mono clips, repeated to their length as the wrapper does it.
    """

    family = "msclap"

    def __init__(self, source: str, device: str | None = None):
        """Reads a model.

        Args:
            source: "2023" or "2022", whose weights msclap downloads, or "2023@FILE".
            device: "cpu", "cuda", ...; None for a GPU if there is one.

        Raises:
            OtherModelError: msclap is missing, or the version is unknown.
        """
        version, _, weights = source.partition("@")
        if version not in VERSIONS:
            raise OtherModelError(f"msclap has no version {version!r}; write msclap:{' or msclap:'.join(VERSIONS)}")
        msclap = require("msclap", "msclap", INSTALL)
        self.source = source
        self.device = choose_device(device)
        wrapper = msclap.CLAP(model_fp=weights or None, version=version, use_cuda=False)
        self._model, self._tokenizer, self._keys = wrapper.clap, wrapper.tokenizer, wrapper.token_keys
        settings = wrapper.args
        self._ends_with_token = "gpt" in settings.text_model
        self.sample_rate: int = settings.sampling_rate
        self.max_seconds = float(settings.duration)
        self.embed_dim: int = settings.d_proj
        self.max_tokens: int = settings.text_len
        self.scale = float(self._model.logit_scale.detach().exp())
        self.model_id = hash_model(vars(settings), self._model.state_dict())
        self._model.eval().to(self.device)

    def audio_vectors(self, waveforms: Sequence[Float[np.ndarray, " n"]]) -> Float[np.ndarray, "b E"]:
        """Embeds waveforms of up to `max_seconds`."""
        return run_batches(self._audio, waveforms, self.device)

    def text_vectors(self, texts: Sequence[str]) -> Float[np.ndarray, "b E"]:
        """Embeds texts."""
        return run_batches(self._text, texts, self.device, on_cpu=8)

    def count_tokens(self, text: str) -> int:
        """Returns the number of tokens of the whole text."""
        return len(self._tokenizer(self._whole(text))["input_ids"])

    def _audio(self, waveforms: Sequence[np.ndarray]) -> Any:
        import torch

        length = round(self.max_seconds * self.sample_rate)
        filled = np.stack([fill_waveform(waveform, length, "repeat") for waveform in waveforms])
        return self._model.audio_encoder(torch.from_numpy(filled).to(self.device))[0]

    def _text(self, texts: Sequence[str]) -> Any:
        tokens = self._tokenizer(
            [self._whole(text) for text in texts],
            max_length=self.max_tokens,
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        )
        return self._model.caption_encoder({key: tokens[key].to(self.device) for key in self._keys})

    def _whole(self, text: str) -> str:
        return f"{text} <|endoftext|>" if self._ends_with_token else text
