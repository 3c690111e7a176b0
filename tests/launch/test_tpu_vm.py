"""A TPU slice from request to end, with a stand-in for gcloud that keeps states and runs commands of workers here."""

import os
from pathlib import Path

import pytest

from slap_jax.checkpoints.run import EXIT_PREEMPTED
from tests.launch.scripts import LAUNCH, TRAIN, launch, lines, program

pytestmark = pytest.mark.process


# The state of the slice is the first line of `states`, which moves on with each look at it; none: there is no slice.
# A worker is a home directory with a link to this checkout's launch/, and a program in place of Python.
GCLOUD = r"""
home=$FAKE/worker
echo "gcloud $*" >>"$FAKE/called"
case "$*" in
  *queued-resources\ create*) cp "$FAKE/states_after_request" "$FAKE/states"; rm -rf "$home/slap_run" ;;
  *queued-resources\ delete*) : >"$FAKE/states" ;;
  *queued-resources\ describe*)
    head -n 1 "$FAKE/states"
    [[ $(wc -l <"$FAKE/states") -gt 1 ]] && sed -i 1d "$FAKE/states"
    [[ -s $FAKE/states ]] ;;
  *tpu_worker.sh\ setup*) exit "${SETUP_CODE:-0}" ;;
  *tpu_worker.sh*)
    for argument in "$@"; do [[ $argument == --command=* ]] && command=${argument#--command=}; done
    cd "$home" && HOME=$home bash -c "$command" ;;
  *tail\ -n*) sleep 1 ;;
esac
"""


@pytest.fixture
def cloud(tmp_path) -> Path:
    """No slice yet; a requested slice exists at once."""
    program(tmp_path / "bin" / "gcloud", GCLOUD)
    (tmp_path / "states").write_text("")
    (tmp_path / "states_after_request").write_text("WAITING_FOR_RESOURCES\nACTIVE\n")
    worker = tmp_path / "worker" / "slap_jax"
    worker.mkdir(parents=True)
    (worker / "launch").symlink_to(LAUNCH)
    return tmp_path


def up(cloud: Path, training: str, *options: str, **variables: str) -> tuple[int, str, list[str]]:
    """Runs `up` with `training` in place of Python; returns exit code, what was said, and the verbs of gcloud used."""
    python = program(cloud / "python", f'echo start >>"{cloud}/started"\n{training}')
    # tpu_worker.sh gives run.sh what follows: the program that stands for Python among it.
    program(cloud / "bin" / "python3", f'exec "{python}" "$@"')
    arguments = ("pod", "--zone", "z", "--type", "v5p-16", "--poll", "1", "--log-dir", str(cloud / "logs"), *options)
    path = f"{cloud}/bin:{os.environ['PATH']}"
    ended = launch("tpu_vm.sh", "up", *arguments, "--", *TRAIN, PATH=path, FAKE=str(cloud), **variables)
    verbs = []
    for line in lines(cloud / "called"):
        for verb in ("create", "delete", "setup", "start", "stop"):
            if f"queued-resources {verb}" in line or f"tpu_worker.sh {verb}" in line:
                verbs.append(verb)
    return ended.returncode, ended.stdout + ended.stderr, verbs


def test_a_run_from_request_to_end(cloud):
    code, said, verbs = up(cloud, "echo trained")
    assert code == 0, said
    assert verbs == ["create", "setup", "start"]
    assert "waiting for pod: WAITING_FOR_RESOURCES" in said
    assert "still costs money" in said
    log = (cloud / "worker" / "slap_run" / "log").read_text()
    assert "trained" in log and "platform tpu" in log


def test_a_run_that_saved_resumes_in_place(cloud):
    code, said, verbs = up(cloud, f'[[ $(wc -l <"{cloud}/started") -ge 2 ]] || exit {EXIT_PREEMPTED}')
    assert code == 0, said
    assert lines(cloud / "started") == ["start", "start"]
    assert verbs.count("create") == 1 and "delete" not in verbs


def test_an_error_ends_it_and_gives_the_slice_back_if_asked(cloud):
    code, said, verbs = up(cloud, "exit 5", "--delete")
    assert code == 5
    assert lines(cloud / "started") == ["start"]
    assert verbs == ["create", "setup", "start", "delete"]
    assert "ended with exit code 5" in said


def test_a_slice_that_was_taken_away_is_requested_again(cloud):
    # With the slice, all that was on its workers goes.
    training = f"""
    if [[ $(wc -l <"{cloud}/started") == 1 ]]; then
      sleep 0.5
      echo SUSPENDED >"{cloud}/states"
      rm -rf "{cloud}/worker/slap_run"
    fi"""
    code, said, verbs = up(cloud, training, "--spot")
    assert code == 0, said
    assert "pod was preempted" in said
    assert verbs == ["create", "setup", "start", "delete", "create", "setup", "start"]


def test_what_cannot_be_had_is_requested_a_limited_number_of_times(cloud):
    (cloud / "states_after_request").write_text("FAILED\n")
    code, said, verbs = up(cloud, "true", "--restarts", "1", "--poll", "0")
    assert code == 2
    assert verbs == ["create", "delete", "create", "delete"]
    assert "pod is not available" in said


def test_workers_that_cannot_be_set_up_start_nothing(cloud):
    code, said, verbs = up(cloud, "true", "--delete", SETUP_CODE="1")
    assert code == 2
    assert verbs == ["create", "setup", "delete"]
    assert "cannot set up the workers" in said


def test_stop_reaches_training_through_the_worker(cloud):
    training = f'trap "exit {EXIT_PREEMPTED}" TERM; while true; do sleep 0.05; done'
    python = program(cloud / "bin" / "python3", training)
    worker = {"HOME": str(cloud / "worker"), "PATH": f"{python.parent}:{os.environ['PATH']}"}
    assert launch("tpu_worker.sh", "start", "--platform", "cpu", "--", *TRAIN, **worker).returncode == 0
    assert launch("tpu_worker.sh", "poll", **worker).stdout == "worker running\n"
    again = launch("tpu_worker.sh", "start", "--platform", "cpu", "--", *TRAIN, **worker)
    assert again.returncode == 2 and "a run is already active" in again.stderr
    launch("tpu_worker.sh", "stop", **worker)
    while (said := launch("tpu_worker.sh", "poll", **worker).stdout) == "worker running\n":
        pass
    assert said == f"worker ended {EXIT_PREEMPTED}\n"
