"""The audio models of open_clip: CLAP with HTSAT or Whisper, and NaFlexClap."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from slap_jax.other_models.dual_encoder import OtherModelError
from slap_jax.other_models.torch_models import choose_device, hash_model, require, run_batches

# The releases up to 3.3.0 have no audio models.
INSTALL = "pip install torchaudio torchlibrosa 'open_clip_torch @ git+https://github.com/mlfoundations/open_clip'"
_NAFLEX_SECONDS = 10.0  # how much of a clip open_clip's own evaluation reads, unless a model states another length


class OpenClipEncoder:
    """A CLAP of open_clip; see `slap_jax.other_models.dual_encoder.Encoder`.

    Clips go through open_clip's transform of evaluation. Fused models fuse no clip, because none is longer than a
    window here.
    """

    family = "open_clip"

    def __init__(self, source: str, device: str | None = None):
        """Reads a model.

        Args:
            source: "NAME" with the first published weights, or "NAME@WEIGHTS" with a published tag or a file.
            device: "cpu", "cuda", ...; None for a GPU if there is one.

        Raises:
            OtherModelError: open_clip is missing or has no audio models, the name is unknown or not that of an audio
                model, or there are no weights.
        """
        name, _, weights = source.partition("@")
        open_clip = require("open_clip", "an audio model of open_clip", INSTALL)
        config = open_clip.get_model_config(name)
        audio_names = [other for other in open_clip.list_models() if "audio_cfg" in open_clip.get_model_config(other)]
        if not audio_names:
            raise OtherModelError(f"open_clip {open_clip.__version__} has no audio models: {INSTALL}")
        if config is None or "audio_cfg" not in config:
            raise OtherModelError(
                f"open_clip has no audio model {name!r}; write one of {', '.join(sorted(audio_names))}"
            )
        tags = open_clip.list_pretrained_tags_by_model(name)
        weights = weights or next(iter(tags), "")
        if not (weights in tags or Path(weights).is_file()):
            published = f"a published tag ({', '.join(tags)})" if tags else "no tag is published"
            raise OtherModelError(
                f"open_clip:{source} names no weights: write open_clip:{name}@FILE with a checkpoint; {published}"
            )
        self.source = source
        self.device = choose_device(device)
        model, _, self._transform = open_clip.create_model_and_transforms(name, pretrained=weights)
        self._tokenizer = open_clip.get_tokenizer(name)
        audio = model.audio.cfg
        self.sample_rate: int = audio.sample_rate
        if audio.model_type.lower() == "naflexvit":
            self._transform = self._transform(max_seq_len=None)
            self.max_seconds = _NAFLEX_SECONDS
        else:
            self.max_seconds = audio.clip_samples / audio.sample_rate
        self.embed_dim: int = config["embed_dim"]
        self.max_tokens: int = model.context_length
        self.scale = float(model.logit_scale.detach().exp().reshape(-1)[0])
        self.model_id = hash_model(config, model.state_dict())
        self._model = model.eval().to(self.device)

    def audio_vectors(self, waveforms: Sequence[Float[np.ndarray, " n"]]) -> Float[np.ndarray, "b E"]:
        """Embeds waveforms of up to `max_seconds`."""
        return run_batches(self._audio, waveforms, self.device)

    def text_vectors(self, texts: Sequence[str]) -> Float[np.ndarray, "b E"]:
        """Embeds texts."""
        return run_batches(self._text, texts, self.device, on_cpu=8)

    def count_tokens(self, text: str) -> int:
        """Returns the number of tokens of the whole text; 0 for tokenizers that do not count."""
        encode = getattr(self._tokenizer, "encode", None) or getattr(
            getattr(self._tokenizer, "tokenizer", None), "encode", None
        )
        return 0 if encode is None else len(encode(text)) + 2

    def _audio(self, waveforms: Sequence[np.ndarray]) -> Any:
        import torch

        inputs = [self._transform((torch.from_numpy(clip)[None], self.sample_rate)) for clip in waveforms]
        return torch.cat([self._model.encode_audio(self._batch(one), normalize=True) for one in inputs])

    def _batch(self, clip: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a batch of one clip: lengths of NaFlex clips differ, and the others are fast enough alone."""
        import torch

        return {name: torch.as_tensor(value)[None].to(self.device) for name, value in clip.items()}

    def _text(self, texts: Sequence[str]) -> Any:
        return self._model.encode_text(self._tokenizer(list(texts)).to(self.device), normalize=True)
