"""Several processes as one run: start-up, global batches, barriers, and the check that all were started alike.

Processes exchange small messages through the coordinator, JAX's service in process 0. Unlike a collective on the
devices, that works before anything is compiled, between different programs, and with a time limit. JAX has no public
name for the coordinator's client; Orbax uses the same private one.
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
_MAX_DIFFERENCES = 20  # listed in a message


class ProcessLostError(UserError, RuntimeError):
    """Another process did not reach a barrier."""


def launch_kind(environment: Mapping[str, str]) -> str:
    """Returns how the processes of this run were started, as far as the environment says.

    Returns:
        "explicit" (the three SLAP_ variables), "slurm", "tpu_pod", "auto" (SLAP_DISTRIBUTED=auto: JAX finds out, as on
        Cloud TPU VMs, where the environment of a pod looks like that of a single host), or "single".

    Raises:
        ConfigError: only some of the SLAP_ variables are set, or one is not a number.
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
    # An interactive shell inside an allocation has SLURM_NTASKS but no job step; only `srun` starts several processes.
    if environment.get("SLURM_STEP_NUM_TASKS", "1") not in ("", "1") and "SLURM_PROCID" in environment:
        return "slurm"
    if "," in environment.get("TPU_WORKER_HOSTNAMES", "") or environment.get("MEGASCALE_COORDINATOR_ADDRESS"):
        return "tpu_pod"
    return "single"


def initialize(settings: ConfigDict | None = None, environment: Mapping[str, str] | None = None) -> None:
    """Connects to the other processes of the run, if there are any; call it before anything asks for devices.

    JAX aborts a process that does not find the others in time; `slap_jax.parallel.process_group` explains why.

    Args:
        settings: `config.distributed`; None for the defaults.
        environment: None for `os.environ`.

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
        logging.info("waiting for %s, at most %d s", others(environment), limits.initialization_timeout)
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
        # A CPU program read back from the compilation cache loses the order of its collectives (jax 0.10), and the
        # processes then wait forever in different ones.
        jax.config.update("jax_enable_compilation_cache", False)
    if jax.process_index() == 0:
        logging.info("%s", device_table())


def others(environment: Mapping[str, str]) -> str:
    """Returns a description of the other processes, to follow the words "waiting for"."""
    kind = launch_kind(environment)
    if kind == "explicit":
        count, number = environment["SLAP_NUM_PROCESSES"], environment["SLAP_PROCESS_ID"]
        where = f"coordinator {environment['SLAP_COORDINATOR']}, started by process 0"
        return f"all {count} processes (this is process {number}; {where})"
    if kind == "slurm":
        count, number = environment["SLURM_STEP_NUM_TASKS"], environment["SLURM_PROCID"]
        return f"all {count} tasks of the SLURM step (this is task {number})"
    return "all hosts of the TPU slice"


def device_table() -> str:
    """Returns one line that lists the devices of each kind: their number, hosts and memory."""
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
    """Places the rows that this process read on its devices, as its part of the global batch.

    The set of rows in the global batch does not depend on the mesh. Their order follows the devices: on a TPU slice,
    the rows of one process need not be adjacent.

    Args:
        batch: NumPy arrays of the LOCAL rows, [R / processes, ...].
        mesh: its `data` and `fsdp` axes split the rows.

    Returns:
        Global arrays [R, ...].
    """
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, np.asarray(rows)), batch)


def barrier(name: str) -> None:
    """Waits for every process, without a time limit; does nothing in a run of one process.

    The barrier is at the coordinator, not on the devices: a collective fails when one process is half a minute late,
    which happens when only some have the program in their compilation cache. Heartbeats detect lost processes.

    Args:
        name: unique in a run.

    Raises:
        ProcessLostError: the processes can no longer reach the barrier.
    """
    if jax.process_count() > 1 and not try_barrier(name, _DAY):
        raise ProcessLostError(f"not every process reached the barrier {name!r}; see the logs of the others")


def allgather_json(value: Any) -> list[Any]:
    """Returns the JSON value of every process, in the order of the processes. Every process must call it."""
    if jax.process_count() == 1:
        return [value]
    encoded = np.frombuffer(json.dumps(value).encode(), np.uint8)
    # This runs between steps, on purpose; the training loop forbids implicit transfers.
    with jax.transfer_guard("allow"):
        sizes = np.asarray(multihost_utils.process_allgather(np.int32(encoded.size))).reshape(-1)
        width = 1 << int(sizes.max() - 1).bit_length()  # a power of two: few shapes to compile for
        padded = np.zeros(width, np.uint8)
        padded[: encoded.size] = encoded
        gathered = np.asarray(multihost_utils.process_allgather(padded)).reshape(-1, width)
    return [json.loads(bytes(row[:size])) for row, size in zip(gathered, sizes, strict=True)]


def require_consistency(name: str, facts: Mapping[str, Any], seconds: float) -> None:
    """Returns if all processes call it with the same facts.

    Processes that differ would compile different programs and wait for each other forever.

    Args:
        name: name of the comparison, unique in a run.
        facts: nested mappings of JSON values.
        seconds: time limit of the wait for the others.

    Raises:
        ConfigError: in every process, with each difference and which process has which value.
        ProcessLostError: a process did not arrive in time.
    """
    if jax.process_count() == 1:
        return
    flat = json.dumps(flattened(facts), sort_keys=True, default=str)
    digest = hashlib.blake2b(flat.encode(), digest_size=16).hexdigest()
    # Usually all agree, and only hashes are sent. Otherwise the first process with each hash sends its facts.
    answers = allgather_text(f"hash of {name}", f"{digest} {socket.gethostname()}", seconds)
    hosts = [answer.partition(" ")[2] for answer in answers]
    digests = [answer.partition(" ")[0] for answer in answers]
    if len(set(digests)) == 1:
        return
    is_first = digests.index(digest) == jax.process_index()
    sent = [json.loads(text) for text in allgather_text(name, flat if is_first else "null", seconds)]
    raise ConfigError(describe_differences([sent[digests.index(one)] for one in digests], hosts))


def run_facts(config: ConfigDict) -> dict[str, Any]:
    """Returns what the compiled step depends on, apart from the data."""
    return {
        "config": json.loads(config.to_json_best_effort()),
        "version": {"slap_jax": version("slap-jax"), "jax": jax.__version__, "jaxlib": jaxlib.version.__version__},
    }


def flattened(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested mappings as one, with keys such as "config.data.rows"."""
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def describe_differences(facts: Sequence[Mapping[str, Any]], hosts: Sequence[str]) -> str:
    """Returns the message that lists every differing fact, its values, and the processes that have them.

    Args:
        facts: the flat facts of every process.
        hosts: the host name of every process.
    """
    lines = []
    for key in sorted(set().union(*facts)):
        values = [json.dumps(own[key]) if key in own else "absent" for own in facts]
        if len(set(values)) > 1:
            holders = [
                f"{value} on {_processes([p for p in range(len(facts)) if values[p] == value], hosts)}"
                for value in dict.fromkeys(values)
            ]
            lines.append(f"  {key}: {'; '.join(holders)}")
    more = len(lines) - _MAX_DIFFERENCES
    if more > 0:
        lines[_MAX_DIFFERENCES:] = [f"  ... and {more} more"]
    return (
        "the processes of this run differ:\n"
        + "\n".join(lines)
        + "\ngive all hosts the same code, config file, overrides and prepared data, then restart all of them"
    )


