#!/usr/bin/env bash
# Trains on a Cloud TPU slice (or several) by gcloud: creates it, sets up all workers, runs on all, follows the log,
# starts again after preemption.
#
#   launch/tpu_vm.sh up NAME --zone Z --type T [OPTIONS] -- train --config FILE.py[:ARG] --run-dir DIR [...]
#
#   up       all of the below, until the run has ended; where NAME exists and a run is going on there, follows that
#   create   request NAME and wait until it is there      setup    copy this checkout, install, mount the bucket
#   start    start the run on all workers                 logs     follow the log of worker 0
#   status   the states of slice and workers              fetch    the logs of all workers, into --log-dir
#   stop     save a checkpoint and stop                   delete   give the slice back: what costs money ends here
#
# Options:
#   --zone Z               of the slice, such as us-west4-a
#   --type T               accelerator type: v4-32, v5litepod-16, v5p-16, v6e-16 ...
#   --project P            (that of the gcloud configuration)
#   --spot                 cheaper, and may be taken away at any time: it is requested again, and the run goes on
#   --slices N             slices of that type, as one run (1)
#   --runtime-version V    of the TPU software (that of the type)
#   --bucket NAME          Cloud Storage bucket that every worker mounts at /gcs: data and run directory lie there
#   --restarts N           times to go on after preemption, and to request again what could not be had (20)
#   --log-dir DIR          logs that are fetched (logs)
#   --preflight            check versions, devices, network and data first
#   --delete               give the slice back when `up` ends, however it ends
#   --poll SECONDS         between two looks at the run (30)
#   --dry-run              print the commands
# Ctrl-C ends the following, not the run.
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
  -h | --help | '') manual "${BASH_SOURCE[0]}"; exit ;;
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
    -h | --help) manual "${BASH_SOURCE[0]}"; exit ;;
    --) shift; break ;;
    *) die "unknown option $1; see --help" ;;
  esac
  shift
done
[[ $zone ]] || die "--zone is missing: the zone of the slice, such as us-west4-a"
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
place=(--zone "$zone")
[[ $project ]] && place+=(--project "$project")
nodes=("$name")
if ((slices > 1)); then
  nodes=()
  for ((i = 0; i < slices; i++)); do nodes+=("$name-$i"); done
fi

queued() {
  local action=$1
  shift
  run gcloud compute tpus queued-resources "$action" "$name" "${place[@]}" "$@"
}

# Runs a command on workers of every slice: `on_workers all COMMAND`.
on_workers() {
  local node failed=0
  for node in "${nodes[@]}"; do
    run gcloud compute tpus tpu-vm ssh "$node" "${place[@]}" --worker="$1" --command="$2" "${@:3}" || failed=1
  done
  return $failed
}

state_of_slice() {
  gcloud compute tpus queued-resources describe "$name" "${place[@]}" --format='value(state.state)' 2>/dev/null
}

request() {
  [[ $type ]] || die "--type is missing: the accelerator type, such as v5litepod-16"
  [[ $runtime ]] || die "no software is known for --type $type; add --runtime-version (gcloud compute tpus versions list)"
  # cloud-platform: the workers may read and write buckets.
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

give_back() {
  # --force: with its nodes.
  queued delete --force --quiet
}

# Requests the slice unless it is there, and waits for it; what failed or was taken away is requested again.
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
    [[ $state ]] || request || die "cannot request $name; the lines above say why"
    while true; do
      state=$(state_of_slice)
      case $state in
        ACTIVE) say "$name is there"; return ;;
        FAILED | SUSPEND* | '') break ;;
        *) say "waiting for $name: $state (Ctrl-C keeps the request; delete it with: launch/tpu_vm.sh delete $name)" ;;
      esac
      sleep "$every"
    done
    say "$name is ${state:-gone}; requesting it again ($((attempt + 1)) of $((restarts + 1)))"
    [[ $state ]] && give_back
    sleep "$every"
  done
  die "$name could not be had; try another zone, another type, or without --spot"
}

setup() {
  local node archive=${TMPDIR:-/tmp}/slap_jax_$$.tgz
  # What git knows of, as it is on disk: changes that are not committed go along, environments and runs do not.
  run tar -czf "$archive" -C "$ROOT" --null --files-from <(git -C "$ROOT" ls-files -z -- launch slap_jax configs \
    pyproject.toml requirements.txt README.md LICENSE) || return
  for node in "${nodes[@]}"; do
    run gcloud compute tpus tpu-vm scp "$archive" "$node:slap_jax.tgz" "${place[@]}" --worker=all || return
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

# What the workers say, a line for each.
poll_workers() {
  on_workers all "bash slap_jax/launch/tpu_worker.sh poll" 2>/dev/null | grep -o 'worker \(running\|idle\|ended [0-9]*\)'
}

logs() {
  run gcloud compute tpus tpu-vm ssh "${nodes[0]}" "${place[@]}" --worker=0 --command='tail -n 200 -F slap_run/log'
}

fetch() {
  local node
  for node in "${nodes[@]}"; do
    run mkdir -p "$log_dir/$node"
    run gcloud compute tpus tpu-vm ssh "$node" "${place[@]}" --worker=all --command='cat slap_run/log' \
      --output-directory="$log_dir/$node"
  done
  say "logs of all workers are in $log_dir"
}

# Follows a run to its end, and leaves its exit code in `code`; "taken" when the slice was taken away.
follow() {
  local states reader
  logs &
  reader=$!
  while true; do
    sleep "$every"
    states=$(poll_workers)
    if [[ ! $states || $states == *idle* ]] && [[ $(state_of_slice) != ACTIVE ]]; then
      code=taken
      break
    fi
    [[ $states ]] || say "cannot reach the workers, but $name is ACTIVE; trying again"
    [[ ! $states || $states == *running* ]] && continue
    code=$(sed -n 's/^worker ended //p' <<<"$states" | verdict)
    break
  done
  kill "$reader" 2>/dev/null
  wait "$reader" 2>/dev/null
}

up() {
  local attempt
  if [[ $delete ]]; then trap give_back EXIT; fi
  for ((attempt = 0; attempt <= restarts; attempt++)); do
    create
    if [[ ! $DRY_RUN ]] && poll_workers | grep -q running; then
      say "a run is going on there: following it"
    else
      setup || die "the workers could not be set up; the lines above say why"
      start "$@" || die "the run could not be started on all workers; the lines above say why"
    fi
    if [[ $DRY_RUN ]]; then
      logs
      echo "# every $every s, until all workers have ended:"
      on_workers all "bash slap_jax/launch/tpu_worker.sh poll"
      echo "# after exit code $EXIT_PREEMPTED: starts again; when the slice was taken away: delete, create, setup, start"
      fetch
      return
    fi
    trap 'say "the run goes on; launch/tpu_vm.sh logs|stop|delete $name --zone $zone"; exit 130' INT
    follow
    trap - INT
    if [[ $code == taken ]]; then
      say "$name was taken away"
    elif ! goes_on "$code"; then
      fetch
      say "the run ended with exit code $code"
      [[ $delete ]] || say "the slice still costs money: launch/tpu_vm.sh delete $name --zone $zone"
      return "$code"
    fi
    say "going on (restart $((attempt + 1)) of $restarts)"
  done
  die "that was the last of --restarts $restarts; start again to go on"
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
  delete) give_back ;;
  *) die "unknown verb $verb; see --help" ;;
esac
