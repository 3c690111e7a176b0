"""Samples for SLAP: `AutoFeatureExtractor.from_pretrained(FOLDER, trust_remote_code=True)`."""

from typing import Any

import numpy as np
from transformers import BatchFeature, SequenceFeatureExtractor


class SlapFeatureExtractor(SequenceFeatureExtractor):
    """Pads clips of any duration to the longest one. The model computes the log-mel spectrogram itself."""

    model_input_names = ("input_values", "padding_mask")

    def __init__(self, feature_size: int = 1, sampling_rate: int = 16_000, padding_value: float = 0.0, **kwargs: Any):
        kwargs["return_attention_mask"] = True
        super().__init__(feature_size, sampling_rate, padding_value, **kwargs)

    def __call__(
        self,
        raw_speech: np.ndarray | list[float] | list[np.ndarray] | list[list[float]],
        sampling_rate: int | None = None,
        padding: bool | str = True,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Returns `input_values` [B, S] and `padding_mask` [B, S], which is 0 for padding.

        Args:
            raw_speech: one clip or several, mono, with full scale 1.
            sampling_rate: of the clips, in Hz; they are not resampled.
            padding: as in transformers.
            return_tensors: as in transformers.
            **kwargs: other arguments of `pad`.
        """
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise ValueError(
                f"the sampling rate is {sampling_rate}; the model takes {self.sampling_rate} Hz: resample the clips, "
                "for example with librosa.resample or torchaudio.functional.resample"
            )
        several = isinstance(raw_speech, (list, tuple)) and len(raw_speech) > 0 and np.ndim(raw_speech[0]) > 0
        clips = [np.asarray(clip, np.float32) for clip in (raw_speech if several else [raw_speech])]
        for index, clip in enumerate(clips):
            if clip.ndim != 1 or clip.size == 0:
                raise ValueError(f"clip {index} has shape {clip.shape}; expected [samples], mono and not empty")
        padded = self.pad(BatchFeature({"input_values": clips}), padding=padding, return_attention_mask=True, **kwargs)
        padded["padding_mask"] = padded.pop("attention_mask")
        return padded if return_tensors is None else padded.convert_to_tensors(return_tensors)
