"""Metrics: one step late, readable after a kill, no step twice after a resume.

Speed between two readings: counts per second, and the parts of a step's time.
"""

import io
import json

import jax
import jax.numpy as jnp
import pytest
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]  (made at run time)

from slap_jax.training.flops import train_step_flops
from slap_jax.training.metrics import FILE_NAME, MetricsError, MetricWriter, Throughput, drop_after, read_metrics
from slap_jax.training.timing import StepTimer
from tests.tiny import tiny_config


@jax.jit
def _step(x: jax.Array) -> dict[str, jax.Array]:
    return {"loss/total": x, "clips": jnp.float32(3.0), "audio_seconds": jnp.float32(10.0)}


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _writer(path, **settings) -> MetricWriter:
    return MetricWriter(path, **{"tensorboard": False, "stream": io.StringIO()} | settings)


@pytest.mark.compile
def test_metrics_come_one_step_late_and_without_implicit_transfers(tmp_path):
    x = jax.device_put(2.0)
    with jax.transfer_guard("disallow"), _writer(tmp_path, total_steps=3) as writer:
        assert writer.write(1, _step(x)) is None
        assert read_metrics(tmp_path / FILE_NAME) == []
        assert writer.write(2, _step(x)) == {"loss/total": 2.0, "clips": 3.0, "audio_seconds": 10.0}
        assert [line["step"] for line in read_metrics(tmp_path / FILE_NAME)] == [1]
        writer.write(3, _step(x))
    assert [line["step"] for line in read_metrics(tmp_path / FILE_NAME)] == [1, 2, 3]


def test_write_does_not_wait_for_the_step_just_dispatched(tmp_path):
    class Scalar:
        """A device scalar that is not available before the next step is dispatched."""

        finished = False

        def __float__(self) -> float:
            assert self.finished, "read before the next step was dispatched"
            return 2.0

    second = Scalar()
    with _writer(tmp_path) as writer:
        writer.write(1, {"loss/total": 1.0})
        assert writer.write(2, {"loss/total": second}) == {"loss/total": 1.0}
        second.finished = True
        assert writer.write(3, {"loss/total": 3.0}) == {"loss/total": 2.0}


@pytest.mark.compile
def test_non_finite_values_are_null_in_the_file_and_seen_by_the_loop(tmp_path):
    with _writer(tmp_path) as writer:
        writer.write(1, {"loss/total": jnp.float32(jnp.nan), "gradient_norm": jnp.float32(jnp.inf)})
        values = writer.flush()
    assert values is not None
    assert values["gradient_norm"] == float("inf")
    (line,) = (tmp_path / FILE_NAME).read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail)["loss/total"] is None


def test_lines_at_log_every_and_at_both_ends(tmp_path):
    with _writer(tmp_path, total_steps=7, log_every=3) as writer:
        for step in range(1, 8):
            writer.write(step, {"loss/total": float(step)})
    assert [line["step"] for line in read_metrics(tmp_path / FILE_NAME)] == [1, 3, 6, 7]


def test_resume_drops_later_lines_and_a_line_cut_off_by_a_kill(tmp_path):
    path = tmp_path / FILE_NAME
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in range(1, 7)) + '{"step": 7, "lo')
    with _writer(tmp_path, restored_step=4) as writer:
        writer.write(5, {"loss/total": 1.0})
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3, 4, 5]
    assert read_metrics(path)[-1]["loss/total"] == 1.0