def _processes(numbers: Sequence[int], hosts: Sequence[str]) -> str:
    named = [f"{number} ({hosts[number]})" for number in numbers[:3]]
    more = f" and {len(numbers) - 3} more" if len(numbers) > 3 else ""
    return f"process {', '.join(named)}{more}"


def try_barrier(name: str, seconds: float) -> bool:
    """Waits until every process calls it with the same name, which is unique in a run.

    Returns:
        False if a process did not arrive in time.
    """
    try:
        _client().wait_at_barrier(f"slap/{name}", int(1_000 * seconds))
    except Exception:  # late, lost, or the coordinator is gone: JAX has no separate types for them
        return False
    return True


def allgather_text(name: str, text: str, seconds: float) -> list[str]:
    """Returns the texts of all processes, in the order of the processes, through the coordinator.

    Args:
        name: unique in a run.
        text: text of this process; keep it short, because the coordinator sends it to every process.
        seconds: time limit of the wait for the others.

    Raises:
        ProcessLostError: a process did not arrive in time.
    """
    _client().key_value_set(f"slap/{name}/{distributed.global_state.process_id:08d}", text)
    if not try_barrier(f"{name}/set", seconds):
        raise ProcessLostError(f"not every process arrived to compare {name!r} within {seconds:g} s; see their logs")
    return [answer for _, answer in sorted(_client().key_value_dir_get(f"slap/{name}/"))]


def _client() -> Any:
    client = distributed.global_state.client
    assert client is not None, "this run has one process"
    return client
