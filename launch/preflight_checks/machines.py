"""Checks of the devices of all hosts, and of the network between them."""

import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from slap_jax.config.rules import ConfigError
from slap_jax.config.validate import validate
from slap_jax.parallel.distributed import device_table

from .finding import OK, PROBLEM, SKIPPED, Finding

_MEGABYTES = {"cpu": 4, "gpu": 256, "tpu": 256}  # of the array that is summed, on each device
_REPEATS = 5
# The lowest GB/s to accept between hosts with accelerators: training networks have 10 or more, plain TCP less than 1.
_SLOWEST = 1.0


def check_devices(config: ConfigDict | None) -> list[Finding]:
    """Requires the same devices on all hosts, and a config that fits them."""
    devices = jax.devices()
    findings = []
    per_host = [sum(d.process_index == process for d in devices) for process in range(jax.process_count())]
    kinds = {device.device_kind for device in devices}
    if len(set(per_host)) > 1 or len(kinds) > 1:
        text = f"{device_table()}; per host: {', '.join(map(str, per_host))}"
        remedy = "check the host with fewer: a device has failed (nvidia-smi), or another process uses it"
        findings.append(Finding("devices", PROBLEM, text, remedy))
    else:
        findings.append(Finding("devices", OK, device_table().removeprefix("devices: ")))
    if config is None:
        return [*findings, Finding("mesh", SKIPPED, "the config cannot be used")]
    try:
        validate(config, jax.process_count(), len(devices))
    except ConfigError as error:
        return [*findings, Finding("mesh", PROBLEM, str(error), "change the config, or the number of hosts")]
    text = f"config.parallel={dict(config.parallel)} and {config.data.rows} rows divide {len(devices)} devices"
    return [*findings, Finding("mesh", OK, text)]


def check_all_reduce(mesh: Mesh) -> list[Finding]:
    """Sums an array over all devices of the mesh, and measures the speed. Every process must call it."""
    n = mesh.size
    if n == 1:
        return [Finding("all-reduce", SKIPPED, "there is one device")]
    platform = mesh.devices.flat[0].platform
    floats = _MEGABYTES.get(platform, 4) * 2**20 // 4
    everywhere = PartitionSpec(mesh.axis_names)
    one_each = NamedSharding(mesh, everywhere)

    @partial(jax.jit, out_shardings=one_each)
    def fill():
        return jnp.broadcast_to(jnp.arange(1, n + 1, dtype=jnp.float32)[:, None], (n, floats))

    @jax.jit
    @partial(jax.shard_map, mesh=mesh, in_specs=everywhere, out_specs=everywhere)
    def total(x):
        return jax.lax.psum(x, mesh.axis_names)

    x = fill()
    expected = n * (n + 1) / 2
    result = jax.block_until_ready(total(x))  # compiles and opens the connections
    wrong = [
        shard.device for shard in result.addressable_shards if not bool(np.all(np.asarray(shard.data) == expected))
    ]
    if wrong:
        text = f"the sum over {n} devices is wrong on {', '.join(map(str, wrong))}"
        return [Finding("all-reduce", PROBLEM, text, "a device or a link is faulty: remove its host from the run")]
    seconds = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        jax.block_until_ready(total(x))
        seconds.append(time.perf_counter() - started)
    # The bytes that each device sends in a ring all-reduce: the "bus bandwidth" of nccl-tests.
    speed = 2 * (n - 1) / n * floats * 4 / min(seconds) / 1e9
    text = f"{floats * 4 / 2**20:.0f} MiB on each of {n} devices in {min(seconds) * 1e3:.1f} ms, {speed:.2f} GB/s"
    if platform != "cpu" and jax.process_count() > 1 and speed < _SLOWEST:
        remedy = "the hosts use a slow network; NCCL_DEBUG=INFO shows it, NCCL_SOCKET_IFNAME and NCCL_IB_HCA select one"
        return [Finding("all-reduce", PROBLEM, text, remedy)]
    return [Finding("all-reduce", OK, text)]
