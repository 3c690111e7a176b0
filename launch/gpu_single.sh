#!/usr/bin/env bash
# Trains on all GPUs of one host, in one process or several.
#
#   launch/gpu_single.sh [OPTIONS] -- train --config FILE.py[:ARG] --run-dir DIR [--config.NAME.NAME=VALUE ...]
#
# Options:
#   --processes N     number of processes that share the GPUs evenly (1: one process drives all, simplest and as fast)
#   --restarts N      how often to resume a run that was asked to stop, or that lost a process (10)
#   --log-dir DIR     directory for process_I.log of each process (logs)
#   --platform NAME   gpu or cpu (gpu)
#   --devices N       with --platform cpu: number of devices per process
#   --preflight       check versions, devices, network and data first
#   --python FILE     see launch/run.sh
#   --dry-run         print the commands
#
# On SIGTERM or Ctrl-C the run saves and stops with exit code 83; the same command resumes it. If a single process
# receives SIGTERM instead, all processes save and stop with 83, and this script restarts them. Errors are not retried.
#
# Examples:
#   launch/gpu_single.sh -- train --config configs/slap_base.py:data=/data/slap --run-dir /runs/slap_base
#   launch/gpu_single.sh --platform cpu --processes 2 --devices 4 -- train --config configs/demo.py --run-dir runs/demo
set -uo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PROGRAM=gpu_single.sh
# shellcheck source=launch/common.sh
source "$ROOT/launch/common.sh"

processes=1 restarts=10 log_dir=logs platform=gpu options=()
while [[ $# -gt 0 ]]; do
  case $1 in
    --processes) processes=$(value "$@") || exit; shift ;;
    --restarts) restarts=$(value "$@") || exit; shift ;;
    --log-dir) log_dir=$(value "$@") || exit; shift ;;
    --platform) platform=$(value "$@") || exit; shift ;;
    --devices | --python) options+=("$1" "$(value "$@")") || exit; shift ;;
    --preflight) options+=("$1") ;;
    --dry-run) DRY_RUN=1 ;;
    -h | --help) usage "${BASH_SOURCE[0]}"; exit ;;
    --) shift; break ;;
    *) die "unknown option $1; see --help" ;;
  esac
  shift
done
need_command "$@"
number --processes "$processes"
number --restarts "$restarts"
case $platform in
  gpu | cpu) ;;
  *) die "--platform is '$platform'; write gpu or cpu" ;;
esac
((processes >= 1)) || die "--processes is 0; write 1 or more"

# Several processes must be able to share the GPUs evenly.
gpus_each=0
if ((processes > 1)) && [[ $platform == gpu ]]; then
  gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU')
  if [[ $DRY_RUN && $gpus == 0 ]]; then gpus=$processes; fi
  ((gpus > 0 && gpus % processes == 0)) || die "--processes is $processes, but nvidia-smi lists $gpus GPUs; write a divisor"
  gpus_each=$((gpus / processes))
fi

free_port() {
  local port
  while true; do
    port=$((20000 + RANDOM % 12000))
    # Nothing listens on this port, so it is free.
    if ! (exec 3<>"/dev/tcp/localhost/$port") 2>/dev/null; then
      echo "$port"
      return
    fi
  done
}

# Builds the command of process I in `command`.
command_of() {
  local i=$1 first
  command=("$ROOT/launch/run.sh" --platform "$platform")
  if ((processes > 1)); then
    command+=(--coordinator "localhost:$port" --processes "$processes" --process-id "$i")
  fi
  if ((gpus_each > 0)); then
    first=$((i * gpus_each))
    command+=(--local-devices "$(seq -s, "$first" $((first + gpus_each - 1)))")
  fi
  command+=("${options[@]}" --)
}

pids=() stop_requested=''
stop_all() {
  local pid
  for pid in "${pids[@]}"; do kill -"$1" "$pid" 2>/dev/null; done
}
forward() {
  stop_requested=1
  stop_all TERM
}
trap forward TERM INT USR1

# Starts all processes, waits for them, and stores the exit code of the run in `code`.
run_once() {
  local i pid deadline=''
  declare -A codes=()
  pids=()
  for ((i = 0; i < processes; i++)); do
    command_of "$i"
    "${command[@]}" "$@" > >(tee -a "$log_dir/process_$i.log" | label "$i") 2>&1 &
    pids+=($!)
  done
  while ((${#codes[@]} < processes)); do
    # Sleeping in the background lets bash handle a signal at once.
    sleep 0.3 &
    wait $!
    for i in "${!pids[@]}"; do
      pid=${pids[$i]}
      if [[ ${codes[$i]:-} ]] || kill -0 "$pid" 2>/dev/null; then continue; fi
      wait "$pid"
      codes[$i]=$?
      if ((codes[$i] != 0 && codes[$i] != EXIT_PREEMPTED && processes > 1)) && [[ ! $deadline ]]; then
        say "process $i ended with exit code ${codes[$i]} ($log_dir/process_$i.log); ending the others"
        stop_all TERM
        deadline=$((SECONDS + 20)) # they may be waiting for the lost process and never save
      fi
    done
    if [[ $deadline ]] && ((SECONDS > deadline)); then
      stop_all USR2 # not KILL, which would leave the child of run.sh running
    fi
  done
  code=$(printf '%s\n' "${codes[@]}" | combined_exit_code)
}

label() {
  if ((processes > 1)); then sed -u "s/^/$1 | /"; else cat; fi
}

if [[ $DRY_RUN ]]; then
  port=PORT
  for ((i = 0; i < processes; i++)); do
    command_of "$i"
    run "${command[@]}" "$@"
  done
  exit
fi

mkdir -p "$log_dir" || exit 2
for ((attempt = 0; ; attempt++)); do
  port=$(free_port)
  say "starting $processes process$( ((processes == 1)) || echo es), logs in $log_dir"
  run_once "$@"
  if [[ $stop_requested ]] || ! can_resume "$code"; then exit "$code"; fi
  if ((attempt >= restarts)); then
    say "that was the last of --restarts $restarts; run the same command to resume"
    exit "$code"
  fi
  say "resuming (restart $((attempt + 1)) of $restarts)"
done
