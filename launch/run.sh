#!/usr/bin/env bash
# Runs slap in one process of a run; every launcher ends here. Removes variables that earlier jobs left in the environment,
# sets the compiler flags of the platform, prints which processes it waits for, runs slap, and returns its exit code.
#
#   launch/run.sh [OPTIONS] -- train --config FILE.py[:ARG] --run-dir DIR [--config.NAME.NAME=VALUE ...]
#   launch/run.sh [OPTIONS] -- preflight --config FILE.py[:ARG] --run-dir DIR [--topology T ...]
#
# How the process connects to the others (without any of these options it runs alone):
#   --coordinator HOST:PORT --processes N --process-id I
#                       explicit addresses; process 0 runs on HOST
#   --tpu-vm            on a Cloud TPU VM: its metadata server describes the slice
#   --gke               in a GKE pod with TPUs: keeps the variables that the cluster set for this job
# Options:
#   --platform NAME     tpu, gpu or cpu (default: detected)
#   --slices N          number of TPU slices of the run (1)
#   --local-devices I,J GPUs of this process (all)
#   --devices N         with --platform cpu: number of simulated CPU devices
#   --preflight         run launch/preflight.py first; stop if it reports a problem
#   --python FILE       interpreter (.venv/bin/python of this checkout if it exists, else python3)
#   --dry-run           print the environment and the command
#
# SIGTERM, SIGUSR1 and Ctrl-C are forwarded: training saves, and the exit code is 83. SIGUSR2 kills it at once.
#
# Example, two processes on one machine:
#   launch/run.sh --coordinator localhost:1234 --processes 2 --process-id 0 -- train --config C --run-dir R &
#   launch/run.sh --coordinator localhost:1234 --processes 2 --process-id 1 -- train --config C --run-dir R
set -uo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PROGRAM=run.sh
# shellcheck source=launch/common.sh
source "$ROOT/launch/common.sh"
# shellcheck source=launch/xla_flags.sh
source "$ROOT/launch/xla_flags.sh"

platform='' coordinator='' processes='' process_id='' tpu_vm='' gke='' slices=1 local_devices='' devices=0 preflight=''
python=$ROOT/.venv/bin/python
[[ -x $python ]] || python=$(command -v python3)

while [[ $# -gt 0 ]]; do
  case $1 in
    --platform) platform=$(value "$@") || exit; shift ;;
    --coordinator) coordinator=$(value "$@") || exit; shift ;;
    --processes) processes=$(value "$@") || exit; shift ;;
    --process-id) process_id=$(value "$@") || exit; shift ;;
    --slices) slices=$(value "$@") || exit; shift ;;
    --local-devices) local_devices=$(value "$@") || exit; shift ;;
    --devices) devices=$(value "$@") || exit; shift ;;
    --python) python=$(value "$@") || exit; shift ;;
    --tpu-vm) tpu_vm=1 ;;
    --gke) gke=1 ;;
    --preflight) preflight=1 ;;
    --dry-run) DRY_RUN=1 ;;
    -h | --help) usage "${BASH_SOURCE[0]}"; exit ;;
    --) shift; break ;;
    *) die "unknown option $1; see --help" ;;
  esac
  shift
done
need_command "$@"
number --slices "$slices"
number --devices "$devices"
if [[ $coordinator$processes$process_id ]]; then
  [[ $coordinator && $processes && $process_id ]] || die "--coordinator, --processes and --process-id go together"
  [[ $coordinator == *:* ]] || die "--coordinator is '$coordinator'; write HOST:PORT"
  number --processes "$processes"
  number --process-id "$process_id"
fi

find_platform() {
  if compgen -G '/dev/accel*' >/dev/null || compgen -G '/dev/vfio/[0-9]*' >/dev/null; then
    echo tpu
  elif command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; then
    echo gpu
  else
    echo cpu
  fi
}
[[ $platform ]] || platform=$(find_platform)
case $platform in
  tpu | gpu | cpu) ;;
  *) die "--platform is '$platform'; write tpu, gpu or cpu" ;;
esac

