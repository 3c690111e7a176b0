"""The results of an evaluation during training as one line for the console."""

from collections.abc import Mapping
from typing import Any

from slap_jax.evaluation.held_out_loss import CAPTION_LOSS, HELD_OUT_LOSS, WEIGHTED_SUM

_MOST_SETS = 6
_CLASSIFIERS = {
    "zero_shot": "zero-shot ",
    "zero_shot_multi_label": "zero-shot ",
    "classification": "",
    "probe": "probe ",
}


def describe_results(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the main number of every set next to chance, the held-out loss last.

    Args:
        results: kind -> set -> scores, as `LoopEvaluation` returns them.
    """
    sets = [f"{name} {text}" for kind, entries in results.items() for name, text in _main_numbers(kind, entries)]
    if len(sets) > _MOST_SETS:
        sets[_MOST_SETS:] = [f"{len(sets) - _MOST_SETS} more in metrics.jsonl"]
    losses = results.get(HELD_OUT_LOSS, {})
    sets += [f"{name} held-out loss {scores[WEIGHTED_SUM]:.4f}" for name, scores in losses.items()]
    return "; ".join(sets)


def _main_numbers(kind: str, entries: Mapping[str, Any]) -> list[tuple[str, str]]:
    numbers = []
    for name, scores in entries.items():
        if kind == "retrieval":
            t2a, a2t = scores["t2a_r1"], scores["a2t_r1"]
            text = f"t2a R@1 {t2a:.3f} (chance {scores['chance_r1']:.3f})"
            text += f", a2t R@1 {a2t:.3f} (chance {scores['a2t_chance_r1']:.3f})"
        elif kind in _CLASSIFIERS:
            metric, title = ("map", "mAP") if "map" in scores else ("accuracy", "accuracy")
            text = f"{_CLASSIFIERS[kind]}{title} {scores[metric]:.3f}"
            text += f" (chance {scores['chance']:.3f})" if "chance" in scores else ""
        elif kind == "captioning":
            text = f"captions CIDEr-D {scores['cider_d']:.3f}"
        elif kind == "frames":
            text = f"frames AUROC {scores['auroc']:.3f} (chance 0.500)"
        elif kind == CAPTION_LOSS:
            text = f"captions {scores['nats_per_token']:.4f} nats per token"
        else:
            continue
        numbers.append((name, text))
    return numbers
