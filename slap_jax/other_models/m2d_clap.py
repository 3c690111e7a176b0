"""M2D-CLAP, through the single file `portable_m2d.py` of its repository."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from slap_jax.other_models.dual_encoder import OtherModelError
from slap_jax.other_models.torch_models import choose_device, hash_model, require, run_batches

INSTALL = (
    "save examples/portable_m2d.py of github.com/nttcslab/m2d in a folder of PYTHONPATH, and pip install "
    "'slap-jax[clap]' timm einops nnAudio"
)


class M2dClapEncoder:
    """A `PortableM2D` with the projections of M2D-CLAP; see `slap_jax.other_models.dual_encoder.Encoder`."""

    family = "M2D-CLAP"
    max_tokens = 512  # of its text encoders
    scale = 1 / 0.07  # the published checkpoints state none

    def __init__(self, source: str, device: str | None = None):
        """Reads a model.

        Args:
            source: checkpoint, in a folder with its published name, such as
                `m2d_clap_vit_base-80x1001p16x16p16kpBpTI-2025/checkpoint-30.pth`: the name states the sizes.
            device: "cpu", "cuda", ...; None for a GPU if there is one.

        Raises:
            OtherModelError: a package or the file is missing, or the checkpoint is one of M2D without CLAP.
        """
        if not Path(source).is_file():
            raise OtherModelError(f"m2d_clap:{source} is not a file; give m2d_clap:FOLDER/checkpoint.pth")
        if "-" not in Path(source).parent.name:
            raise OtherModelError(
                f"{source}: the folder of an M2D-CLAP checkpoint states its sizes, as in "
                f"m2d_clap_vit_base-80x608p16x16-240128, but it is {Path(source).parent.name!r}; give it its published "
                "name"
            )
        portable = require("portable_m2d", "M2D-CLAP", INSTALL)
        self.source = source
        self.device = choose_device(device)
        # Flat features: the projection takes those of patches, not of stacks of them.
        self._model = portable.PortableM2D(weight_file=source, flat_features=True)
        if not hasattr(self._model.backbone, "audio_proj"):
            raise OtherModelError(f"{source} has no projections: it is an M2D checkpoint; give one of M2D-CLAP")
        settings = self._model.cfg
        self.sample_rate: int = settings.sample_rate
        # Its spectrogram has one frame more than whole hops, and a frame too many would be a chunk of its own.
        self.max_seconds = (settings.input_size[1] - 1) * settings.hop_size / settings.sample_rate
        self._model.get_clap_text_encoder()
        self._model.eval().to(self.device)
        self.embed_dim: int = self.text_vectors(["sound"]).shape[1]
        sizes = [settings.sample_rate, list(settings.input_size), list(settings.patch_size)]
        self.model_id = hash_model({"sizes": sizes}, self._model.state_dict())

    def audio_vectors(self, waveforms: Sequence[Float[np.ndarray, " n"]]) -> Float[np.ndarray, "b E"]:
        """Embeds waveforms of up to `max_seconds`."""
        # One by one on every device: their lengths differ, and the model has no masks.
        return np.concatenate([run_batches(self._audio, [waveform], self.device) for waveform in waveforms])

    def text_vectors(self, texts: Sequence[str]) -> Float[np.ndarray, "b E"]:
        """Embeds texts."""
        return run_batches(
            lambda batch: self._model.encode_clap_text(list(batch), truncate=True), texts, self.device, 8
        )

    def count_tokens(self, text: str) -> int:
        """Returns the number of tokens of the whole text; 0 for text encoders that do not show their tokens."""
        tokenizer = getattr(self._model.text_encoder, "tokenizer", None)
        return len(tokenizer(text)["input_ids"]) if tokenizer is not None else 0

    def _audio(self, waveforms: Sequence[np.ndarray]) -> Any:
        import torch

        (waveform,) = waveforms
        # A shorter clip has no frame to reflect at its edges.
        samples = np.pad(waveform, (0, max(0, self._model.cfg.window_size - len(waveform))))
        return self._model.encode_clap_audio(torch.from_numpy(samples)[None].to(self.device))

    def _text(self, texts: Sequence[str]) -> Any:
        return self._model.encode_clap_text(list(texts), truncate=True)