# Only the options say where the other processes are. A variable left by an earlier job or by the user's shell would send
# this process to a coordinator that no longer exists, where it would wait until the timeout.
scrub() {
  local name
  for name in $(compgen -e); do
    case $name in
      MEGASCALE_* | TPU_WORKER_* | TPU_PROCESS_* | TPU_TOPOLOGY* | TPU_ACCELERATOR_TYPE | TPU_SKIP_MDS_QUERY | CLOUD_TPU_TASK_ID)
        [[ $gke ]] && continue # GKE has set them for this job
        ;;
      TPU_VISIBLE_* | TPU_CHIPS_PER_* | TPU_HOST_BOUNDS | TPU_MESH_CONTROLLER_*) ;;
      SLAP_COORDINATOR | SLAP_NUM_PROCESSES | SLAP_PROCESS_ID | SLAP_DISTRIBUTED) ;;
      JAX_COORDINATOR_* | JAX_NUM_PROCESSES | JAX_PROCESS_ID | JAX_LOCAL_DEVICE_IDS | JAX_PLATFORMS | JAX_PLATFORM_NAME) ;;
      *) continue ;;
    esac
    say "removed $name=${!name}, left by an earlier job"
    unset "$name"
  done
}
scrub
set_flags "$platform" "$slices" "$devices"

wait_message="running as the only process"
if [[ $coordinator ]]; then
  export SLAP_COORDINATOR=$coordinator SLAP_NUM_PROCESSES=$processes SLAP_PROCESS_ID=$process_id
  wait_message="process $process_id, waiting for $processes processes at $coordinator; start all of them"
  # Through a proxy, gRPC would hang instead of reaching the coordinator.
  if [[ ${http_proxy:-}${https_proxy:-}${grpc_proxy:-} ]]; then
    export no_proxy="${no_proxy:+$no_proxy,}${coordinator%:*}"
  fi
elif [[ $tpu_vm || $gke ]]; then
  export SLAP_DISTRIBUTED=auto
  wait_message="waiting for the other workers of the slice; start all of them"
elif [[ ${SLURM_STEP_NUM_TASKS:-1} -gt 1 ]]; then
  wait_message="process ${SLURM_PROCID:-?}, waiting for $SLURM_STEP_NUM_TASKS processes of SLURM job ${SLURM_JOB_ID:-?}"
fi
# Required under SLURM and with several processes on a host: by default JAX gives each process a single GPU of the node.
[[ $local_devices ]] && export JAX_LOCAL_DEVICE_IDS=$local_devices
# With a compilation cache, a restarted run does not compile again.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-${TMPDIR:-/tmp}/slap_jax_cache_$(id -u)}

say "host $HOSTNAME, platform $platform, $python"
for name in XLA_FLAGS LIBTPU_INIT_ARGS XLA_PYTHON_CLIENT_MEM_FRACTION JAX_PLATFORMS JAX_LOCAL_DEVICE_IDS; do
  if [[ ${!name:-} ]]; then say "$name=${!name}"; fi
done
say "$wait_message"

# Run the code of this checkout even if another version is installed. Relative paths in the command keep their meaning,
# because the working directory does not change.
export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}
child='' stop_requested=''
# shellcheck disable=SC2329 # invoked by trap
forward() {
  # shellcheck disable=SC2034 # read by wait_for
  stop_requested=1 interrupted=1
  if [[ $child ]]; then
    say "received a signal to stop; training saves first"
    kill -TERM "$child" 2>/dev/null
  fi
}
trap forward TERM INT USR1
# shellcheck disable=SC2154 # `interrupted` is read by wait_for
trap 'interrupted=1; [[ $child ]] && kill -KILL "$child" 2>/dev/null' USR2

# Runs a command until it ends, despite signals; returns its exit code.
run_to_end() {
  if [[ $DRY_RUN ]]; then
    run "$@"
    return
  fi
  [[ $stop_requested ]] && return "$EXIT_PREEMPTED"
  "$@" &
  child=$!
  wait_for "$child"
  child=''
  return "$code"
}

if [[ $1 == preflight ]]; then
  run_to_end "$python" -u "$ROOT/launch/preflight.py" "${@:2}"
  exit
fi
if [[ $preflight ]]; then
  run_to_end "$python" -u "$ROOT/launch/preflight.py" "${@:2}" || exit
fi
run_to_end "$python" -u -m slap_jax.cli "$@"
code=$?
if [[ $stop_requested ]] && ((code == 128 + 15)); then
  say "stopped before there was anything to save"
  code=$EXIT_PREEMPTED
fi
case $code in
  0) ;;
  "$EXIT_PREEMPTED") say "saved and stopped (exit code $code); run the same command to resume" ;;
  *) say "ended with exit code $code; see the messages above" ;;
esac
exit "$code"
