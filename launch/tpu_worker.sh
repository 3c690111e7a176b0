#!/usr/bin/env bash
# Runs on every worker of a TPU slice, started by tpu_vm.sh. Call it by hand only to inspect a single worker.
#
#   tpu_worker.sh setup [--bucket NAME]   install slap_jax; mount a Cloud Storage bucket at /gcs
#   tpu_worker.sh start [run.sh options] -- train ...   start in the background, independent of the ssh connection
#   tpu_worker.sh poll                    print "worker running", "worker ended CODE" or "worker idle"
#   tpu_worker.sh stop                    save and stop
#
# ~/slap_run holds the files log, pid and exit_code of the run.
set -uo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PROGRAM=tpu_worker.sh
# shellcheck source=launch/common.sh
source "$ROOT/launch/common.sh"
state=$HOME/slap_run

setup() {
  local bucket=''
  if [[ ${1:-} == --bucket ]]; then bucket=$(value "$@") || exit; fi
  # The TPU images have Python 3.10, which is too old; uv installs a newer one.
  python3 -m pip install --quiet --user --upgrade uv || die "cannot install uv; does this worker have internet access?"
  if [[ ! -x $ROOT/.venv/bin/python ]]; then
    python3 -m uv venv --quiet --python 3.12 "$ROOT/.venv" || die "cannot create $ROOT/.venv with Python 3.12"
  fi
  python3 -m uv pip install --quiet --python "$ROOT/.venv/bin/python" --editable "${ROOT}[tpu]" ||
    die "cannot install slap_jax; see the messages above"
  # Without huge pages the TPU runtime takes minutes to start on v5e and newer.
  echo always | sudo tee /sys/kernel/mm/transparent_hugepage/enabled >/dev/null
  [[ $bucket ]] && mount_bucket "$bucket"
  say "$HOSTNAME is set up: $("$ROOT/.venv/bin/python" --version)"
}

mount_bucket() {
  local bucket=$1
  if ! command -v gcsfuse >/dev/null; then
    local key=/usr/share/keyrings/cloud.google.asc
    curl -fsSL https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee $key >/dev/null
    echo "deb [signed-by=$key] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -cs) main" |
      sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
    sudo apt-get update -qq
    sudo apt-get install -qq -y gcsfuse || die "cannot install gcsfuse"
  fi
  mountpoint -q /gcs && return
  sudo mkdir -p /gcs && sudo chown "$(id -u)" /gcs
  # implicit-dirs shows folders that other tools uploaded. rename-dir-limit: a checkpoint is written under a temporary
  # name and renamed when complete, and without a hierarchical namespace gcsfuse refuses to rename a directory with more
  # files than this. The worker's service account needs write access (tpu_vm.sh requests it with --scopes).
  gcsfuse --implicit-dirs --rename-dir-limit 100000 "$bucket" /gcs || die "cannot mount bucket $bucket at /gcs"
}

is_running() { # once exit_code exists, only the shell around the run is left
  [[ -f $state/pid && ! -f $state/exit_code ]] && kill -0 "$(<"$state/pid")" 2>/dev/null
}

start() {
  is_running && die "a run is already active on $HOSTNAME (pid $(<"$state/pid")); stop it first"
  mkdir -p "$state"
  rm -f "$state/exit_code" "$state/pid"
  # In a separate session, the run survives the end of the ssh connection.
  # shellcheck disable=SC2016 # expanded by the inner shell
  setsid nohup bash -c 'echo $$ >"$1/pid"; "${@:2}" & child=$!; trap "kill -TERM $child; interrupted=1" TERM
    while interrupted=; do wait $child; code=$?; [[ $interrupted ]] || break; done
    echo $code >"$1/exit_code.partial"; mv "$1/exit_code.partial" "$1/exit_code"' \
    slap_run "$state" "$ROOT/launch/run.sh" "$@" >>"$state/log" 2>&1 </dev/null &
  # After this, `poll` reports the run.
  for _ in {1..50}; do
    [[ -f $state/pid ]] && break
    sleep 0.1
  done
  say "started on $HOSTNAME, log in $state/log"
}

poll() {
  if [[ -f $state/exit_code ]]; then
    echo "worker ended $(<"$state/exit_code")"
  elif is_running; then
    echo "worker running"
  else
    echo "worker idle"
  fi
}

stop() {
  is_running || { say "no run on $HOSTNAME"; return; }
  kill -TERM "$(<"$state/pid")"
}

case ${1:-} in
  setup | start | poll | stop) "$@" ;;
  -h | --help) usage "${BASH_SOURCE[0]}" ;;
  *) die "unknown verb '${1:-}'; see --help" ;;
esac
