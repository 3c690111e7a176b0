"""What a search asks of a model."""

from collections.abc import Sequence
from typing import Any, Protocol

from jaxtyping import Float
from numpy import ndarray

from slap_jax.inference.results import Windows


class EmbeddingModel(Protocol):
    """`slap_jax.inference.model.SlapModel`, or another that embeds sound and text alike."""

    @property
    def config(self) -> Any:
        """With `audio.sample_rate` in Hz."""

    @property
    def embed_dim(self) -> int:
        """E, the size of the vectors."""
        ...

    @property
    def model_id(self) -> Any:
        """A short name, a string that changes with whatever changes what vectors mean."""
        ...

    def embed_audio(self, audio: Sequence[Any], /) -> Float[ndarray, "n E"]:
        """Embeds clips as unit vectors."""
        ...

    def embed_text(self, texts: Sequence[str], /) -> Float[ndarray, "m E"]:
        """Embeds texts as unit vectors."""
        ...

    def windows(self, clip: Any, /, *, seconds: float, hop: float) -> Windows:
        """Embeds overlapping windows of one recording."""
        ...
