"""Every launch script parses, has a help text and a dry run, and rejects impossible options."""

import re
import subprocess

import pytest

from slap_jax.checkpoints.run import EXIT_PREEMPTED
from slap_jax.parallel.process_group import EXIT_LOST
from tests.launch.scripts import LAUNCH, TRAIN, launch

pytestmark = pytest.mark.process

SCRIPTS = sorted(path.name for path in LAUNCH.iterdir() if path.suffix in (".sh", ".sbatch"))
COMMANDS = [name for name in SCRIPTS if name not in ("common.sh", "xla_flags.sh")]
UP = ("up", "pod", "--zone", "us-west4-a", "--type", "v5litepod-16", "--bucket", "mine", "--dry-run")
START = ("start", "job", "--cluster", "c", "--zone", "z", "--type", "v5p-16", "--image", "host/i:1", "--dry-run")


@pytest.mark.parametrize("name", SCRIPTS)
def test_bash_can_read_it(name):
    checked = subprocess.run(["bash", "-n", str(LAUNCH / name)], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_how_it_is_started(name):
    shown = launch(name, "--help")
    assert shown.returncode == 0
    assert len(shown.stdout.splitlines()) > 5
    assert re.search(rf"{re.escape(name)} .*(train|start|setup)", shown.stdout)
    assert "shellcheck" not in shown.stdout


def test_exit_codes_are_those_of_the_package():
    common = (LAUNCH / "common.sh").read_text()
    assert f"\nEXIT_PREEMPTED={EXIT_PREEMPTED}\n" in common
    assert f"\nEXIT_LOST={EXIT_LOST}\n" in common


def test_a_slice_is_requested_set_up_and_started_on_all_workers():
    shown = launch("tpu_vm.sh", *UP, "--spot", "--", *TRAIN, "--config.train.steps=7").stdout.splitlines()
    request, *rest = [line for line in shown if line.startswith("gcloud")]
    assert request.startswith("gcloud compute tpus queued-resources create pod --zone us-west4-a")
    assert "--accelerator-type v5litepod-16 --runtime-version v2-alpha-tpuv5-lite" in request
    assert "--spot" in request and "--node-id pod" in request
    setup = next(line for line in rest if "tpu_worker.sh setup" in line)
    assert "--worker=all" in setup and setup.endswith("setup --bucket mine'")
    start = next(line for line in rest if "tpu_worker.sh start" in line)
    assert "--worker=all" in start
    assert f"--platform tpu --tpu-vm --slices 1 -- {' '.join(TRAIN)} --config.train.steps=7'" in start
    copy = next(line for line in rest if " scp " in line)
    assert "pod:slap_jax.tgz" in copy and "--worker=all" in copy


def test_several_slices_are_one_request_and_one_run():
    shown = launch("tpu_vm.sh", *UP, "--slices", "2", "--", *TRAIN).stdout.splitlines()
    assert any("--node-count 2 --node-prefix pod" in line for line in shown)
    starts = [line for line in shown if "tpu_worker.sh start" in line]
    assert [line.split()[5] for line in starts] == ["pod-0", "pod-1"]
    assert all("--slices 2" in line for line in starts)


def test_a_workload_restarts_on_our_exit_codes():
    shown = launch("tpu_gke.sh", *START, "--storage", "s", "--", *TRAIN).stdout
    assert "xpk workload create --workload job --cluster c --zone z --tpu-type v5p-16 --num-slices 1" in shown
    assert f"--restart-on-exit-codes {EXIT_PREEMPTED},{EXIT_LOST}" in shown
    assert "--storage s" in shown
    assert f"--command 'exec launch/run.sh --platform tpu --gke --slices 1 -- {' '.join(TRAIN)}'" in shown


def test_an_image_is_built_and_pushed():
    shown = launch("tpu_gke.sh", "image", "job", "--image", "host/i:1", "--dry-run").stdout.splitlines()
    assert shown[0].startswith("docker build --file ") and shown[0].endswith(str(LAUNCH.parent))
    assert "launch/Dockerfile.tpu --tag host/i:1" in shown[0]
    assert shown[1] == "docker push host/i:1"


def test_slurm_starts_one_process_per_node_with_all_its_cores():
    shown = launch("gpu_slurm.sbatch", "--dry-run", *TRAIN, SLURM_CPUS_ON_NODE="96").stdout
    assert "srun --label --cpu-bind=none --cpus-per-task 96 bash" in shown
    assert "scontrol requeue" in shown
    directives = re.findall(r"^#SBATCH --(\S+)", (LAUNCH / "gpu_slurm.sbatch").read_text(), re.M)
    assert {"ntasks-per-node=1", "requeue", "signal=B:USR1@600"} <= set(directives)
    assert not any(directive.startswith(("gpus-per-task", "gpu-bind")) for directive in directives)


def test_a_path_with_a_space_stays_one_word():
    shown = launch("gpu_single.sh", "--dry-run", "--", "train", "--config", "my configs/c.py", "--run-dir", "r").stdout
    assert "--config 'my configs/c.py' --run-dir r" in shown


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("gpu_single.sh", (), "nothing to run"),
        ("gpu_single.sh", ("--processes", "two", "--", *TRAIN), "--processes is 'two'; write a number"),
        ("gpu_single.sh", ("--platform", "tpu", "--", *TRAIN), "write gpu or cpu"),
        ("gpu_single.sh", ("--log-dir",), "--log-dir needs a value"),
        ("run.sh", ("--coordinator", "host:1", "--", *TRAIN), "go together"),
        ("run.sh", ("--platform", "ipu", "--", *TRAIN), "write tpu, gpu or cpu"),
        ("run.sh", ("--wrong", "--", *TRAIN), "unknown option --wrong"),
        ("gpu_slurm.sbatch", TRAIN, "start this file with sbatch"),
        ("tpu_vm.sh", ("up", "pod", "--", *TRAIN), "--zone is missing"),
        ("tpu_vm.sh", ("up", "pod", "--zone", "z", "--dry-run", "--", *TRAIN), "--type is missing"),
        ("tpu_vm.sh", ("up", "pod", "--zone", "z", "--type", "v99-8", "--dry-run", "--", *TRAIN), "--runtime-version"),
        ("tpu_vm.sh", ("fly", "pod", "--zone", "z", "--dry-run"), "unknown verb fly"),
        ("tpu_gke.sh", ("start", "job", "--zone", "z", "--dry-run", "--", *TRAIN), "--cluster is missing"),
        ("tpu_worker.sh", ("fly",), "unknown verb 'fly'"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(script, arguments, message):
    refused = launch(script, *arguments)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
