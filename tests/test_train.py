"""Complete training runs: bit-exact resume after SIGKILL and SIGTERM, one compilation, helpful errors."""

import contextlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from slap_jax.checkpoints.run import EXIT_PREEMPTED, CheckpointError, Checkpoints
from slap_jax.config.rules import ConfigError
from slap_jax.data.batches.pipeline import DataMismatchError
from slap_jax.data.preparation.prepare import prepare_records
from slap_jax.data.records import make_record
from slap_jax.data.tokenizer import TokenizerError
from slap_jax.errors import UrlError
from slap_jax.train import NonFiniteError, main
from slap_jax.training.init_from import start_from
from slap_jax.training.metrics import read_metrics
from slap_jax.training.optimizer import create_optimizer
from slap_jax.training.provenance import read_provenance
from slap_jax.training.state import create_state
from slap_jax.training.step import StepProgram
from slap_jax.training.timing import read_sessions
from tests.train_worker import config_of

pytestmark = pytest.mark.process

ROOT = Path(__file__).parent.parent
STEPS = 12


@pytest.fixture(scope="module")
def uninterrupted(train_data, tmp_path_factory) -> Path:
    """The reference run that the others must equal."""
    run_dir = tmp_path_factory.mktemp("runs") / "uninterrupted"
    config = config_of(str(train_data), STEPS)
    config.train.update(profile_start=3, profile_steps=2)
    compiled = Compilations()
    logging.getLogger("jax").addHandler(compiled)
    try:
        with jax.log_compiles():
            assert main(config, run_dir) == 0
    finally:
        logging.getLogger("jax").removeHandler(compiled)
    (run_dir.parent / "compiled.txt").write_text("\n".join(compiled.names))
    return run_dir


class Compilations(logging.Handler):
    """Collects the names of the programs that JAX compiles."""

    names: list[str]

    def __init__(self):
        super().__init__(logging.WARNING)
        self.names = []

    def emit(self, record: logging.LogRecord) -> None:
        if result := re.match(r"Compiling (\S+)", record.getMessage()):
            self.names.append(result.group(1))


def final_state(train_data: Path, run_dir: Path):
    config = config_of(str(train_data), STEPS)
    transform = create_optimizer(config.optimizer, STEPS)
    abstract = jax.eval_shape(lambda: create_state(config, transform))
    with contextlib.closing(Checkpoints(run_dir / "checkpoints", handle_signals=False)) as checkpoints:
        assert checkpoints.latest() == STEPS
        return checkpoints.restore(abstract)[:2]


