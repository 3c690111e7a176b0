"""What XLA must know of a GPU to compile for it without one: text-format GpuTargetConfigProto.

Numbers: NVIDIA's data sheets and the CUDA C++ Programming Guide, "Compute Capabilities" (threads, registers and shared
memory of a multiprocessor).
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class GpuTarget:
    """What differs between the GPUs; all have 64 Ki registers, 2,048 threads and 1,024 threads per block."""

    capability: tuple[int, int]
    multiprocessors: int
    fp32_units: int
    clock_ghz: float
    memory_bytes: int
    memory_bandwidth: int
    l2_bytes: int
    shared_bytes: int
    shared_bytes_per_block: int


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


def target_config(device_kind: str) -> str:
    """Returns the target of one kind of GPU, by the name that JAX gives it."""
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
