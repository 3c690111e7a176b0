"""An export as an mteb model, for its audio tasks (MAEB): `mteb.evaluate(mteb_model(DIRECTORY), tasks)`."""

import importlib.util
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from slap_jax.adapters.batches import AdapterError
from slap_jax.inference.model import SlapModel


def mteb_model(directory: str | os.PathLike[str], name: str = "slap_jax/slap") -> "MtebModel":
    """Loads an export for mteb.

    Args:
        directory: The export directory.
        name: Name for the results, ORGANISATION/MODEL.

    Raises:
        AdapterError: mteb is not installed.
        ExportError: The directory is not an export.
    """
    if importlib.util.find_spec("mteb") is None:
        raise AdapterError("this adapter needs mteb, which is missing: pip install 'slap-jax[mteb]'")
    return MtebModel(SlapModel.load(directory), name)


class MtebModel:
    """An mteb encoder: embeds batches of sounds or texts, and compares embeddings by their cosine.

    Attributes:
        model: The exported model.
    """

    def __init__(self, model: SlapModel, name: str):
        self.model = model
        self._name = name

    @property
    def mteb_model_meta(self) -> Any:
        """The metadata that mteb stores with results. The revision is the model's ID."""
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
        """Embeds the rows of a data loader. Sounds and texts are embedded in the same way for every task.

        Args:
            inputs: A PyTorch DataLoader whose rows have `audio` ("array" and "sampling_rate"), `text`, or both. The
                embeddings of both are added, as in mteb's own wrappers.
            task_metadata: Unused.
            hf_split: Unused.
            hf_subset: Unused.
            prompt_type: Unused.
            **kwargs: Unused.

        Raises:
            AdapterError: The rows have neither sounds nor texts.
        """
        # mteb's own collators resample with torchaudio; models of this package do it with soxr.
        inputs.collate_fn = list
        parts = [self._embed(rows) for rows in inputs]
        return np.concatenate(parts) if parts else np.zeros((0, self.model.embed_dim), np.float32)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Returns cosine similarities [n, m] as a PyTorch tensor."""
        import torch

        return torch.from_numpy(_unit(embeddings1) @ _unit(embeddings2).T)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Returns the cosine similarity of each row with the same row of the other, [n], as a PyTorch tensor."""
        import torch

        return torch.from_numpy(np.sum(_unit(embeddings1) * _unit(embeddings2), axis=-1))

    def _embed(self, rows: Sequence[Mapping[str, Any]]) -> Float[np.ndarray, "n E"]:
        parts = []
        if "audio" in rows[0]:
            parts.append(self.model.embed_audio([_clip(row["audio"]) for row in rows], allow_silence=True))
        if "text" in rows[0]:
            parts.append(self.model.embed_text([row["text"] for row in rows]))
        if not parts:
            raise AdapterError(f"the rows have {', '.join(rows[0])}; this model embeds 'audio' and 'text'")
        return np.sum(parts, axis=0)


def _clip(audio: Any) -> tuple[np.ndarray, int]:
    """Returns samples and sample rate of a row. Channels come first in some datasets and last in others."""
    samples = np.asarray(audio["array"], np.float32)
    if samples.ndim == 2 and samples.shape[0] < samples.shape[1]:
        samples = samples.T
    return samples, int(audio["sampling_rate"])


def _unit(embeddings: Any) -> Float[np.ndarray, "n E"]:
    matrix = np.atleast_2d(np.asarray(embeddings, np.float32))
    return matrix / np.maximum(np.linalg.norm(matrix, axis=-1, keepdims=True), 1e-12)
