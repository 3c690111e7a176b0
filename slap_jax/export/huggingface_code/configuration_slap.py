"""The configuration of a SLAP model for transformers."""

from typing import Any

from transformers import PretrainedConfig


class SlapConfig(PretrainedConfig):
    """The settings of the slap_jax export that the model was made from.

    Attributes:
        slap: the export's `config`: `audio`, `model`, `objectives`, `data`.
        captions: whether the model has a caption decoder.
        tokenizer_file: name of the tokenizer file in the folder.
    """

    model_type = "slap"

    def __init__(
        self,
        slap: dict[str, Any] | None = None,
        captions: bool = False,
        tokenizer_file: str = "tokenizer.model",
        **kwargs: Any,
    ):
        self.slap = slap
        self.captions = captions
        self.tokenizer_file = tokenizer_file
        super().__init__(**kwargs)