def test_reading_tolerates_a_truncated_last_line_but_not_damage_before_it(tmp_path):
    path = tmp_path / FILE_NAME
    path.write_text('{"step": 1}\n{"step": 2, "loss')
    assert read_metrics(path) == [{"step": 1}]
    path.write_text('{"step": 1}\n{"step": 2, "loss\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl.*line 2"):
        read_metrics(path)


@pytest.mark.parametrize("line", ["7", "null", "[]", '{"loss": 1.0}', '{"step": "x"}', '{"step": 2, "loss": "high"}'])
def test_a_line_that_is_not_of_metrics_is_named(tmp_path, line):
    (tmp_path / FILE_NAME).write_text(f'{{"step": 1, "loss": null}}\n{line}\n')
    with pytest.raises(MetricsError, match=r"metrics.jsonl: line 2 is not a step with numbers: .*; delete that line"):
        read_metrics(tmp_path / FILE_NAME)


def test_drop_after_without_a_file_does_nothing(tmp_path):
    drop_after(tmp_path / FILE_NAME, 3)
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_holds_every_step_once_after_a_resume(tmp_path):
    for restored, steps in ((0, range(1, 6)), (3, range(4, 8))):
        with _writer(tmp_path, tensorboard=True, restored_step=restored) as writer:
            for step in steps:
                writer.write(step, {"loss/total": float(step + 100 * restored)})
    events = _visible_events(tmp_path / "tensorboard")
    assert events == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 304.0), (5, 305.0), (6, 306.0), (7, 307.0)]


def _visible_events(directory) -> list[tuple[int, float]]:
    """What TensorBoard shows: a session start at step s hides the events of s and later written before it."""
    shown: list[tuple[int, float]] = []
    for file in sorted(directory.iterdir(), key=lambda file: file.stat().st_mtime_ns):
        data, at = file.read_bytes(), 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + size])
            at += 16 + size
            if event.WhichOneof("what") == "session_log":
                shown = [(step, value) for step, value in shown if step < event.step]
            values = [value for value in event.summary.value if value.tag == "loss/total"]
            shown += [(event.step, value.simple_value) for value in values]
    return shown


COUNTS = {"clips": 4.0, "audio_tokens": 100.0, "audio_tokens_squared": 2_500.0, "text_tokens": 30.0}
COUNTS |= {"text_tokens_squared": 250.0, "cross_tokens": 800.0, "audio_local_pairs": 900.0, "text_local_pairs": 200.0}


def test_speeds_mfu_and_the_time_of_a_step_are_in_the_line(tmp_path):
    now = [10.0]
    timer = StepTimer(clock=lambda: now[0])
    timer.enter("other")
    with _writer(tmp_path, timer=timer, throughput=Throughput(timer, tiny_config(), peak_flops=1e9)) as writer:
        writer.write(1, COUNTS)
        writer.write(2, COUNTS)
        now[0] += 1.5
        with timer.during("data"):
            now[0] += 0.5
    first, last = read_metrics(tmp_path / FILE_NAME)
    assert not [name for name in first if name.startswith(("speed/", "time/", "mfu/"))]
    assert last["speed/clips_per_s"] == 2.0
    assert last["time/data"] == 0.5
    assert last["speed/mfu"] == pytest.approx(train_step_flops(tiny_config(), COUNTS) / 2.0 / 1e9)
    assert sum(value for name, value in last.items() if name.startswith("mfu/")) == pytest.approx(last["speed/mfu"])


def test_waiting_for_the_metrics_of_a_step_is_time_of_the_devices(tmp_path):
    now = [0.0]

    class Scalar:
        def __float__(self) -> float:
            now[0] += 3.0
            return 1.0

    timer = StepTimer(clock=lambda: now[0])
    timer.enter("other")
    with _writer(tmp_path, timer=timer) as writer:
        for step in range(1, 4):
            writer.write(step, {"loss/total": Scalar()})
    assert timer.seconds()["device"] == 9.0
    assert read_metrics(tmp_path / FILE_NAME)[-1]["time/device"] == 3.0


def test_gauges_add_metrics_to_every_line(tmp_path):
    gauges = (lambda step: {"memory/peak_gib": 2.0}, lambda step: {"goodput": step / 10})
    with _writer(tmp_path, gauges=gauges) as writer:
        writer.write(1, {"loss/total": 1.0})
        writer.write(2, {"loss/total": 1.0})
    lines = read_metrics(tmp_path / FILE_NAME)
    assert [(line["memory/peak_gib"], line["goodput"]) for line in lines] == [(2.0, 0.1), (2.0, 0.2)]


