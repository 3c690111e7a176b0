"""Several processes as one run: start-up from the environment, placing of batches, small exchanges between hosts.

Whether all processes of a run were started with the same config, code and data.

Two that differ would compile different programs and wait for each other forever, so they compare before they do.

What processes tell each other through the coordinator, JAX's service in process 0.

Unlike an exchange through the devices it works before anything is compiled, between different programs, and with a
limit on time. JAX has no public name for its client; Orbax reaches for the same one.
"""

import hashlib
import json
import logging
import os
import socket
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import jax
import jaxlib.version
import numpy as np
from jax._src import distributed
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from slap_jax.batch import PackedBatch
from slap_jax.config.defaults import default_config
from slap_jax.config.rules import ConfigError
from slap_jax.errors import UserError
from slap_jax.parallel.sharding import batch_sharding

_DAY = 86_400.0
_EXPLICIT = ("SLAP_COORDINATOR", "SLAP_NUM_PROCESSES", "SLAP_PROCESS_ID")


def launch_kind(environment: Mapping[str, str]) -> str:
    """Tells how the processes of this run were started.

    Returns:
        "explicit" (the three SLAP_ variables), "slurm", "tpu_pod", "auto" (SLAP_DISTRIBUTED=auto: let JAX find out, as
        on Cloud TPU VMs, whose environment does not tell a pod from a single host), or "single".

    Raises:
        ConfigError: only some of the SLAP_ variables are set, or one is no number.
    """
    given = [name for name in _EXPLICIT if environment.get(name)]
    if given:
        missing = [name for name in _EXPLICIT if name not in given]
        if missing:
            raise ConfigError(f"{', '.join(given)} is set without {', '.join(missing)}; set all three or none")
        for name in _EXPLICIT[1:]:
            if not environment[name].isdigit():
                raise ConfigError(f"{name} is {environment[name]!r}; write a number")
        return "explicit"
    if environment.get("SLAP_DISTRIBUTED") == "auto":
        return "auto"
    # An interactive shell inside an allocation has SLURM_NTASKS but no step: only `srun` starts several processes.
    if environment.get("SLURM_STEP_NUM_TASKS", "1") not in ("", "1") and "SLURM_PROCID" in environment:
        return "slurm"
    if "," in environment.get("TPU_WORKER_HOSTNAMES", "") or environment.get("MEGASCALE_COORDINATOR_ADDRESS"):
        return "tpu_pod"
    return "single"


def initialize(settings: ConfigDict | None = None, environment: Mapping[str, str] | None = None) -> None:
    """Joins the other processes of the run, if there are any; call it before anything asks for devices.

    Who does not find the others in time is ended by JAX itself; `slap_jax.parallel.process_group` says so.

    Args:
        settings: `config.distributed`; its defaults by default.
        environment: `os.environ` by default.

    Raises:
        ConfigError: see `launch_kind`.
    """
    limits: ConfigDict = default_config()["distributed"] if settings is None else settings
    environment = os.environ if environment is None else environment
    kind = launch_kind(environment)
    timeouts = {
        "initialization_timeout": limits.initialization_timeout,
        "heartbeat_timeout_seconds": limits.heartbeat_timeout,
    }
    if kind != "single":
        logging.info("waiting for %s, %d s at most", others(environment), limits.initialization_timeout)
    if kind == "explicit":
        jax.distributed.initialize(
            environment["SLAP_COORDINATOR"],
            int(environment["SLAP_NUM_PROCESSES"]),
            int(environment["SLAP_PROCESS_ID"]),
            **timeouts,
        )
    elif kind != "single":
        jax.distributed.initialize(**timeouts)
    if jax.process_count() > 1 and jax.default_backend() == "cpu":
        # A CPU program that is read back from the cache does not keep the order of its exchanges with other processes
        # (jax 0.10): two processes then wait in different ones for ever.
        jax.config.update("jax_enable_compilation_cache", False)
    if jax.process_index() == 0:
        logging.info("%s", device_table())


def others(environment: Mapping[str, str]) -> str:
    """Returns whom this process has to meet, as far as its environment tells, to be read after "waiting for"."""
    kind = launch_kind(environment)
    if kind == "explicit":
        count, number = environment["SLAP_NUM_PROCESSES"], environment["SLAP_PROCESS_ID"]
        where = f"coordinator {environment['SLAP_COORDINATOR']}, which process 0 opens"
        return f"all {count} processes (this is process {number}; {where})"
    if kind == "slurm":
        count, number = environment["SLURM_STEP_NUM_TASKS"], environment["SLURM_PROCID"]
        return f"all {count} tasks of the SLURM step (this is task {number})"
    return "all hosts of the TPU slice"


