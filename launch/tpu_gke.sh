#!/usr/bin/env bash
# Trains on TPU slices of a GKE cluster with xpk: builds the image, starts the workload, and follows its log.
#
#   launch/tpu_gke.sh start NAME --cluster C --zone Z --type T --image I [OPTIONS] -- train --config FILE.py[:ARG] --run-dir DIR
#
#   image    build launch/Dockerfile.tpu and push it as --image
#   start    start the workload NAME                      logs     follow the log of its first worker
#   status   print the states of all workloads            stop     save a checkpoint, stop, and delete the workload
#
# Options:
#   --cluster C, --zone Z, --project P   a cluster created with `xpk cluster create`
#   --type T            TPU type of a slice: v5litepod-16, v5p-16, v6e-16 ...
#   --slices N          number of slices for one run (1)
#   --image I           image name, such as us-docker.pkg.dev/PROJECT/REPOSITORY/slap-jax:TAG
#   --storage NAME      bucket attached with `xpk storage attach`; paths in the command use its mount point
#   --priority P        very-low, low, medium, high or very-high (medium)
#   --restarts N        how often to resume after preemption (20)
#   --preflight         check versions, devices, network and data first
#   --dry-run           print the commands
#
# GKE restarts all workers when one is preempted or ends with exit code 83 or 84. An error of slap (1, 2) is final.
#
# Example:
#   xpk storage attach slap-bucket --cluster c --project p --zone us-west4-a --type gcsfuse --bucket my-bucket \
#     --mount-point /gcs --readonly=false --auto-mount=false
#   launch/tpu_gke.sh image slap-base --image us-docker.pkg.dev/p/r/slap-jax:1
#   launch/tpu_gke.sh start slap-base --cluster c --project p --zone us-west4-a --type v5litepod-16 \
#     --image us-docker.pkg.dev/p/r/slap-jax:1 --storage slap-bucket -- \
#     train --config configs/slap_base.py:data=/gcs/data --run-dir /gcs/runs/slap_base
set -uo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PROGRAM=tpu_gke.sh
# shellcheck source=launch/common.sh
source "$ROOT/launch/common.sh"

case ${1:-} in
  -h | --help | '') usage "${BASH_SOURCE[0]}"; exit ;;
esac
verb=$1 name=${2:-}
[[ $name && $name != -* ]] || die "write the name of the workload after $verb; see --help"
shift 2
cluster='' zone='' project='' type='' slices=1 image='' storage='' priority='' restarts=20 options=()
while [[ $# -gt 0 ]]; do
  case $1 in
    --cluster) cluster=$(value "$@") || exit; shift ;;
    --zone) zone=$(value "$@") || exit; shift ;;
    --project) project=$(value "$@") || exit; shift ;;
    --type) type=$(value "$@") || exit; shift ;;
    --slices) slices=$(value "$@") || exit; shift ;;
    --image) image=$(value "$@") || exit; shift ;;
    --storage) storage=$(value "$@") || exit; shift ;;
    --priority) priority=$(value "$@") || exit; shift ;;
    --restarts) restarts=$(value "$@") || exit; shift ;;
    --preflight) options+=(--preflight) ;;
    --dry-run) DRY_RUN=1 ;;
    -h | --help) usage "${BASH_SOURCE[0]}"; exit ;;
    --) shift; break ;;
    *) die "unknown option $1; see --help" ;;
  esac
  shift
done
number --slices "$slices"
number --restarts "$restarts"
where=()
if [[ $verb != image ]]; then
  [[ $cluster ]] || die "--cluster is missing; write the name of a cluster created with \`xpk cluster create\`"
  [[ $zone ]] || die "--zone is missing; write the zone of the cluster"
  where=(--cluster "$cluster" --zone "$zone")
  [[ $project ]] && where+=(--project "$project")
fi

image() {
  need docker "see https://docs.docker.com/engine/install"
  [[ $image ]] || die "--image is missing; write a name such as us-docker.pkg.dev/PROJECT/REPOSITORY/slap-jax:TAG"
  run docker build --file "$ROOT/launch/Dockerfile.tpu" --tag "$image" "$ROOT" || return
  run docker push "$image"
}

start() {
  need xpk "pip install xpk"
  [[ $type ]] || die "--type is missing; write the TPU type of a slice, such as v5litepod-16"
  [[ $image ]] || die "--image is missing; write the image that \`launch/tpu_gke.sh image\` pushed"
  # --restart-on-exit-codes: by default xpk restarts only after 42 and 127 to 255.
  # --termination-grace-period-seconds: the time to save; the default of 30 s can be too short.
  local arguments=(--workload "$name" "${where[@]}" --tpu-type "$type" --num-slices "$slices" --docker-image "$image"
    --max-restarts "$restarts" --restart-on-exit-codes "$EXIT_PREEMPTED,$EXIT_LOST" --termination-grace-period-seconds 300)
  [[ $storage ]] && arguments+=(--storage "$storage")
  [[ $priority ]] && arguments+=(--priority "$priority")
  # exec: the pod's SIGTERM must reach run.sh, not a shell around it.
  run xpk workload create "${arguments[@]}" \
    --command "exec launch/run.sh $(quoted --platform tpu --gke --slices "$slices" "${options[@]}" -- "$@")"
}

logs() {
  need kubectl "gcloud components install kubectl, then: gcloud container clusters get-credentials $cluster"
  # The first worker of the first slice. For the others: kubectl get pods, then kubectl logs POD.
  run kubectl logs --follow --tail 200 \
    --selector "jobset.sigs.k8s.io/jobset-name=$name,batch.kubernetes.io/job-completion-index=0,jobset.sigs.k8s.io/job-index=0"
}

case $verb in
  start) need_command "$@"; start "$@" ;;
  image | logs) "$verb" ;;
  status)
    need xpk "pip install xpk"
    run xpk workload list "${where[@]}"
    ;;
  stop)
    need xpk "pip install xpk"
    run xpk workload delete --workload "$name" "${where[@]}"
    ;;
  *) die "unknown verb $verb; see --help" ;;
esac
