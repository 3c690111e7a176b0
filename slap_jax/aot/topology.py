"""Names of topologies, and their devices as described by the vendor's compiler; none need be attached.

Sources of the numbers:

- TPU: docs.cloud.google.com/tpu/docs, the page of each generation (v4, v5e, v5p, v6e, tpu7x). On tpu7x a JAX device is
  half a chip and has half of the chip's figures. The memory is the limit in the compiler's error message.
- GPU: NVIDIA's data sheets of A100 (40 and 80 GB SXM), H100 SXM, H200 SXM and HGX B200. Each of the eight GPUs of a
  host has its own 400 Gbit/s network card (A100: 200). Threads, registers and shared memory of a multiprocessor: CUDA
  C++ Programming Guide, "Compute Capabilities".
- Peak FLOPs: `slap_jax.training.flops.PEAK_FLOPS`.
"""

import dataclasses
import importlib.util
import math
import os
import re
from typing import Any

from slap_jax.errors import UserError
from slap_jax.training.flops import PEAK_FLOPS

EXAMPLES = "v4:2x2x2, v5e:4x4, v5p:2x2x2, v6e:8x8, tpu7x:2x2x1, 2*v5e:16x16 (two slices), h100:8, h200:4x8 (four hosts)"
_NAME = re.compile(r"(?:(?P<slices>[1-9]\d*)\*)?(?P<chip>[a-z0-9-]+):(?P<shape>\d+(?:x\d+)*)")

# All shapes of 2-D slices, and the 3-D shapes smaller than a cube of 4 x 4 x 4; larger ones consist of whole cubes.
_PLANES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_PARTS_OF_A_CUBE = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")

_GIB = 2**30
_GIGABIT = 1e9 / 8  # bytes
# The fraction of a GPU's memory that XLA's allocator takes if XLA_PYTHON_CLIENT_MEM_FRACTION is set to this.
GPU_MEMORY_FRACTION = 0.92


class TopologyError(UserError, ValueError):
    """A topology that does not exist, or whose compiler is not installed."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device.

    Attributes:
        platform: "tpu" or "gpu".
        device_kind: JAX's name.
        hbm_bytes: memory that a program may use.
        hbm_bandwidth: bytes per second.
        link_bandwidth: bytes per second that it sends over all its fast links (ICI, NVLink), one way.
        network_bandwidth: bytes per second to devices of other slices (TPU) or hosts (GPU), one way.
        fp32_fraction: speed of fp32 matrix products of full precision as a fraction of the bf16 peak.
        dimensions: dimensions of a TPU slice's torus; 0 for GPUs.
        largest: chips in the largest TPU slice; GPUs in a host.
        devices_per_chip: number of JAX devices.
    """

    platform: str
    device_kind: str
    hbm_bytes: int
    hbm_bandwidth: float
    link_bandwidth: float
    network_bandwidth: float
    fp32_fraction: float
    dimensions: int = 0
    largest: int = 8
    devices_per_chip: int = 1

    @property
    def peak_flops(self) -> float:
        """Returns the dense bf16 FLOPs per second."""
        names = [name for name in PEAK_FLOPS if self.device_kind.startswith(name)]
        return PEAK_FLOPS[max(names, key=len)]


@dataclasses.dataclass(frozen=True)
class GpuTarget:
    """Figures in which the GPUs differ; all have 64 Ki registers, 2,048 threads and 1,024 threads per block."""

    capability: tuple[int, int]
    multiprocessors: int
    fp32_units: int
    clock_ghz: float
    memory_bytes: int
    memory_bandwidth: int
    l2_bytes: int
    shared_bytes: int
    shared_bytes_per_block: int


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices of one kind and how they are connected.

    Attributes:
        name: as the user wrote it.
        chip: one of the devices.
        shape: shape of one TPU slice; (hosts, GPUs per host) for GPUs.
        slices: number of TPU slices, connected by the data centre's network.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def platform(self) -> str:
        """Returns the compilation target, "tpu" or "gpu"."""
        return self.chip.platform

    @property
    def n_devices(self) -> int:
        """Returns the number of JAX devices."""
        return math.prod(self.shape) * self.slices * self.chip.devices_per_chip

    @property
    def send_bandwidth(self) -> float:
        """Returns the bytes per second that a device sends to its neighbours over the fast links of this shape.

        The torus has a link in each direction, and a ring of two has only one. Only rings of 16 (2-D) or of whole cubes
        (3-D) are closed, but the inner chips of an open one have both links, and the bound is for them.
        """
        if self.platform == "gpu":
            return self.chip.link_bandwidth if self.shape[-1] > 1 else self.chip.network_bandwidth
        links = sum({1: 0, 2: 1}.get(size, 2) for size in self.shape)
        return self.chip.link_bandwidth * max(links, 1) / (2 * self.chip.dimensions)


