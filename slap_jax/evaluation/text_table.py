"""Results as text for the terminal, as a table or as one line; chance is next to every number."""

from collections.abc import Mapping
from typing import Any

from slap_jax.evaluation.held_out_loss import CAPTION_LOSS, HELD_OUT_LOSS, WEIGHTED_SUM

_DIRECTIONS = (("t2a", "text to audio", "chance_r1"), ("a2t", "audio to text", "a2t_chance_r1"))
_MOST_CLASSES = 20  # lines of a set
_CAPTION_SCORES = ("cider_d", "bleu_4", "rouge_l", "meteor", "spice", "spider", "fense")
_MOST_SETS = 6  # in one line
_CLASSIFIERS = {
    "zero_shot": "zero-shot ",
    "zero_shot_multi_label": "zero-shot ",
    "classification": "",
    "probe": "probe ",
}


def table(results: Mapping[str, Any]) -> str:
    """Formats the results of `evaluate`, and lists incomplete sets and sets that could not be evaluated."""
    lines = [
        *_retrieval(results.get("retrieval", {})),
        *_classes("trained head", "accuracy", _having("accuracy", results.get("classification", {}))),
        *_classes("trained head, mAP", "map", _having("map", results.get("classification", {}))),
        *_per_class(results.get("classification", {})),
        *_classes("zero-shot", "accuracy", results.get("zero_shot", {})),
        *_classes("zero-shot, mAP", "map", results.get("zero_shot_multi_label", {})),
        *_classes("probe", "accuracy", _having("accuracy", results.get("probe", {}))),
        *_classes("probe, mAP", "map", _having("map", results.get("probe", {}))),
        *_captioning(results.get("captioning", {})),
        *_frames(results.get("frames", {})),
    ]
    lines += [line for sets in results.values() if isinstance(sets, Mapping) for line in _incomplete(sets)]
    for name, reason in results.get("missing", {}).items():
        lines.append(f"not evaluated: {name}: {reason}")
    return "\n".join(dict.fromkeys(lines)) or "nothing was evaluated"


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


def _having(metric: str, sets: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: scores for name, scores in sets.items() if metric in scores}


def _retrieval(sets: Mapping[str, Any]) -> list[str]:
    if not sets:
        return []
    lines = [f"{'retrieval':<32}{'clips':>7}{'captions':>10}  {'R@1 (95 %)':>20}{'R@10':>8}{'mAP@10':>8}{'chance':>8}"]
    for name, scores in sets.items():
        for direction, arrow, chance in _DIRECTIONS:
            lines.append(
                f"{name + ', ' + arrow:<32}{scores['n_clips']:>7}{scores['n_captions']:>10}  "
                f"{_value(scores, direction + '_r1', direction + '_r1_interval'):>20}"
                f"{scores[f'{direction}_r10']:>8.3f}{scores[f'{direction}_map10']:>8.3f}{scores[chance]:>8.3f}"
            )
    return lines


def _classes(title: str, metric: str, sets: Mapping[str, Any]) -> list[str]:
    if not sets:
        return []
    lines = [f"{title:<32}{'clips':>7}{'classes':>10}  {metric + ' (95 %)':>20}{'':>8}{'major':>8}{'chance':>8}"]
    for name, scores in sets.items():
        lines.append(
            f"{name + ', ' + scores['label']:<32}{scores['n']:>7}{scores['n_classes']:>10}  "
            f"{_value(scores, metric, 'interval'):>20}{'':>8}{_number(scores, 'majority')}{_number(scores, 'chance')}"
        )
    return lines


def _per_class(sets: Mapping[str, Any]) -> list[str]:
    """Returns a line for each class of a set, the worst first, and the number of wrong clips."""
    lines = []
    for name, scores in sets.items():
        classes = scores.get("per_class", {})
        metric = "average_precision" if "map" in scores else "accuracy"
        known = sorted((one for one in classes if classes[one]["n"]), key=lambda one: classes[one][metric])
        lines += [f"{name}, by class" + (f" (the {_MOST_CLASSES} worst)" if len(known) > _MOST_CLASSES else "")]
        for one in known[:_MOST_CLASSES]:
            taken_for = {other: n for other, n in scores.get("confusion", {}).get(one, {}).items() if other != one}
            other = max(taken_for, key=lambda wrong: taken_for[wrong], default="")
            mistaken = f"  most often taken for {other} ({taken_for[other]})" if other else ""
            lines.append(f"  {one:<30}{classes[one]['n']:>7}{'':>10}  {classes[one][metric]:>20.3f}{mistaken}")
        wrong = "clips whose most probable class is wrong" if "map" in scores else "wrong clips"
        lines.append(f"  {wrong}: {scores.get('n_mistakes', 0)} of {scores['n']}; `slap report RUN` plays some of them")
    return lines


def _captioning(sets: Mapping[str, Any]) -> list[str]:
    if not sets:
        return []
    lines = [f"{'captioning':<32}{'clips':>7}{'captions':>10}  " + "".join(f"{score:>9}" for score in _CAPTION_SCORES)]
    for name, scores in sets.items():
        values = "".join(f"{scores[score]:>9.3f}" if score in scores else f"{'-':>9}" for score in _CAPTION_SCORES)
        lines.append(f"{name:<32}{scores['n_clips']:>7}{scores['n_captions']:>10}  {values}")
        lines += [f"  {score} was not computed: it {reason}" for score, reason in scores["not_computed"].items()]
    return lines


def _frames(sets: Mapping[str, Any]) -> list[str]:
    if not sets:
        return []
    lines = [f"{'text against time':<32}{'clips':>7}{'texts':>10}  {'AUROC (95 %)':>20}{'':>16}{'chance':>8}"]
    for name, scores in sets.items():
        lines.append(
            f"{name + ', by ' + scores['by']:<32}{scores['n_clips']:>7}{scores['n_scored']:>10}  "
            f"{_value(scores, 'auroc', 'interval'):>20}{'':>16}{_number(scores, 'chance')}"
        )
    return lines


def _incomplete(sets: Mapping[str, Any]) -> list[str]:
    """Returns a line for each set that has fewer or more clips or classes than published."""
    lines = []
    for name, scores in sets.items():
        for what, ours, published in (
            ("clips", "set_size", "n_published"),
            ("classes", "n_classes", "n_classes_published"),
        ):
            if isinstance(scores, Mapping) and scores.get(published) and scores[ours] != scores[published]:
                lines.append(f"note: {name} has {scores[ours]} {what}; {scores[published]} were published")
    return lines


def _value(scores: Mapping[str, Any], metric: str, interval: str) -> str:
    low, high = scores[interval]
    return f"{scores[metric]:.3f} ({low:.3f}-{high:.3f})"


def _number(scores: Mapping[str, Any], metric: str) -> str:
    return f"{scores[metric]:>8.3f}" if metric in scores else f"{'':>8}"


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
