"""transformers' `ClapModel`, such as laion/clap-htsat-unfused, from a folder or the Hugging Face hub."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from slap_jax.other_models.clap_attention import speed_up_attention
from slap_jax.other_models.clap_mel import FILLS, ClapFrontEnd
from slap_jax.other_models.dual_encoder import OtherModelError
from slap_jax.other_models.torch_models import choose_device, hash_model, require, run_batches, speed_up_linears

INSTALL = "pip install 'slap-jax[clap]'"
_TEXTS_AT_ONCE = 32

# Settings that change vectors and cannot be told from the shapes of the weights. Others may differ between versions of
# transformers, whose models are the same.
_FRONT_END = (
    "feature_size",
    "fft_window_size",
    "frequency_max",
    "frequency_min",
    "hop_length",
    "nb_max_samples",
    "padding",
    "sampling_rate",
    "truncation",
)
_AUDIO = ("enable_fusion", "fusion_type", "hidden_act", "layer_norm_eps", "num_attention_heads", "patch_stride")
_AUDIO = (*_AUDIO, "projection_hidden_act", "spec_size", "window_size")
_TEXT = ("hidden_act", "layer_norm_eps", "num_attention_heads", "pad_token_id", "projection_hidden_act")


class ClapEncoder:
    """A `ClapModel` and the settings of its processor; see `slap_jax.other_models.dual_encoder.Encoder`.

    The vector of a clip is the one that transformers computes for this clip alone. For fused models that includes the
    fusion: its feature extractor marks one clip of each batch as long, at random, if none is, and so always a clip that
    is alone.
    """

    family = "ClapModel"

    def __init__(self, source: str, device: str | None = None, revision: str | None = None):
        """Reads a model.

        Args:
            source: folder, or id on the hub.
            device: "cpu", "cuda", ...; None for a GPU if there is one.
            revision: branch, tag or commit on the hub.

        Raises:
            OtherModelError: transformers or PyTorch is missing, or the model cannot be read.
        """
        require("torch", "a ClapModel", INSTALL)
        transformers = require("transformers", "a ClapModel", INSTALL)
        self.source = source
        self.device = choose_device(device)
        bars = transformers.utils.logging
        shown = bars.is_progress_bar_enabled()
        bars.disable_progress_bar()  # "Loading weights" would be the first line of every command
        try:
            model = transformers.ClapModel.from_pretrained(source, revision=revision, dtype="float32")
            processor = transformers.ClapProcessor.from_pretrained(source, revision=revision)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            raise OtherModelError(
                f"{source} is not a ClapModel that transformers can read ({reason}); give a folder with config.json, "
                "weights, preprocessor and tokenizer, as `save_pretrained` of the model and of its processor write them"
            ) from None
        finally:
            if shown:
                bars.enable_progress_bar()
        features, self._tokenizer = processor.feature_extractor, processor.tokenizer
        self._front_end = _front_end(features, source)
        self._fused = self._front_end.channels > 1
        self.sample_rate: int = features.sampling_rate
        self.max_seconds = features.nb_max_samples / features.sampling_rate
        self.embed_dim: int = model.config.projection_dim
        positions = model.config.text_config.max_position_embeddings - model.config.text_config.pad_token_id - 1
        self.max_tokens: int = min(self._tokenizer.model_max_length, positions)
        self.scale = float(model.logit_scale_a.detach().exp())
        settings = {
            "front end": {name: getattr(features, name) for name in _FRONT_END},
            "audio": {name: getattr(model.config.audio_config, name) for name in _AUDIO},
            "text": {name: getattr(model.config.text_config, name) for name in _TEXT},
            "tokens": [self._tokenizer.get_vocab(), self.max_tokens],
        }
        self.model_id = hash_model(settings, model.state_dict())
        self._model: Any = model.eval().to(self.device)
        if self.device.type == "cpu":
            speed_up_attention(self._model.audio_model)
            speed_up_linears(self._model)

    def audio_vectors(self, waveforms: Sequence[Float[np.ndarray, " n"]]) -> Float[np.ndarray, "b E"]:
        """Embeds waveforms of up to `max_seconds`."""
        return run_batches(self._audio, waveforms, self.device)

    def text_vectors(self, texts: Sequence[str]) -> Float[np.ndarray, "b E"]:
        """Embeds texts, those of similar length together."""
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        vectors = run_batches(self._text, [texts[index] for index in order], self.device, on_cpu=_TEXTS_AT_ONCE)
        return vectors[np.argsort(order)]

    def count_tokens(self, text: str) -> int:
        """Returns the number of tokens of the whole text."""
        return len(self._tokenizer(text, verbose=False)["input_ids"])

    def _audio(self, waveforms: Sequence[np.ndarray]) -> Any:
        import torch

        features = torch.from_numpy(np.stack([self._front_end(waveform) for waveform in waveforms])).to(self.device)
        longer = torch.full((len(waveforms), 1), self._fused, device=self.device)
        return self._model.get_audio_features(input_features=features, is_longer=longer).pooler_output

    def _text(self, texts: Sequence[str]) -> Any:
        tokens = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).to(self.device)
        return self._model.get_text_features(tokens["input_ids"], tokens["attention_mask"]).pooler_output


def is_clap_folder(folder: str | os.PathLike[str]) -> bool:
    """Returns whether a folder holds a `ClapModel`."""
    config = Path(folder) / "config.json"
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("model_type") == "clap"


def _front_end(features: Any, source: str) -> ClapFrontEnd:
    """Returns the settings of a `ClapFeatureExtractor`."""
    if features.padding not in FILLS or features.truncation not in ("fusion", "rand_trunc"):
        raise OtherModelError(
            f"{source}: the preprocessor has padding {features.padding!r} and truncation {features.truncation!r}; "
            f"expected {', '.join(FILLS)}, and fusion or rand_trunc"
        )
    fused = features.truncation == "fusion"
    return ClapFrontEnd(
        samples=features.nb_max_samples,
        n_fft=features.fft_window_size,
        hop=features.hop_length,
        filters=np.asarray(features.mel_filters if fused else features.mel_filters_slaney),
        fill=features.padding,
        channels=4 if fused else 1,
    )