GPU_TARGETS = {
    "NVIDIA A100-SXM4-40GB": GpuTarget(
        (8, 0), 108, 64, 1.41, 42_297_786_368, 1_555_000_000_000, 41_943_040, 167_936, 166_912
    ),
    "NVIDIA A100-SXM4-80GB": GpuTarget(
        (8, 0), 108, 64, 1.41, 84_974_239_744, 2_039_000_000_000, 41_943_040, 167_936, 166_912
    ),
    "NVIDIA H100 80GB HBM3": GpuTarget(
        (9, 0), 132, 128, 1.98, 84_978_434_048, 3_352_320_000_000, 52_428_800, 233_472, 232_448
    ),
    "NVIDIA H200": GpuTarget((9, 0), 132, 128, 1.98, 150_110_011_392, 4_800_000_000_000, 62_914_560, 233_472, 232_448),
    "NVIDIA B200": GpuTarget(
        (10, 0), 148, 128, 1.965, 191_514_017_792, 7_700_000_000_000, 132_644_864, 233_472, 232_448
    ),
}


def _tpu(kind: str, hbm_gib: float, hbm: float, links: float, network: float, dimensions: int, **rest: int) -> Chip:
    # An fp32 product of full precision takes six passes of the bf16 matrix unit.
    return Chip("tpu", kind, int(hbm_gib * _GIB), hbm, links, network * _GIGABIT, 1 / 6, dimensions, **rest)


def _gpu(kind: str, links: float, network: float, fp32: float) -> Chip:
    target = GPU_TARGETS[kind]
    usable = int(target.memory_bytes * GPU_MEMORY_FRACTION)
    return Chip("gpu", kind, usable, target.memory_bandwidth, links, network * _GIGABIT, fp32)


CHIPS = {
    "v4": _tpu("TPU v4", 30.75, 1.228e12, 150e9, 25, 3, largest=4_096),
    "v5e": _tpu("TPU v5 lite", 15.75, 0.819e12, 200e9, 25, 2, largest=256),
    "v5p": _tpu("TPU v5", 95.74, 2.765e12, 600e9, 50, 3, largest=6_144),
    "v6e": _tpu("TPU v6 lite", 31.25, 1.6e12, 400e9, 100, 2, largest=256),
    "tpu7x": _tpu("TPU7x", 94.75, 3.69e12, 300e9, 50, 3, largest=9_216, devices_per_chip=2),
    "a100-40": _gpu("NVIDIA A100-SXM4-40GB", 300e9, 200, 19.5 / 312),
    "a100": _gpu("NVIDIA A100-SXM4-80GB", 300e9, 200, 19.5 / 312),
    "h100": _gpu("NVIDIA H100 80GB HBM3", 450e9, 400, 67 / 989),
    "h200": _gpu("NVIDIA H200", 450e9, 400, 67 / 989),
    "b200": _gpu("NVIDIA B200", 900e9, 400, 75 / 2_250),
}


def parse_topology(name: str) -> Topology:
    """Parses `v5e:4x4`, `2*v5e:16x16` (two slices), `h100:8` (one host of 8) or `h100:4x8` (four hosts of 8).

    Raises:
        TopologyError: there is no such topology; the message lists those that exist.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise TopologyError(f"topology {name!r} does not exist; write CHIP:SHAPE like {EXAMPLES}")
    if match["chip"] not in CHIPS:
        raise TopologyError(
            f"topology {name!r}: there is no chip {match['chip']!r}; write one of {', '.join(CHIPS)} with a shape, "
            f"like {EXAMPLES}"
        )
    chip = CHIPS[match["chip"]]
    shape = tuple(map(int, match["shape"].split("x")))
    slices = int(match["slices"] or 1)
    if chip.platform == "gpu":
        return Topology(name, chip, _hosts(name, match, shape), 1)
    _check_slice(name, match["chip"], chip, shape)
    return Topology(name, chip, shape, slices)


def described_devices(topology: Topology) -> list[Any]:
    """Returns the devices; programs can be compiled for them but not run.

    Raises:
        TopologyError: the vendor's compiler is not installed.
    """
    return _gpus(topology) if topology.platform == "gpu" else _tpus(topology)


def has_compiler(topology: Topology) -> bool:
    """Whether the vendor's compiler, which `described_devices` needs, is installed."""
    modules = ("libtpu",) if topology.platform == "tpu" else ("jax_cuda12_plugin", "jax_cuda13_plugin")
    return any(importlib.util.find_spec(module) for module in modules)


