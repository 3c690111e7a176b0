#!/usr/bin/env bash
# Trains on one or more Cloud TPU slices with gcloud: creates the slices, sets up all workers, starts the run on all of
# them, follows the log, and restarts after preemption.
#
#   launch/tpu_vm.sh up NAME --zone Z --type T [OPTIONS] -- train --config FILE.py[:ARG] --run-dir DIR [...]
#
#   up       create, set up, start and follow the run until it ends; if NAME already runs one, follow that
#   create   request NAME and wait for it                 setup    copy this checkout, install it, mount the bucket
#   start    start the run on all workers                 logs     follow the log of worker 0
#   status   print the states of slice and workers        fetch    copy the logs of all workers to --log-dir
#   stop     save a checkpoint and stop                   delete   delete the slice, which ends its cost
#
# Options:
#   --zone Z               zone of the slice, such as us-west4-a
#   --type T               accelerator type: v4-32, v5litepod-16, v5p-16, v6e-16 ...
#   --project P            Google Cloud project (default: from the gcloud configuration)
#   --spot                 use spot capacity: cheaper, may be preempted at any time, then requested again and resumed
#   --slices N             number of slices for one run (1)
#   --runtime-version V    TPU software version (default: from the type)
#   --bucket NAME          Cloud Storage bucket that every worker mounts at /gcs, for data and run directory
#   --restarts N           how often to resume after preemption, and to repeat a failed request (20)
#   --log-dir DIR          directory for the fetched logs (logs)
#   --preflight            check versions, devices, network and data first
#   --delete               delete the slice when `up` ends, with or without an error
#   --poll SECONDS         time between two checks of the run (30)
#   --dry-run              print the commands
# Ctrl-C stops following the log; the run continues.
#
# Example:
#   launch/tpu_vm.sh up slap-base --zone us-west4-a --type v5litepod-16 --spot --bucket my-bucket -- \
#     train --config configs/slap_base.py:data=/gcs/data --run-dir /gcs/runs/slap_base
set -uo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PROGRAM=tpu_vm.sh
# shellcheck source=launch/common.sh
source "$ROOT/launch/common.sh"

case ${1:-} in
  -h | --help | '') usage "${BASH_SOURCE[0]}"; exit ;;
esac
verb=$1 name=${2:-}
[[ $name && $name != -* ]] || die "write the name of the slice after $verb; see --help"
shift 2
zone='' type='' project='' spot='' slices=1 runtime='' bucket='' restarts=20 log_dir=logs delete='' every=30 options=()
while [[ $# -gt 0 ]]; do
  case $1 in
    --zone) zone=$(value "$@") || exit; shift ;;
    --type) type=$(value "$@") || exit; shift ;;
    --project) project=$(value "$@") || exit; shift ;;
    --slices) slices=$(value "$@") || exit; shift ;;
    --runtime-version) runtime=$(value "$@") || exit; shift ;;
    --bucket) bucket=$(value "$@") || exit; shift ;;
    --restarts) restarts=$(value "$@") || exit; shift ;;
    --log-dir) log_dir=$(value "$@") || exit; shift ;;
    --poll) every=$(value "$@") || exit; shift ;;
    --spot) spot=1 ;;
    --preflight) options+=(--preflight) ;;
    --delete) delete=1 ;;
    --dry-run) DRY_RUN=1 ;;
    -h | --help) usage "${BASH_SOURCE[0]}"; exit ;;
    --) shift; break ;;
    *) die "unknown option $1; see --help" ;;
  esac
  shift
done
[[ $zone ]] || die "--zone is missing; write the zone of the slice, such as us-west4-a"
number --slices "$slices"
number --restarts "$restarts"
need gcloud "see https://cloud.google.com/sdk/docs/install, then: gcloud auth login"

if [[ ! $runtime ]]; then
  case $type in
    v4-*) runtime=tpu-ubuntu2204-base ;;
    v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v6e-*) runtime=v2-alpha-tpuv6e ;;
  esac
fi
location=(--zone "$zone")
[[ $project ]] && location+=(--project "$project")
nodes=("$name")
if ((slices > 1)); then
  nodes=()
  for ((i = 0; i < slices; i++)); do nodes+=("$name-$i"); done
fi

queued() {
  local action=$1
  shift
  run gcloud compute tpus queued-resources "$action" "$name" "${location[@]}" "$@"
}

# Runs a command on workers of every slice: `on_workers all COMMAND`.
on_workers() {
  local node failed=0
  for node in "${nodes[@]}"; do
    run gcloud compute tpus tpu-vm ssh "$node" "${location[@]}" --worker="$1" --command="$2" "${@:3}" || failed=1
  done
  return $failed
}

state_of_slice() {
  gcloud compute tpus queued-resources describe "$name" "${location[@]}" --format='value(state.state)' 2>/dev/null
}

