"""What is publicly known of one device of each kind: memory, its bandwidth, and the links to the others.

TPU: docs.cloud.google.com/tpu/docs, the page of each generation (v4, v5e, v5p, v6e, tpu7x); on tpu7x one JAX device is
half a chip and has half of the chip's figures. Memory is what the compiler grants a program, by its own message.
NVIDIA: the data sheets of A100 (40 and 80 GB SXM), H100 SXM, H200 SXM and HGX B200; eight GPUs of a host have one
400 Gbit/s network card each (A100: 200). Peak FLOPs are those of `slap_jax.flops.PEAK_FLOPS`.
"""

import dataclasses

from slap_jax.aot.gpu_targets import GPU_TARGETS
from slap_jax.flops import PEAK_FLOPS

GIB = 2**30
GIGABIT = 1e9 / 8


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device.

    Attributes:
        platform: "tpu" or "gpu".
        device_kind: as JAX names it.
        hbm_bytes: what a program may use.
        hbm_bandwidth: bytes per second.
        link_bandwidth: bytes per second that it sends over all its fast links (ICI, NVLink), one way.
        network_bandwidth: bytes per second to devices of other slices (TPU) or hosts (GPU), one way.
        fp32_share: fp32 matrix products of full precision, relative to the bf16 peak.
        dimensions: of a TPU slice's torus; 0 on GPU.
        largest: chips in the largest slice; GPUs in a host.
        devices_per_chip: JAX devices.
    """

    platform: str
    device_kind: str
    hbm_bytes: int
    hbm_bandwidth: float
    link_bandwidth: float
    network_bandwidth: float
    fp32_share: float
    dimensions: int = 0
    largest: int = 8
    devices_per_chip: int = 1

    @property
    def peak_flops(self) -> float:
        """Dense bf16 FLOPs per second."""
        names = [name for name in PEAK_FLOPS if self.device_kind.startswith(name)]
        return PEAK_FLOPS[max(names, key=len)]


def _tpu(kind: str, hbm_gib: float, hbm: float, links: float, network: float, dimensions: int, **rest: int) -> Chip:
    # An fp32 product of full precision takes six passes of the bf16 matrix unit.
    return Chip("tpu", kind, int(hbm_gib * GIB), hbm, links, network * GIGABIT, 1 / 6, dimensions, **rest)


def _gpu(kind: str, links: float, network: float, fp32: float) -> Chip:
    target = GPU_TARGETS[kind]
    usable = int(target.memory_bytes * GPU_MEMORY_SHARE)
    return Chip("gpu", kind, usable, target.memory_bandwidth, links, network * GIGABIT, fp32)


# Of a GPU's memory, what XLA's allocator takes when XLA_PYTHON_CLIENT_MEM_FRACTION is set to this.
GPU_MEMORY_SHARE = 0.92

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
