"""Whether all processes of a run were started with the same config, code and data.

Two that differ would compile different programs and wait for each other forever, so they compare before they do.
"""

import hashlib
import json
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jaxlib.version
from ml_collections import ConfigDict

from slap_jax import __version__
from slap_jax.config import ConfigError
from slap_jax.parallel.coordinator import exchange

_SHOWN = 20  # differences


def require_agreement(name: str, facts: Mapping[str, Any], seconds: float) -> None:
    """Returns once all processes have told the same facts; every process must call it.

    Args:
        name: of the comparison, used once in a run.
        facts: nested mappings of JSON values.
        seconds: to wait for the others.

    Raises:
        ConfigError: in every process, with each difference and who has which value.
        ProcessLostError: a process did not come in time.
    """
    if jax.process_count() == 1:
        return
    flat = json.dumps(flattened(facts), sort_keys=True, default=str)
    digest = hashlib.blake2b(flat.encode(), digest_size=16).hexdigest()
    # Usually all agree: then only hashes are sent. Otherwise one of each kind tells everything.
    digests = exchange(f"hash of {name}", f"{digest} {socket.gethostname()}", seconds)
    hosts = [told.partition(" ")[2] for told in digests]
    kinds = [told.partition(" ")[0] for told in digests]
    if len(set(kinds)) == 1:
        return
    speaks = kinds.index(digest) == jax.process_index()
    told = [json.loads(text) for text in exchange(name, flat if speaks else "null", seconds)]
    raise ConfigError(describe_disagreement([told[kinds.index(kind)] for kind in kinds], hosts))


def run_facts(config: ConfigDict) -> dict[str, Any]:
    """What the compiled step depends on, but for the data."""
    return {
        "config": json.loads(config.to_json_best_effort()),
        "version": {"slap_jax": __version__, "jax": jax.__version__, "jaxlib": jaxlib.version.__version__},
    }


def flattened(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested mappings as one, with keys like "config.data.rows"."""
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def describe_disagreement(told: Sequence[Mapping[str, Any]], hosts: Sequence[str]) -> str:
    """Returns the message: every differing fact with its values and who has them.

    Args:
        told: the flat facts of every process.
        hosts: their host names.
    """
    lines = []
    for key in sorted(set().union(*told)):
        values = [json.dumps(facts[key]) if key in facts else "absent" for facts in told]
        if len(set(values)) > 1:
            who = [
                f"{value} on {_processes([p for p in range(len(told)) if values[p] == value], hosts)}"
                for value in dict.fromkeys(values)
            ]
            lines.append(f"  {key}: {'; '.join(who)}")
    more = len(lines) - _SHOWN
    if more > 0:
        lines[_SHOWN:] = [f"  ... and {more} more"]
    return (
        "the processes of this run were not started alike:\n"
        + "\n".join(lines)
        + "\ngive all hosts the same code, config file, overrides and prepared data, then start all of them again"
    )


def _processes(numbers: Sequence[int], hosts: Sequence[str]) -> str:
    named = [f"{number} ({hosts[number]})" for number in numbers[:3]]
    more = f" and {len(numbers) - 3} more" if len(numbers) > 3 else ""
    return f"process {', '.join(named)}{more}"