request() {
  [[ $type ]] || die "--type is missing; write the accelerator type, such as v5litepod-16"
  [[ $runtime ]] || die "no software version is known for --type $type; add --runtime-version (gcloud compute tpus versions list)"
  # The scope cloud-platform lets the workers read and write buckets.
  local arguments=(--accelerator-type "$type" --runtime-version "$runtime"
    --scopes=https://www.googleapis.com/auth/cloud-platform)
  [[ $spot ]] && arguments+=(--spot)
  if ((slices > 1)); then
    arguments+=(--node-count "$slices" --node-prefix "$name")
  else
    arguments+=(--node-id "$name")
  fi
  queued create "${arguments[@]}"
}

delete_slice() {
  # --force also deletes its nodes.
  queued delete --force --quiet
}

# Requests the slice unless it exists, and waits for it. A request that failed or was preempted is repeated.
create() {
  local attempt state
  if [[ $DRY_RUN ]]; then
    request
    echo "# waits until this prints ACTIVE:"
    queued describe '--format=value(state.state)'
    return
  fi
  for ((attempt = 0; attempt <= restarts; attempt++)); do
    state=$(state_of_slice)
    [[ $state ]] || request || die "cannot request $name; see the messages above"
    while true; do
      state=$(state_of_slice)
      case $state in
        ACTIVE) say "$name is ready"; return ;;
        FAILED | SUSPEND* | '') break ;;
        *) say "waiting for $name: $state (Ctrl-C keeps the request; delete it with: launch/tpu_vm.sh delete $name)" ;;
      esac
      sleep "$every"
    done
    say "$name is ${state:-gone}; requesting it again ($((attempt + 1)) of $((restarts + 1)))"
    [[ $state ]] && delete_slice
    sleep "$every"
  done
  die "$name is not available; try another zone or type, or leave out --spot"
}

setup() {
  local node archive=${TMPDIR:-/tmp}/slap_jax_$$.tgz
  # The tracked files as they are on disk: uncommitted changes are included, environments and runs are not.
  run tar -czf "$archive" -C "$ROOT" --null --files-from <(git -C "$ROOT" ls-files -z -- launch slap_jax configs \
    pyproject.toml requirements.txt README.md LICENSE) || return
  for node in "${nodes[@]}"; do
    run gcloud compute tpus tpu-vm scp "$archive" "$node:slap_jax.tgz" "${location[@]}" --worker=all || return
  done
  [[ $DRY_RUN ]] || rm -f "$archive"
  on_workers all "mkdir -p slap_jax && tar -xzf slap_jax.tgz -C slap_jax && \
bash slap_jax/launch/tpu_worker.sh setup${bucket:+ --bucket $bucket}"
}

start() {
  say "starting on all workers of ${nodes[*]}; each waits for the others"
  on_workers all "bash slap_jax/launch/tpu_worker.sh start $(quoted --platform tpu --tpu-vm --slices "$slices" \
    "${options[@]}" -- "$@")"
}

# Prints the state of each worker on one line.
poll_workers() {
  on_workers all "bash slap_jax/launch/tpu_worker.sh poll" 2>/dev/null | grep -o 'worker \(running\|idle\|ended [0-9]*\)'
}

logs() {
  run gcloud compute tpus tpu-vm ssh "${nodes[0]}" "${location[@]}" --worker=0 --command='tail -n 200 -F slap_run/log'
}

fetch() {
  local node
  for node in "${nodes[@]}"; do
    run mkdir -p "$log_dir/$node"
    run gcloud compute tpus tpu-vm ssh "$node" "${location[@]}" --worker=all --command='cat slap_run/log' \
      --output-directory="$log_dir/$node"
  done
  say "logs of all workers are in $log_dir"
}

# Follows a run until it ends, and stores its exit code in `code`, or "preempted" if the slice was preempted.
follow() {
  local states reader
  logs &
  reader=$!
  while true; do
    sleep "$every"
    states=$(poll_workers)
    if [[ ! $states || $states == *idle* ]] && [[ $(state_of_slice) != ACTIVE ]]; then
      code=preempted
      break
    fi
    [[ $states ]] || say "cannot reach the workers, but $name is ACTIVE; trying again"
    [[ ! $states || $states == *running* ]] && continue
    code=$(sed -n 's/^worker ended //p' <<<"$states" | combined_exit_code)
    break
  done
  kill "$reader" 2>/dev/null
  wait "$reader" 2>/dev/null
}

up() {
  local attempt
  if [[ $delete ]]; then trap delete_slice EXIT; fi
  for ((attempt = 0; attempt <= restarts; attempt++)); do
    create
    if [[ ! $DRY_RUN ]] && poll_workers | grep -q running; then
      say "a run is already active on $name; following it"
    else
      setup || die "cannot set up the workers; see the messages above"
      start "$@" || die "cannot start the run on all workers; see the messages above"
    fi
    if [[ $DRY_RUN ]]; then
      logs
      echo "# every $every s, until the run has ended on all workers:"
      on_workers all "bash slap_jax/launch/tpu_worker.sh poll"
      echo "# after exit code $EXIT_PREEMPTED:: start again; after preemption: delete, create, setup, start"
      fetch
      return
    fi
    trap 'say "the run continues; launch/tpu_vm.sh logs|stop|delete $name --zone $zone"; exit 130' INT
    follow
    trap - INT
    if [[ $code == preempted ]]; then
      say "$name was preempted"
    elif ! can_resume "$code"; then
      fetch
      say "the run ended with exit code $code"
      [[ $delete ]] || say "the slice still costs money: launch/tpu_vm.sh delete $name --zone $zone"
      return "$code"
    fi
    say "resuming (restart $((attempt + 1)) of $restarts)"
  done
  die "that was the last of --restarts $restarts; run the same command to resume"
}

case $verb in
  up | start) need_command "$@" ;;
esac
case $verb in
  up | create | setup | start | logs | fetch) "$verb" "$@" ;;
  stop) on_workers all "bash slap_jax/launch/tpu_worker.sh stop" ;;
  status)
    queued describe '--format=value(state.state)'
    on_workers all "bash slap_jax/launch/tpu_worker.sh poll"
    ;;
  delete) delete_slice ;;
  *) die "unknown verb $verb; see --help" ;;
esac
