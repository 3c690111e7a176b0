"""The configuration of a SLAP model, as transformers reads it."""

from typing import Any

from transformers import PretrainedConfig


class SlapConfig(PretrainedConfig):
    """Holds the settings of the slap_jax export that the model was made from.

    Attributes:
        slap: the export's `config`: `audio`, `model`, `objectives`, `data`.
        captions: whether there is a caption decoder.
        tokenizer_file: name of the vocabulary in the folder.
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
