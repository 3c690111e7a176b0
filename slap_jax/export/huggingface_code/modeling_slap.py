"""SLAP for transformers: `AutoModel.from_pretrained(FOLDER, trust_remote_code=True)`.

model = AutoModel.from_pretrained(FOLDER, trust_remote_code=True).eval()
audio = model.get_audio_features(input_values, padding_mask)    # [B, S] mono at model.sampling_rate, zero-padded
text = model.get_text_features(text=["a dog barks", "rain"])    # or input_ids and attention_mask
audio @ text.T                                                  # cosine similarity

`AutoProcessor` makes the inputs, and `pipeline("zero-shot-audio-classification", ...)` uses both.
"""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import ModelOutput, cached_file

from .configuration_slap import SlapConfig
from .slap_torch import Slap


@dataclasses.dataclass
class SlapOutput(ModelOutput):
    """Results of `forward`; None for inputs that were not given.

    Attributes:
        logits_per_audio: scaled cosine similarities [B, M].
        logits_per_text: the same, [M, B].
        audio_embeds: unit vectors [B, E].
        text_embeds: unit vectors [M, E].
    """

    logits_per_audio: Tensor | None = None
    logits_per_text: Tensor | None = None
    audio_embeds: Tensor | None = None
    text_embeds: Tensor | None = None


class SlapModel(PreTrainedModel):
    """Embeds, compares and captions sound. Masks are 0 for padding, which is on the right."""

    config_class = SlapConfig
    base_model_prefix = "slap"
    main_input_name = "input_values"

    def __init__(self, config: SlapConfig):
        super().__init__(config)
        self.slap = Slap(config.slap, captions=config.captions)
        self.post_init()

    @property
    def sampling_rate(self) -> int:
        """Returns the sampling rate of `input_values` in Hz."""
        return self.config.slap["audio"]["sample_rate"]

    def get_audio_features(self, input_values: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Returns unit vectors [B, E] of samples [B, S]."""
        return self.slap.embed_audio(input_values, _lengths(padding_mask))

    def get_text_features(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        text: list[str] | None = None,
    ) -> Tensor:
        """Returns unit vectors [M, E] of token ids [M, T], or of texts."""
        if text is not None:
            tokens, lengths = self.tokenize(text)
            return self.slap.embed_text(tokens, lengths)
        if input_ids is None:
            raise ValueError("give input_ids, or text=[...]")
        return self.slap.embed_text(input_ids, _lengths(attention_mask))

    def get_dense_features(self, input_values: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns features [B, L, W] before pooling, and a mask [B, L] that is True for those of the clip."""
        return self.slap.audio_features(input_values, _lengths(padding_mask))

    def caption(self, input_values: Tensor, padding_mask: Tensor | None = None) -> list[str]:
        """Returns a caption for each clip."""
        self._find_tokenizer()
        return self.slap.decode_text(self.slap.caption(input_values, _lengths(padding_mask)))

    def tokenize(self, text: list[str]) -> tuple[Tensor, Tensor]:
        """Returns token ids [M, T] and lengths [M] in tokens."""
        self._find_tokenizer()
        return self.slap.tokenize(text)

    def forward(
        self,
        input_values: Tensor | None = None,
        padding_mask: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        text: list[str] | None = None,
        return_dict: bool | None = None,
        **unused: Any,
    ) -> SlapOutput | tuple[Tensor, ...]:
        """Embeds the given clips and texts, and compares them if both are given.

        Args:
            input_values: samples [B, S].
            padding_mask: of the samples [B, S].
            input_ids: token ids [M, T].
            attention_mask: of the token ids [M, T].
            text: M texts in place of `input_ids`.
            return_dict: False returns a tuple.
            **unused: other arguments that transformers passes.
        """
        output = SlapOutput()
        if input_values is not None:
            output.audio_embeds = self.get_audio_features(input_values, padding_mask)
        if input_ids is not None or text is not None:
            output.text_embeds = self.get_text_features(input_ids, attention_mask, text)
        if output.audio_embeds is not None and output.text_embeds is not None:
            output.logits_per_audio = self.slap.scale() * output.audio_embeds @ output.text_embeds.T
            output.logits_per_text = output.logits_per_audio.T
        return output.to_tuple() if return_dict is False else output

    def _find_tokenizer(self) -> None:
        if self.slap.tokenizer_path is None:
            self.slap.tokenizer_path = Path(cached_file(self.name_or_path, self.config.tokenizer_file))


def _lengths(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask.to(torch.int64).sum(dim=1)
