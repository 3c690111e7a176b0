# The compiler flags and variables that matter, each with its reason. Sourced by run.sh; a test starts the compilers with
# them, so that a flag that a new version no longer knows is found before a cluster does (an unknown one ends the process).
#
# What is on by default is not repeated. That holds for the TPU lists in circulation: with
# --xla_tpu_enable_async_collective_fusion (also _fuse_all_gather, _fuse_all_reduce and _multiple_steps),
# --xla_tpu_overlap_compute_collective_tc, --xla_enable_async_all_gather, --xla_tpu_enable_data_parallel_all_reduce_opt and
# --xla_tpu_data_parallel_opt_different_sized_ops, a data-parallel and an FSDP training step compile to the same program as
# without, for one slice of v5e and for two (libtpu of JAX 0.10).
# shellcheck shell=bash

GPU_FLAGS=(
  # Off by default. Without it the sums of gradients over the GPUs run after the backward pass, with it beside it.
  --xla_gpu_enable_latency_hiding_scheduler=true
  # Off by default. The layers are one loop, of which that scheduler sees one turn. These let the exchange of one layer
  # run beside the compute of the next.
  --xla_gpu_enable_pipelined_all_reduce=true
  --xla_gpu_enable_pipelined_all_gather=true     # of parameters, with config.parallel.fsdp
  --xla_gpu_enable_pipelined_reduce_scatter=true # of gradients, with config.parallel.fsdp
)

# With several slices, gradients cross the data-centre network.
TPU_SLICES_FLAGS=(
  # Host memory for these transfers is mapped once at the start (16 GiB), not again in every step.
  --megascale_grpc_premap_memory_bytes=17179869184
)

# Exports what the platform wants. What the caller has set comes last and wins.
#   set_flags PLATFORM SLICES FAKE_DEVICES
set_flags() {
  local platform=$1 slices=$2 fake_devices=$3
  case $platform in
    tpu)
      if ((slices > 1)); then
        export LIBTPU_INIT_ARGS="${TPU_SLICES_FLAGS[*]}${LIBTPU_INIT_ARGS:+ $LIBTPU_INIT_ARGS}"
      fi
      # A TPU that another process holds is then an error, never a run on the host's CPU that nobody notices.
      export JAX_PLATFORMS=tpu,cpu
      ;;
    gpu)
      export XLA_FLAGS="${GPU_FLAGS[*]}${XLA_FLAGS:+ $XLA_FLAGS}"
      # 0.75 by default, which leaves 20 GB of an 80 GB card unused; NCCL and the CUDA libraries need the rest.
      export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}
      # NCCL is silent by default, and a wrong network interface looks like a hang.
      export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
      # As for TPU: a missing driver is an error.
      export JAX_PLATFORMS=cuda,cpu
      ;;
    cpu)
      # One CPU shows as several devices, so that the code of several is run.
      if ((fake_devices > 0)); then
        export XLA_FLAGS="--xla_force_host_platform_device_count=$fake_devices${XLA_FLAGS:+ $XLA_FLAGS}"
      fi
      export JAX_PLATFORMS=cpu
      ;;
  esac
}