def target_config(device_kind: str) -> str:
    """Returns what XLA must know of a GPU to compile for it, as a text-format GpuTargetConfigProto.

    Args:
        device_kind: JAX's name.
    """
    gpu = GPU_TARGETS[device_kind]
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: {gpu.shared_bytes}
  shared_memory_per_block_optin: {gpu.shared_bytes_per_block}
  core_count: {gpu.multiprocessors} fpus_per_core: {gpu.fp32_units} clock_rate_ghz: {gpu.clock_ghz}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {gpu.memory_bandwidth} l2_cache_size: {gpu.l2_bytes} device_memory_size: {gpu.memory_bytes}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  cuda_compute_capability {{ major: {gpu.capability[0]} minor: {gpu.capability[1]} }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{device_kind}"
"""


def _hosts(name: str, match: re.Match[str], shape: tuple[int, ...]) -> tuple[int, int]:
    if match["slices"]:
        raise TopologyError(f"topology {name!r}: GPUs have no slices; write {match['chip']}:HOSTSxGPUS")
    hosts, gpus = (1, *shape) if len(shape) == 1 else shape if len(shape) == 2 else (0, 0)
    if hosts < 1 or not 1 <= gpus <= CHIPS[match["chip"]].largest:
        raise TopologyError(
            f"topology {name!r} does not exist; write {match['chip']}:GPUS or {match['chip']}:HOSTSxGPUS with 1 to 8 "
            f"GPUs in a host, like {match['chip']}:8 or {match['chip']}:4x8"
        )
    return hosts, gpus


def _check_slice(name: str, generation: str, chip: Chip, shape: tuple[int, ...]) -> None:
    written = "x".join(map(str, shape))
    if chip.dimensions == 2:
        exists, advice = written in _PLANES, f"write one of {', '.join(f'{generation}:{plane}' for plane in _PLANES)}"
    else:
        cubes = len(shape) == 3 and all(size and size % 4 == 0 for size in shape) and math.prod(shape) <= chip.largest
        exists = written in _PARTS_OF_A_CUBE or cubes
        advice = (
            f"write one of {', '.join(f'{generation}:{part}' for part in _PARTS_OF_A_CUBE)}, or three multiples of 4 "
            f"like {generation}:4x4x8 with at most {chip.largest} chips"
        )
    if not exists:
        raise TopologyError(f"topology {name!r} does not exist; {advice}")


def _tpus(topology: Topology) -> list[Any]:
    if not has_compiler(topology):
        raise TopologyError(
            f"topology {topology.name!r} needs libtpu, which compiles for TPUs on any x86-64 Linux machine; "
            "run: pip install 'slap-jax[aot]'"
        )
    # libtpu must neither query the cloud's metadata server nor refuse to be loaded by two processes.
    for variable, value in (
        ("TPU_SKIP_MDS_QUERY", "1"),
        ("TPU_WORKER_HOSTNAMES", "localhost"),
        ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
    ):
        os.environ.setdefault(variable, value)
    from jax.experimental import topologies

    generation = topology.name.rpartition("*")[2].partition(":")[0]
    options: dict[str, Any] = {}
    if topology.slices > 1:
        options["num_slices"] = topology.slices
    if math.prod(topology.shape) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    if generation == "v4":
        # By default libtpu treats a v4 chip as two devices, unlike current JAX programs.
        closed = all(size % 4 == 0 for size in topology.shape)
        options |= {"chip_config_name": "megacore", "chips_per_host_bounds": (2, 2, 1), "wrap": (closed,) * 3}
    shape = "x".join(map(str, topology.shape))
    return list(topologies.get_topology_desc(platform="tpu", topology_name=f"{generation}:{shape}", **options).devices)


def _gpus(topology: Topology) -> list[Any]:
    if not has_compiler(topology):
        raise TopologyError(
            f"topology {topology.name!r} needs the CUDA plug-in to compile (several GB, no GPU); "
            "run: pip install 'slap-jax[cuda12]'"
        )
    from jax.experimental import topologies

    hosts, gpus = topology.shape
    return list(
        topologies.get_topology_desc(
            "", platform="cuda", topology=f"1x{hosts}x{gpus}", target_config=target_config(topology.chip.device_kind)
        ).devices
    )
