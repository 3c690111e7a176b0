"""An export as a model of mteb, for its audio tasks (MAEB): `mteb.evaluate(mteb_model(DIRECTORY), tasks)`."""

import importlib.util
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from slap_jax.adapters.hear import AdapterError
from slap_jax.inference.model import SlapModel

if TYPE_CHECKING:
    from slap_jax.inference.model import SlapModel


def mteb_model(directory: str | os.PathLike[str], name: str = "slap_jax/slap") -> "MtebModel":
    """Loads an export for mteb.

    Args:
        directory: the export.
        name: under which mteb files the results, ORGANISATION/MODEL.

    Raises:
        AdapterError: mteb is missing.
        ExportError: not an export.
    """
    if importlib.util.find_spec("mteb") is None:
        raise AdapterError("the mteb model needs mteb: pip install 'slap-jax[mteb]'")
    return MtebModel(SlapModel.load(directory), name)


class MtebModel:
    """What mteb calls an encoder: it embeds batches of sounds or texts, and compares embeddings by their cosine.

    Attributes:
        model: the export's.
    """

    def __init__(self, model: "SlapModel", name: str):
        self.model = model
        self._name = name

    @property
    def mteb_model_meta(self) -> Any:
        """What mteb writes beside results; the revision is the model's own id."""
        from mteb.models import ModelMeta

        return ModelMeta(
            loader=None,
            name=self._name,
            revision=self.model.model_id,
            release_date=None,
            languages=None,
            n_parameters=None,
            memory_usage_mb=None,
            max_tokens=self.model.config.data.max_caption_tokens,
            embed_dim=self.model.embed_dim,
            license=None,
            open_weights=None,
            public_training_code=None,
            public_training_data=None,
            framework=["JAX"],
            similarity_fn_name="cosine",
            use_instructions=False,
            training_datasets=None,
            modalities=["audio", "text"],
        )

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any = None,
        hf_split: str = "",
        hf_subset: str = "",
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> Float[np.ndarray, "n E"]:
        """Embeds what a loader of mteb yields.

        Args:
            inputs: a PyTorch DataLoader whose rows hold `audio` ("array" and "sampling_rate"), `text`, or both, whose
                embeddings are then added, as mteb's own wrappers do.
            task_metadata: unused, as are the following: sounds and texts are embedded alike for every task.
            hf_split: of the task.
            hf_subset: of the task.
            prompt_type: query or document.
            **kwargs: mteb's other settings.

        Raises:
            AdapterError: rows with neither sounds nor texts.
        """
        # Rows as they are: mteb's own collators resample by torchaudio, and models of this package do it by soxr.
        inputs.collate_fn = list
        parts = [self._embed(rows) for rows in inputs]
        return np.concatenate(parts) if parts else np.zeros((0, self.model.embed_dim), np.float32)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Returns cosine similarities [n, m] as a PyTorch tensor."""
        import torch

        return torch.from_numpy(_unit(embeddings1) @ _unit(embeddings2).T)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Returns the cosine of each row with the same row of the other, [n], as a PyTorch tensor."""
        import torch

        return torch.from_numpy(np.sum(_unit(embeddings1) * _unit(embeddings2), axis=-1))

    def _embed(self, rows: Sequence[Mapping[str, Any]]) -> Float[np.ndarray, "n E"]:
        found = []
        if "audio" in rows[0]:
            found.append(self.model.embed_audio([_clip(row["audio"]) for row in rows]))
        if "text" in rows[0]:
            found.append(self.model.embed_text([row["text"] for row in rows]))
        if not found:
            raise AdapterError(f"rows hold {', '.join(rows[0])}; this model embeds 'audio' and 'text'")
        return np.sum(found, axis=0)


def _clip(audio: Any) -> tuple[np.ndarray, int]:
    """Samples and rate of a row; channels come first in some data sets, last in others."""
    samples = np.asarray(audio["array"], np.float32)
    if samples.ndim == 2 and samples.shape[0] < samples.shape[1]:
        samples = samples.T
    return samples, int(audio["sampling_rate"])


def _unit(embeddings: Any) -> Float[np.ndarray, "n E"]:
    matrix = np.atleast_2d(np.asarray(embeddings, np.float32))
    return matrix / np.maximum(np.linalg.norm(matrix, axis=-1, keepdims=True), 1e-12)
