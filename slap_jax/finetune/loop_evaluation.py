"""What fine-tuning evaluates in the training loop beside retrieval and zero-shot classification."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from slap_jax.config import classes_in_batch
from slap_jax.data.tokenizer import Tokenizer
from slap_jax.finetune.caption_loss import CaptionLoss
from slap_jax.finetune.head_evaluation import HeadEvaluation
from slap_jax.inference.embedder import Embedder

CAPTION_LOSS = "caption_loss"


class LoopEvaluation:
    """The classification head where there is one, and the caption loss where the best step is chosen by it."""

    def __init__(self, config: ConfigDict, embedder: Embedder, tokenizer: Tokenizer):
        """Opens the evaluation sets.

        Raises:
            RecordsError, FinetuneError: see `HeadEvaluation` and `CaptionLoss`.
        """
        sets = config.data.evaluation
        self._head = HeadEvaluation(config, embedder, sets) if classes_in_batch(config) else None
        by_captions = config.train.best_metric.removeprefix("-").startswith(CAPTION_LOSS + "/")
        self._captions = CaptionLoss(config, embedder, tokenizer, sets) if by_captions else None

    def __call__(self, params: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Returns kind -> set -> scores, as `slap_jax.evaluation.evaluate.evaluate` does; `params` are the run's."""
        results = {}
        if self._head is not None:
            results["classification"] = self._head(params)
        if self._captions is not None:
            results[CAPTION_LOSS] = self._captions(params)
        return results
