"""What the tools of this package need of a model, so that models of other families work with the same tools."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from numpy import ndarray

from slap_jax.inference.long_audio import Windows


@runtime_checkable
class EmbeddingModel(Protocol):
    """Embeds sounds and texts in one space.

    `slap_jax.inference.model.SlapModel` is one, and so is `slap_jax.other_models.dual_encoder.DualEncoder`, which wraps
    models of other families.
    """

    @property
    def sample_rate(self) -> int:
        """Sample rate of the model in Hz; audio of another rate is resampled to it."""
        ...

    @property
    def max_seconds(self) -> float:
        """Duration in seconds of the longest clip that is embedded whole; longer recordings are cut into windows."""
        ...

    @property
    def embed_dim(self) -> int:
        """E, the length of an embedding."""
        ...

    @property
    def model_id(self) -> Any:
        """A string that differs between models whose embeddings cannot be compared."""
        ...

    @property
    def can_caption(self) -> bool:
        """Whether the model describes sounds in words."""
        ...

    def embed_audio(self, audio: Any, /, *, batch_size: int | None = None) -> Float[ndarray, "n E"]:
        """Returns the fp32 unit vectors of one clip or recording, or of a list of them, of any length."""
        ...

    def embed_text(self, texts: Sequence[str], /) -> Float[ndarray, "m E"]:
        """Returns the fp32 unit vectors of texts."""
        ...

    def windows(self, clip: Any, /, *, seconds: float, hop: float) -> Windows:
        """Embeds overlapping windows of one recording of any length."""
        ...

    def similarity(self, audio: Float[ndarray, "n E"], text: Float[ndarray, "m E"], /) -> Float[ndarray, "n m"]:
        """Returns the cosine similarity, -1 to 1, of embeddings."""
        ...

    def classify(self, audio: Sequence[Any], labels: Sequence[str], /, template: str) -> list[dict[str, float]]:
        """Returns, for each clip, label -> probability, the most probable label first."""
        ...
