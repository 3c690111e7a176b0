"""Sounds and texts for SLAP together: `AutoProcessor.from_pretrained(FOLDER, trust_remote_code=True)`."""

from typing import Any

from transformers import BatchFeature, ProcessorMixin


class SlapProcessor(ProcessorMixin):
    """A `SlapFeatureExtractor` and a `SlapTokenizer`."""

    def __init__(self, feature_extractor: Any, tokenizer: Any):
        super().__init__(feature_extractor, tokenizer)

    def __call__(
        self,
        text: str | list[str] | None = None,
        audio: Any = None,
        sampling_rate: int | None = None,
        return_tensors: str | None = "pt",
        **kwargs: Any,
    ) -> BatchFeature:
        """Returns the arguments of the model: those of the sounds, those of the texts, or both.

        Args:
            text: one text or several.
            audio: one clip or several, as for `SlapFeatureExtractor`.
            sampling_rate: of the clips, in Hz.
            return_tensors: as in transformers.
            **kwargs: ignored.
        """
        if text is None and audio is None:
            raise ValueError("give text, audio, or both")
        inputs = BatchFeature()
        if audio is not None:
            inputs.update(self.feature_extractor(audio, sampling_rate=sampling_rate, return_tensors=return_tensors))
        if text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            inputs.update(self.tokenizer(texts, padding=True, return_tensors=return_tensors))
        return inputs
