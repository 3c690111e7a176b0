"""The metrics of a model card: which numbers of `evaluation.json` it shows, their names, and its section of them."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

# Kind of results -> (what the card calls the task, the task's name on the Hugging Face hub).
_TASKS = {
    "classification": ("trained classification head", "audio-classification"),
    "retrieval": ("retrieval", "audio-text-retrieval"),
    "zero_shot": ("zero-shot classification", "zero-shot-audio-classification"),
    "zero_shot_multi_label": ("zero-shot classification", "zero-shot-audio-classification"),
    "captioning": ("captioning", "audio-captioning"),
    "probe": ("probe on frozen features", "audio-classification"),
    "frames": ("texts over time", "sound-event-detection"),
}

# Metric -> (name, type in the hub's `model-index`, key of its chance level). Other numbers are not shown.
_METRICS = {
    **{
        f"{way}_{key}": (f"{words} {name}", f"{hub}", chance if key == "r1" else "")
        for way, words, chance in (
            ("t2a", "text-to-audio", "chance_r1"),
            ("a2t", "audio-to-text", "a2t_chance_r1"),
        )
        for key, name, hub in (
            ("r1", "R@1", "recall_at_1"),
            ("r5", "R@5", "recall_at_5"),
            ("r10", "R@10", "recall_at_10"),
            ("map10", "mAP@10", "map_at_10"),
        )
    },
    "accuracy": ("accuracy", "accuracy", "chance"),
    "map": ("mAP", "mean_average_precision", "chance"),
    "auroc": ("AUROC", "roc_auc", "chance"),
    "cider_d": ("CIDEr-D", "cider", ""),
    "spice": ("SPICE", "spice", ""),
    "spider": ("SPIDEr", "spider", ""),
    "meteor": ("METEOR", "meteor", ""),
    "rouge_l": ("ROUGE-L", "rouge", ""),
    "bleu_4": ("BLEU-4", "bleu", ""),
    "fense": ("FENSE", "fense", ""),
}
_COUNTS = ("n", "n_clips", "n_texts", "n_captions")  # the names that results have for the number of scored items
_NOT_EVALUATED = "The run was not evaluated. `slap evaluate RUN` evaluates it and fills this section."


@dataclasses.dataclass(frozen=True)
class Metric:
    """One number of `evaluation.json`.

    Attributes:
        task: the task in words.
        hub_task: the task on the Hugging Face hub.
        set: name of the evaluation set.
        name: name of the metric, for readers.
        hub_type: type of the metric on the Hugging Face hub.
        value: value of the metric.
        interval: ends of the 95 % interval, if there is one.
        chance: score of guessing, if it is known.
        count: number of scored items, "" if unknown.
    """

    task: str
    hub_task: str
    set: str
    name: str
    hub_type: str
    value: float
    interval: tuple[float, float] | None
    chance: float | None
    count: int | str


def read_metrics(evaluation: Mapping[str, Any]) -> list[Metric]:
    """Returns the metrics of `evaluation.json`, task by task in the order of importance."""
    metrics = []
    for kind, (task, hub_task) in _TASKS.items():
        sets = evaluation.get(kind)
        for name, scores in sets.items() if isinstance(sets, Mapping) else ():
            if isinstance(scores, Mapping):
                metrics += _of_set(task, hub_task, name, scores)
    return metrics


def _of_set(task: str, hub_task: str, set_name: str, scores: Mapping[str, Any]) -> list[Metric]:
    count = next((scores[key] for key in _COUNTS if key in scores), "")
    metrics = []
    for key, (name, hub_type, chance) in _METRICS.items():
        value = scores.get(key)
        if not isinstance(value, float):
            continue
        ends = scores.get(f"{key}_interval", scores.get("interval") if chance == "chance" else None)
        # Results of one caption per clip state a single chance for both directions.
        known = scores.get(chance, scores.get("chance_r1") if chance else None)
        metrics.append(
            Metric(
                task=task,
                hub_task=hub_task,
                set=set_name,
                name=name,
                hub_type=hub_type,
                value=value,
                interval=tuple(ends) if ends else None,
                chance=known if isinstance(known, float) else None,
                count=count,
            )
        )
    return metrics


def metrics_section(metrics: Sequence[Metric]) -> str:
    """Returns the section of the card, without an empty line at its end."""
    if not metrics:
        return f"## Metrics\n\n{_NOT_EVALUATED}"
    rows = [
        "| task | set | metric | value | 95 % interval | chance | N |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for metric in metrics:
        interval = "{:.3f} to {:.3f}".format(*metric.interval) if metric.interval else ""
        chance = "" if metric.chance is None else f"{metric.chance:.3f}"
        cells = [metric.task, metric.set, metric.name, f"{metric.value:.3f}", interval, chance, str(metric.count)]
        rows.append("| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) + " |")
    note = (
        "Chance is the score of guessing. The results with their prompts, splits and fingerprints are in "
        "`evaluation.json` of the run."
    )
    return "\n".join(["## Metrics", "", *rows, "", note])


def eval_results(metrics: Sequence[Metric]) -> list[Any]:
    """Returns the metrics for the hub's `model-index`."""
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type=metric.hub_task,
            dataset_type=metric.set,
            dataset_name=metric.set,
            metric_type=metric.hub_type,
            metric_name=metric.name,
            metric_value=metric.value,
        )
        for metric in metrics
    ]


def replace_section(text: str, title: str, section: str) -> str:
    """Replaces the section `## title` of a card and keeps the rest; appends it if the card has none."""
    pattern = re.compile(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    if not pattern.search(text):
        return f"{text.rstrip()}\n\n{section}\n"
    # The blank lines that followed the old section stay.
    return pattern.sub(lambda old: section + old[0][len(old[0].rstrip()) :], text, count=1)