@pytest.mark.parametrize(("waited", "told"), [(0.05, False), (0.5, True)])
def test_a_run_that_waits_for_data_says_so(tmp_path, waited, told):
    stream, now = io.StringIO(), [0.0]
    timer = StepTimer(clock=lambda: now[0])
    timer.enter("other")
    with _writer(tmp_path, stream=stream, timer=timer) as writer:
        for step in (1, 2, 3):
            with timer.during("data"):
                now[0] += waited
            now[0] += 1 - waited
            writer.write(step, {"loss/total": 1.0})
    assert ("waiting for data 50%" in stream.getvalue()) == told


def test_plain_lines_away_from_a_terminal(tmp_path):
    stream = io.StringIO()
    with _writer(tmp_path, total_steps=4, log_every=2, stream=stream) as writer:
        for step in range(1, 5):
            writer.write(step, {"loss/total": 1.5, "audio_seconds": 9.0})
    lines = stream.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 1/4", "step 2/4", "step 4/4"]
    assert "loss/total 1.5000" in lines[1]
    assert "s of audio/s" in lines[1]
    assert "left" in lines[1]
    assert "\r" not in stream.getvalue()


def test_bar_on_a_terminal(tmp_path):
    stream = _Terminal()
    with _writer(tmp_path, total_steps=4, restored_step=1, stream=stream) as writer:
        for step in range(2, 5):
            writer.write(step, {"loss/total": 1.5})
    last = stream.getvalue().split("\r")[-1]
    assert "4/4" in last
    assert "loss 1.500" in last


def test_other_processes_fetch_but_write_nothing(tmp_path):
    with _writer(tmp_path / "run", enabled=False) as writer:
        writer.write(1, {"bad_steps": 2.0})
        assert writer.write(2, {"bad_steps": 3.0}) == {"bad_steps": 2.0}
        writer.write_scalars(2, {"evaluation/r1": 0.5})
    assert not (tmp_path / "run").exists()


def test_evaluation_results_are_a_line_of_their_own(tmp_path):
    with _writer(tmp_path) as writer:
        writer.write(1, {"loss/total": 1.0})
        writer.flush()
        writer.write_scalars(1, {"evaluation/scenes/t2a_r1": 0.25})
    lines = read_metrics(tmp_path / FILE_NAME)
    assert [line.get("evaluation/scenes/t2a_r1") for line in lines] == [None, 0.25]


class Clock:
    """A clock that advances only on request."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds


def test_speed_counts_only_the_time_between_steps():
    clock = Clock()
    timer = StepTimer(clock)
    throughput = Throughput(timer)
    clock.passes(60)  # compilation
    timer.enter("other")
    clock.passes(1)  # the first step
    throughput.add({"clips": 5})
    assert throughput.read() == {}
    clock.passes(2)
    throughput.add({"clips": 6})
    with timer.during("evaluation"):
        clock.passes(100)
    clock.passes(2)
    throughput.add({"clips": 10})
    read = throughput.read()
    assert read["speed/clips_per_s"] == 4.0
    assert read["speed/steps_per_s"] == 0.5
    assert read["time/step"] == 2.0
    assert throughput.read() == {}


def test_the_parts_of_a_step_add_up_to_it():
    clock = Clock()
    timer = StepTimer(clock)
    throughput = Throughput(timer)
    timer.enter("other")
    throughput.add({})
    spent = {"data": 0.5, "dispatch": 0.25, "device": 2.0}
    for _ in range(4):
        for part, seconds in spent.items():
            with timer.during(part):
                clock.passes(seconds)
        clock.passes(0.125)
        throughput.add({})
    with timer.during("checkpoint"):
        clock.passes(4)
    read = throughput.read()
    assert {name: value for name, value in read.items() if name.startswith("time/")} == {
        "time/step": 3.875,
        "time/data": 0.5,
        "time/dispatch": 0.25,
        "time/device": 2.0,
        "time/checkpoint": 1.0,
        "time/other": 0.125,
    }
    assert sum(read[f"time/{part}"] for part in (*spent, "checkpoint", "other")) == pytest.approx(read["time/step"])