def device_table() -> str:
    """Returns one line per kind of device: how many, on how many hosts, with how much memory."""
    devices = jax.devices()
    lines = []
    for kind in sorted({device.device_kind for device in devices}):
        same = [device for device in devices if device.device_kind == kind]
        hosts = len({device.process_index for device in same})
        lines.append(
            f"{len(same)} x {kind} ({same[0].platform}) on {hosts} host{'s' if hosts > 1 else ''}{_memory(same)}"
        )
    return "devices: " + "; ".join(lines)


def _memory(devices: list[Any]) -> str:
    local = [device for device in devices if device.process_index == jax.process_index()]
    statistics = local[0].memory_stats() if local else None
    limit = (statistics or {}).get("bytes_limit")
    return f", {limit / 2**30:.1f} GiB each" if limit else ""


def place_batch(batch: PackedBatch, mesh: Mesh) -> PackedBatch:
    """Puts the rows that this process read on its devices, as its part of the global batch.

    Which rows the global batch holds does not depend on the mesh. Their order follows the devices: on a TPU slice the
    rows of one process need not be neighbours.

    Args:
        batch: NumPy arrays with the LOCAL rows, [R / processes, ...].
        mesh: whose `data` and `fsdp` axes split the rows.

    Returns:
        Global arrays [R, ...].
    """
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, np.asarray(rows)), batch)


def barrier(name: str) -> None:
    """Waits for every process, however long it takes; does nothing when there is one.

    The processes meet at the coordinator, not through their devices: those give up when one is half a minute later than
    another, which happens when only some have the program in their compilation cache. Lost processes are noticed by
    their heartbeat.

    Args:
        name: used once in a run.

    Raises:
        ProcessLostError: the processes cannot meet any more.
    """
    if jax.process_count() > 1 and not meet(name, _DAY):
        raise ProcessLostError(f"not every process came to {name!r}")


def allgather_json(value: Any) -> list[Any]:
    """Returns the small JSON value of every process, in their order. Every process must call it."""
    if jax.process_count() == 1:
        return [value]
    encoded = np.frombuffer(json.dumps(value).encode(), np.uint8)
    # Explicit exchange between steps: a guard on transfers inside the loop does not concern it.
    with jax.transfer_guard("allow"):
        sizes = np.asarray(multihost_utils.process_allgather(np.int32(encoded.size))).reshape(-1)
        width = 1 << int(sizes.max() - 1).bit_length()  # a power of two: few shapes to compile for
        padded = np.zeros(width, np.uint8)
        padded[: encoded.size] = encoded
        gathered = np.asarray(multihost_utils.process_allgather(padded)).reshape(-1, width)
    return [json.loads(bytes(row[:size])) for row, size in zip(gathered, sizes, strict=True)]


_SHOWN = 20  # differences


def require_consistency(name: str, facts: Mapping[str, Any], seconds: float) -> None:
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
        "version": {"slap_jax": version("slap-jax"), "jax": jax.__version__, "jaxlib": jaxlib.version.__version__},
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


class ProcessLostError(UserError, RuntimeError):
    """Another process did not come to where all meet."""


def meet(name: str, seconds: float) -> bool:
    """Waits until every process calls it with the same name, which is used once in a run.

    Returns:
        Whether all came in time.
    """
    try:
        _client().wait_at_barrier(f"slap/{name}", int(1_000 * seconds))
    except Exception:  # late, lost, or no coordinator any more: JAX has no type of its own for each
        return False
    return True


def exchange(name: str, text: str, seconds: float) -> list[str]:
    """Returns what every process told, in the order of the processes.

    Args:
        name: used once in a run.
        text: what this process tells; short, the coordinator sends it to everybody.
        seconds: to wait for the others.

    Raises:
        ProcessLostError: a process did not come in time.
    """
    _client().key_value_set(f"slap/{name}/{distributed.global_state.process_id:08d}", text)
    if not meet(f"{name}/told", seconds):
        raise ProcessLostError(f"not every process came to compare {name!r} within {seconds:g} s; look at their logs")
    return [told for _, told in sorted(_client().key_value_dir_get(f"slap/{name}/"))]


def _client() -> Any:
    client = distributed.global_state.client
    assert client is not None, "this run has one process"
    return client
