"""Names of topologies, and the devices behind them, described by the vendor's compiler and not there."""

import dataclasses
import importlib.util
import math
import os
import re
from typing import Any

from slap_jax.aot.chips import CHIPS, Chip
from slap_jax.aot.gpu_targets import target_config


class TopologyError(ValueError):
    """A topology that does not exist, or whose compiler is not installed."""


EXAMPLES = "v4:2x2x2, v5e:4x4, v5p:2x2x2, v6e:8x8, tpu7x:2x2x1, 2*v5e:16x16 (two slices), h100:8, h200:4x8 (four hosts)"
_NAME = re.compile(r"(?:(?P<slices>[1-9]\d*)\*)?(?P<chip>[a-z0-9-]+):(?P<shape>\d+(?:x\d+)*)")
# 2-D slices come in these shapes only; 3-D ones up to a cube of 4 x 4 x 4 too, larger ones are made of whole cubes.
_PLANES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_PARTS_OF_A_CUBE = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices of one kind and how they are joined.

    Attributes:
        name: as the user wrote it.
        chip: what one device can do.
        shape: of one TPU slice; (hosts, GPUs of each) for GPUs.
        slices: TPU slices, joined by the data centre's network.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def platform(self) -> str:
        """What the program is compiled for: "tpu" or "gpu"."""
        return self.chip.platform

    @property
    def n_devices(self) -> int:
        """JAX devices in all."""
        return math.prod(self.shape) * self.slices * self.chip.devices_per_chip

    @property
    def sent_bandwidth(self) -> float:
        """Bytes per second that a device sends to its neighbours in the slice, over the links that the shape has.

        A link in each direction of the torus; a ring of two has one, and only rings of 16 (2-D) or whole cubes (3-D)
        are closed, but the inner chips of an open one have both, and the bound is theirs.
        """
        if self.platform == "gpu":
            return self.chip.link_bandwidth if self.shape[-1] > 1 else self.chip.network_bandwidth
        links = sum({1: 0, 2: 1}.get(size, 2) for size in self.shape)
        return self.chip.link_bandwidth * max(links, 1) / (2 * self.chip.dimensions)


def parse_topology(name: str) -> Topology:
    """Reads `v5e:4x4`, `2*v5e:16x16` (two slices), `h100:8` (one host of 8) or `h100:4x8` (four hosts of 8).

    Raises:
        TopologyError: says which there are.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise TopologyError(f"topology {name!r} does not exist; write CHIP:SHAPE like {EXAMPLES}")
    if match["chip"] not in CHIPS:
        raise TopologyError(
            f"topology {name!r}: there is no {match['chip']!r}; write one of {', '.join(CHIPS)} with a shape, "
            f"like {EXAMPLES}"
        )
    chip = CHIPS[match["chip"]]
    shape = tuple(map(int, match["shape"].split("x")))
    slices = int(match["slices"] or 1)
    if chip.platform == "gpu":
        return Topology(name, chip, _hosts(name, match, shape), 1)
    _check_slice(name, match["chip"], chip, shape)
    return Topology(name, chip, shape, slices)


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
        exists, which = written in _PLANES, f"write one of {', '.join(f'{generation}:{plane}' for plane in _PLANES)}"
    else:
        cubes = len(shape) == 3 and all(size and size % 4 == 0 for size in shape) and math.prod(shape) <= chip.largest
        exists = written in _PARTS_OF_A_CUBE or cubes
        which = (
            f"write one of {', '.join(f'{generation}:{part}' for part in _PARTS_OF_A_CUBE)}, or three multiples of 4 "
            f"like {generation}:4x4x8 with at most {chip.largest} chips"
        )
    if not exists:
        raise TopologyError(f"topology {name!r} does not exist; {which}")


def described_devices(topology: Topology) -> list[Any]:
    """Returns the devices, to compile for and not to run on.

    Raises:
        TopologyError: the compiler for them is not installed.
    """
    return _gpus(topology) if topology.platform == "gpu" else _tpus(topology)


def has_compiler(topology: Topology) -> bool:
    """Whether `described_devices` will find the vendor's compiler."""
    modules = ("libtpu",) if topology.platform == "tpu" else ("jax_cuda12_plugin", "jax_cuda13_plugin")
    return any(importlib.util.find_spec(module) for module in modules)


def _tpus(topology: Topology) -> list[Any]:
    if not has_compiler(topology):
        raise TopologyError(
            f"topology {topology.name!r} needs libtpu, which compiles for TPUs on any x86-64 Linux machine; "
            "run: pip install 'slap-jax[aot]'"
        )
    # libtpu must not ask the cloud for its metadata, nor refuse to be in two processes.
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
        # By default libtpu takes a v4 chip for two devices, as no program of today does.
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
