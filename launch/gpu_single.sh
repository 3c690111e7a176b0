#!/usr/bin/env bash
# Trains on one host: all its GPUs in one process, or in several.
#
#   launch/gpu_single.sh [OPTIONS] -- train --config FILE.py[:ARG] --run-dir DIR [--config.NAME.NAME=VALUE ...]
#
# Options:
#   --processes N     processes that share the GPUs evenly (1: one process drives all, which is simplest and as fast)
#   --restarts N      times to go on with a run that was asked to stop, or whose processes lost each other (10)
#   --log-dir DIR     process_I.log of every process (logs)
#   --platform NAME   gpu or cpu (gpu)
#   --devices N       with --platform cpu: devices that each process shows
#   --preflight       check versions, devices, network and data first
#   --python FILE     see launch/run.sh
#   --dry-run         print the commands
#
# SIGTERM or Ctrl-C to this script saves, stops, and returns 83: the same command goes on. A process that is told to stop
# by someone else stops all of them with 83, and they are started again here. An error is never tried again.
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
    -h | --help) manual "${BASH_SOURCE[0]}"; exit ;;
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

# Several processes need a number of GPUs that they can share.
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
    # Nobody answers there: it is free.
    if ! (exec 3<>"/dev/tcp/localhost/$port") 2>/dev/null; then
      echo "$port"
      return
    fi
  done
}

# The command of process I.
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

pids=() told_to_stop=''
stop_all() {
  local pid
  for pid in "${pids[@]}"; do kill -"$1" "$pid" 2>/dev/null; done
}
forward() {
  told_to_stop=1
  stop_all TERM
}
trap forward TERM INT USR1

# Starts all processes, waits for them, and leaves the exit code of the run in `code`.
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
    # In the background: a signal is handled at once, not after the sleep.
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
        deadline=$((SECONDS + 20)) # they may wait for the lost one, and never save
      fi
    done
    if [[ $deadline ]] && ((SECONDS > deadline)); then
      stop_all USR2 # not KILL: run.sh would leave its process behind
    fi
  done
  code=$(printf '%s\n' "${codes[@]}" | verdict)
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
  if [[ $told_to_stop ]] || ! goes_on "$code"; then exit "$code"; fi
  if ((attempt >= restarts)); then
    say "that was the last of --restarts $restarts; start again to go on"
    exit "$code"
  fi
  say "going on (restart $((attempt + 1)) of $restarts)"
done
