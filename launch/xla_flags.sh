# Compiler flags and environment variables, each with its reason. Sourced by run.sh. An unknown flag ends the process, so a
# test starts the compilers with these flags to detect one that a new version no longer accepts.
#
# Flags that are on by default are left out. That covers the commonly recommended TPU flags: a data-parallel and an FSDP
# training step compile to the same program with and without --xla_tpu_enable_async_collective_fusion (also
# _fuse_all_gather, _fuse_all_reduce and _multiple_steps), --xla_tpu_overlap_compute_collective_tc,
# --xla_enable_async_all_gather, --xla_tpu_enable_data_parallel_all_reduce_opt and
# --xla_tpu_data_parallel_opt_different_sized_ops, on one slice of v5e and on two (libtpu of JAX 0.10).
# shellcheck shell=bash

GPU_FLAGS=(
  # Off by default. Overlaps the all-reduce of the gradients with the backward pass.
  --xla_gpu_enable_latency_hiding_scheduler=true
  # Off by default. The layers are one loop (scan), and the scheduler sees only one iteration of it. These flags overlap
  # the communication of one layer with the computation of the next.
  --xla_gpu_enable_pipelined_all_reduce=true
  --xla_gpu_enable_pipelined_all_gather=true     # of parameters, with config.parallel.fsdp
  --xla_gpu_enable_pipelined_reduce_scatter=true # of gradients, with config.parallel.fsdp
)

# With several slices, gradients cross the data centre network.
TPU_SLICES_FLAGS=(
  # Maps the host memory for these transfers (16 GiB) once at the start instead of in every step.
  --megascale_grpc_premap_memory_bytes=17179869184
)

# Exports the flags of a platform. Flags that the caller has set come last, so they take precedence.
#   set_flags PLATFORM SLICES FAKE_DEVICES
set_flags() {
  local platform=$1 slices=$2 fake_devices=$3
  case $platform in
    tpu)
      if ((slices > 1)); then
        export LIBTPU_INIT_ARGS="${TPU_SLICES_FLAGS[*]}${LIBTPU_INIT_ARGS:+ $LIBTPU_INIT_ARGS}"
      fi
      # If another process holds the TPU, JAX then fails instead of silently running on the host's CPU.
      export JAX_PLATFORMS=tpu,cpu
      ;;
    gpu)
      export XLA_FLAGS="${GPU_FLAGS[*]}${XLA_FLAGS:+ $XLA_FLAGS}"
      # The default of 0.75 leaves 20 GB of an 80 GB card unused. NCCL and the CUDA libraries need the remaining 8 %.
      export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}
      # NCCL is silent by default, and a wrong network interface looks like a hang.
      export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
      # As for TPU, a missing driver is an error.
      export JAX_PLATFORMS=cuda,cpu
      ;;
    cpu)
      # Simulates several devices on one CPU, to run the multi-device code.
      if ((fake_devices > 0)); then
        export XLA_FLAGS="--xla_force_host_platform_device_count=$fake_devices${XLA_FLAGS:+ $XLA_FLAGS}"
      fi
      export JAX_PLATFORMS=cpu
      ;;
  esac
}
