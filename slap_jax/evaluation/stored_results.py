"""Results of a run that are kept when other sets of the same checkpoint are evaluated."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_RECORDS = ("model", "bootstrap", "missing")  # about all sets; every other key is a kind of measure


def merge_results(results: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], str]:
    """Adds the results that a file has for other sets, or for other measures of the same clips.

    Args:
        results: new results, as of `slap_jax.evaluation.scorer.ModelScorer.score`.
        path: where they will be written; the file need not exist.

    Returns:
        The results to write, and a sentence about stored results that they do not keep; "" if all are kept. Results
        of another checkpoint, setting or bootstrap are not kept, because one record describes all sets of a file.
    """
    merged = dict(results)
    if not path.is_file():
        return merged, ""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        return merged, f"{path} was damaged ({error}) and is replaced"
    if not isinstance(stored, dict) or not isinstance(stored.get("model"), dict):
        return merged, f"{path} did not hold results of `slap evaluate` and is replaced"
    if difference := _difference(stored, results):
        return merged, f"{path} had results of {difference}; they are replaced"
    clips = {name: entry.get("split_fingerprint") for _, name, entry in _entries(results)}
    dropped = set()
    for kind, name, entry in _entries(stored):
        if name in results.get(kind, {}):
            continue
        if name in clips and clips[name] != entry.get("split_fingerprint"):
            dropped.add(name)
        else:
            merged[kind] = {**merged.get(kind, {}), name: entry}
    missing = {
        key: reason for key, reason in stored.get("missing", {}).items() if key.partition(",")[0] not in clips
    } | results.get("missing", {})
    if missing:
        merged["missing"] = missing
    if dropped:
        return merged, f"{path} had results of other clips named {', '.join(sorted(dropped))}; they are replaced"
    return merged, ""


def _difference(stored: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """Says how stored results were measured, if not as the new ones; "" if they were."""
    before, now = stored["model"], results["model"]
    if before.get("model_id") != now.get("model_id"):
        return f"another checkpoint, step {before.get('step')}"
    if before.get("setting") != now.get("setting"):
        return f"another setting, {before.get('setting') or 'derived from the sources'}"
    if stored.get("bootstrap") != results.get("bootstrap"):
        return f"another bootstrap, {stored.get('bootstrap')}"
    return ""


def _entries(results: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    return [
        (kind, name, entry)
        for kind, entries in results.items()
        if kind not in _RECORDS and isinstance(entries, Mapping)
        for name, entry in entries.items()
        if isinstance(entry, Mapping)
    ]