def losses(run_dir: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss/total"]) for line in read_metrics(run_dir / "metrics.jsonl")]


def start_and_stop(train_data: Path, run_dir: Path, after: int, number: signal.Signals) -> int:
    """Starts a run in a process, sends the signal once step `after` is logged, returns its exit code."""
    command = [sys.executable, "-m", "tests.train_worker", str(train_data), str(run_dir), str(STEPS)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        metrics, started = run_dir / "metrics.jsonl", time.time()
        deadline = time.monotonic() + 240

        def reached() -> bool:  # the steps of this process, which are logged again
            lines = read_metrics(metrics) if metrics.exists() else []
            return any(line["step"] >= after and line["time"] > started for line in lines)

        while not reached():
            assert process.poll() is None and time.monotonic() < deadline, "the run ended before it could be stopped"
            time.sleep(0.02)
        os.kill(process.pid, number)
        return process.wait(timeout=120)
    finally:
        if process.poll() is None:
            process.kill()


def assert_equal_to_the_bit(train_data: Path, run_dir: Path, uninterrupted: Path) -> None:
    state, data_state = final_state(train_data, run_dir)
    expected, expected_data_state = final_state(train_data, uninterrupted)
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    assert data_state == expected_data_state
    assert losses(run_dir) == losses(uninterrupted)


def test_a_run_that_is_killed_then_terminated_resumes_to_the_same_bits(train_data, uninterrupted, tmp_path):
    run_dir = tmp_path / "run"
    assert start_and_stop(train_data, run_dir, after=6, number=signal.SIGKILL) == -signal.SIGKILL
    assert start_and_stop(train_data, run_dir, after=8, number=signal.SIGTERM) == EXIT_PREEMPTED
    assert main(config_of(str(train_data), STEPS), run_dir) == 0
    assert_equal_to_the_bit(train_data, run_dir, uninterrupted)
    outcomes = [start["outcome"] for start in read_provenance(run_dir)]
    assert outcomes == [None, "interrupted", "finished"]
    killed, terminated, resumed = read_sessions(run_dir / "goodput.json")
    assert killed.last_step >= terminated.restored_step
    assert terminated.last_step == resumed.restored_step  # SIGTERM loses no step
    assert resumed.last_step == STEPS
    line = read_metrics(run_dir / "metrics.jsonl")[-1]
    assert (line["run_time/repeated"] > 0) == (killed.last_step > terminated.restored_step)
    assert line["run_time/down"] > 0


def test_the_step_is_compiled_once(uninterrupted):
    compiled = (uninterrupted.parent / "compiled.txt").read_text().splitlines()
    assert compiled.count("jit(train_step)") == 1


def test_a_run_directory_holds_what_its_reader_needs(uninterrupted):
    names = {path.name for path in uninterrupted.iterdir()}
    assert {"config.json", "params.txt", "step.json", "metrics.jsonl", "goodput.json", "tensorboard"} <= names
    (start,) = read_provenance(uninterrupted)
    assert (start["first_step"], start["last_step"], start["outcome"]) == (0, STEPS, "finished")
    assert {"checkpoints", "profile"} <= names
    assert "stacks" not in names  # nothing was stuck
    assert json.loads((uninterrupted / "step.json").read_text())["bytes_per_device"]["temporaries"] > 0
    assert list(uninterrupted.glob("profile/process-0/plugins/profile/*/*.xplane.pb"))
    line = read_metrics(uninterrupted / "metrics.jsonl")[-1]
    expected = {
        "loss/contrastive",
        "loss/distillation",
        "loss/captioning",
        "gradient_norm",
        "learning_rate",
        "temperature",
    }
    expected |= {"prototype_entropy", "embedding_spread", "packing_fill", "speed/mfu"}
    expected |= {f"speed/{name}_per_s" for name in ("clips", "audio_seconds", "audio_tokens", "text_tokens")}
    expected |= {"mfu/audio_encoder", "mfu/caption_decoder", "speed/useful_share", "speed/peak_share", "goodput"}
    expected |= {f"time/{part}" for part in ("step", "data", "dispatch", "device", "checkpoint", "other")}
    expected |= {f"run_time/{reason}" for reason in ("repeated", "data", "compiling", "restoring", "down")}
    assert expected <= set(line)
    assert line["run_time/repeated"] == 0
    assert line["run_time/down"] == pytest.approx(0, abs=1e-3)  # from two clocks
    curve = losses(uninterrupted)
    assert [step for step, _ in curve] == list(range(1, STEPS + 1))
    assert curve[-1][1] < curve[0][1]


@pytest.fixture
def no_compiling(monkeypatch):
    """Fails a test that would compile the step: that takes minutes for a large model."""

    def fail(program: StepProgram) -> None:
        raise AssertionError("the step is compiled")

    monkeypatch.setattr(StepProgram, "traced", property(fail))


@pytest.mark.usefixtures("no_compiling")
def test_a_finished_run_says_so_before_it_compiles(train_data, uninterrupted, caplog):
    before = (uninterrupted / "goodput.json").read_text()
    with caplog.at_level(logging.INFO):
        assert main(config_of(str(train_data), STEPS), uninterrupted) == 0
    assert f"is finished at step {STEPS} of config.train.steps={STEPS}" in caplog.text
    assert f"slap train --run-dir {uninterrupted} --config.train.steps={2 * STEPS}" in caplog.text
    assert (uninterrupted / "goodput.json").read_text() == before


@pytest.mark.usefixtures("no_compiling")
def test_data_that_teach_nothing_are_mentioned_before_the_step_is_compiled(train_data, tmp_path, caplog):
    samples = (np.random.default_rng(0).normal(size=12_000) * 3_000).astype(np.int16)
    records = [make_record(f"c{number}", samples, ["a sound"], source="s") for number in range(7)]
    prepare_records({"train": (7, records)}, tmp_path / "same", {"s": 1}, log=lambda line: None)
    config = config_of(str(train_data), STEPS)
    config.data.train.scenes.path = str(tmp_path / "same")
    with pytest.raises(AssertionError, match="the step is compiled"):
        main(config, tmp_path / "run")
    assert "warning: all 7 training clips that were read have the same caption, 'a sound'" in caplog.text
    assert "warning: the training data are 7 clips, fewer than the " in caplog.text
    assert "warning: config.audio.mean=-5 and std=4, but the training data have" in caplog.text


@pytest.mark.usefixtures("no_compiling")
def test_another_architecture_is_refused_and_nothing_is_lost(train_data, uninterrupted, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(uninterrupted, run_dir)
    before = (run_dir / "config.json").read_text()
    config = config_of(str(train_data), STEPS)
    config.model.audio_encoder.mlp_width = 48
    with pytest.raises(CheckpointError, match=r"(?s)another architecture.*mlp.*found.*expected"):
        main(config, run_dir)
    assert (run_dir / "config.json").read_text() == before
    assert losses(run_dir) == losses(uninterrupted)


@pytest.mark.usefixtures("no_compiling")
def test_changed_data_settings_are_refused(train_data, uninterrupted, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(uninterrupted, run_dir)
    config = config_of(str(train_data), STEPS)
    config.data.max_seconds = 2.0
    with pytest.raises(DataMismatchError, match=r"config.data.max_seconds: 2.56 in the checkpoint, 2.0 now"):
        main(config, run_dir)


def test_missing_tokenizer_and_too_small_vocabulary_say_what_to_do(train_data, tmp_path):
    config = config_of(str(train_data), STEPS)
    config.data.tokenizer = str(tmp_path / "nowhere.model")
    with pytest.raises(TokenizerError, match=r"(?s)nowhere.model.*slap tokenizer"):
        main(config, tmp_path / "run")
    config = config_of(str(train_data), STEPS)
    config.model.vocab_size = 10
    with pytest.raises(ConfigError, match=r"write vocab_size=\d+ or more"):
        main(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UrlError, match=r"gs://bucket/run is a URL; mount the bucket"):
        main(config, "gs://bucket/run")


def test_too_many_bad_steps_stop_the_run_and_name_the_last_checkpoint(train_data, tmp_path):
    config = config_of(str(train_data), STEPS)
    config.optimizer.update(learning_rate=1e30, warmup_steps=0, max_bad_steps=2, clip_norm=1e30)
    for name in ("distillation", "captioning"):  # one objective fails like three, and compiles in a third of the time
        config.objectives[name].weight = 0.0
    with pytest.raises(NonFiniteError, match="2 steps in a row"):
        main(config, tmp_path / "run")


def test_a_new_run_can_start_from_another_runs_parameters(train_data, uninterrupted):
    config = config_of(str(train_data), 1)
    config.init_from = str(uninterrupted)
    config.objectives.captioning.weight = 0.0
    transform = create_optimizer(config.optimizer, 1)
    new = jax.jit(lambda: create_state(config, transform))()
    state = start_from(new, config)
    expected, _ = final_state(train_data, uninterrupted)
    jax.tree.map(np.testing.assert_array_equal, state.params["model"], expected.params["model"])
    distillation = expected.params["objectives"]["distillation"]
    jax.tree.map(np.testing.assert_array_equal, state.params["objectives"]["distillation"], distillation)
    assert "captioning" not in state.params["objectives"]
    # The teacher starts as a copy of the parameters, as in a run from scratch.
    teacher = state.teacher["model"]["audio_encoder"]
    jax.tree.map(np.testing.assert_array_equal, teacher, state.params["model"]["audio_encoder"])
    assert int(state.step) == 0
    config.model.audio_encoder.mlp_width = 48
    other = jax.jit(lambda: create_state(config, create_optimizer(config.optimizer, 1)))()
    with pytest.raises(ConfigError, match=r"config.init_from=.*has shape"):
        start_from(other, config)
