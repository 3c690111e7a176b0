"""Where a run comes from, on the page: its provenance, and the table of its data."""

from collections.abc import Mapping
from typing import Any

from slap_jax.data.records import RecordsError, dataset_directory, split_names, split_summaries
from slap_jax.export.model_card import data_sources
from slap_jax.report.record import RunRecord

Values = dict[str, Any]

_MOST_LICENCES = 4


def provenance(run: RunRecord) -> Values | None:
    """Returns the facts of the last start of a run, and how often it started; None if the run did not record them."""
    if not run.starts:
        return None
    last, first = run.starts[-1], run.starts[0]
    code, machine, versions = (_mapping(last.get(key)) for key in ("code", "machine", "versions"))
    commit = code.get("commit")
    devices = ", ".join(f"{count} × {kind}" for kind, count in _mapping(last.get("devices")).items())
    processes = last.get("processes")
    facts = {
        "command": last.get("command"),
        "commit": f"{commit}{', with local changes' if code.get('modified') else ''}" if commit else None,
        "seed": last.get("seed", run.config.get("seed")),
        "started": first.get("started"),
        "ended": last.get("ended"),
        "outcome": last.get("outcome") or "still runs, or was killed",
        "starts": len(run.starts) if len(run.starts) > 1 else None,
        "devices": ", ".join(filter(None, [last.get("platform"), devices])),
        "processes": processes if isinstance(processes, int) and processes > 1 else None,
        "machine": ", ".join(
            str(part) + (" cores" if name == "cores" else "") for name, part in machine.items() if part
        ),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    return {name: str(value) for name, value in facts.items() if value not in (None, "")}


def data_table(run: RunRecord) -> Values:
    """Returns a row for each source of training and each evaluation set; data that are gone have no sizes."""
    described = {source.name: source for source in data_sources(run.config)}
    total = sum(source.weight for source in described.values()) or 1.0
    train = []
    for name, settings in run.config.data.train.items():
        source = described[name]
        licences = [f"{text or 'none stated'} ({share:.0%})" for text, share in source.clip_licences.items()]
        more = [f"{len(licences) - _MOST_LICENCES} more"] if len(licences) > _MOST_LICENCES else []
        train.append(
            {
                "name": name,
                **_size(settings.path, settings.split, source.clips),
                "split": settings.split,
                "weight": source.weight,
                "share": source.weight / total,
                "epochs": _last(run, f"epoch/{name}"),
                "licence": source.licence,
                "licences": ", ".join(licences[:_MOST_LICENCES] + more),
            }
        )
    evaluation = [
        {"name": name, "split": settings.split, **_size(settings.path, settings.split, None)}
        for name, settings in run.config.data.get("evaluation", {}).items()
    ]
    return {"train": train, "evaluation": evaluation}


def _size(path: str, split: str, clips: int | None) -> Values:
    """Returns the clips and seconds of a split, as `slap prepare` noted them; None where unknown."""
    try:
        summaries = split_summaries(dataset_directory(path))
        parts = [summaries[name] for name in split_names(path, split)]
        return {
            "clips": sum(part["clips"] for part in parts) if clips is None else clips,
            "seconds": float(sum(part["seconds"] for part in parts)),
        }
    except (RecordsError, OSError, KeyError, TypeError):  # other machine, or data of another builder
        return {"clips": clips, "seconds": None}


def _last(run: RunRecord, metric: str) -> float | None:
    values = run.series(metric)[1]
    return float(values[-1]) if len(values) else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
