"""The numbers of the page as CSV, one line for each of them."""

import csv
import io
from collections.abc import Mapping
from typing import Any

from slap_jax.export.card_metrics import read_metrics

HEAD = ("task", "set", "class", "metric", "value", "low", "high", "chance", "n")


def evaluation_csv(evaluation: Mapping[str, Any]) -> str:
    """Returns the results of `evaluation.json`, with the ends of their 95 % intervals, and the scores of each class."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEAD)
    for metric in read_metrics(evaluation):
        low, high = metric.interval or ("", "")
        chance = "" if metric.chance is None else metric.chance
        writer.writerow([metric.task, metric.set, "", metric.name, metric.value, low, high, chance, metric.count])
    for kind in ("classification", "zero_shot", "zero_shot_multi_label"):
        for name, scores in evaluation.get(kind, {}).items():
            for one, values in scores.get("per_class", {}).items():
                for metric in ("accuracy", "precision", "average_precision"):
                    if values.get(metric) is not None:
                        row = [kind.replace("_", " "), name, one, metric.replace("_", " "), values[metric]]
                        writer.writerow([*row, "", "", "", values["n"]])
    return text.getvalue()
