"""Metrics: one step late, readable after a kill, no step twice after a resume."""

import io
import json

import jax
import jax.numpy as jnp
import pytest
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]  (made at run time)

from slap_jax.metrics import FILE_NAME, MetricWriter, Speed, drop_after, read_metrics


@jax.jit
def _step(x: jax.Array) -> dict[str, jax.Array]:
    return {"loss/total": x, "clips": jnp.float32(3.0), "audio_seconds": jnp.float32(10.0)}


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _writer(path, **settings) -> MetricWriter:
    return MetricWriter(path, **{"tensorboard": False, "stream": io.StringIO()} | settings)


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
        """Stands for a device scalar that is not there before the next step is dispatched."""

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


def test_speed_counts_only_the_time_between_steps():
    now = [0.0]
    speed = Speed(clock=lambda: now[0])
    now[0] = 60.0  # compilation
    speed.add({"clips": 5})
    assert speed.read() == {}
    now[0] = 62.0
    speed.add({"clips": 6})
    with speed.pause():
        now[0] = 162.0
    now[0] = 164.0
    speed.add({"clips": 10})
    assert speed.read() == {"speed/clips_per_s": 4.0, "speed/steps_per_s": 0.5}
    assert speed.read() == {}


def test_mfu_is_the_share_of_the_peak(tmp_path):
    clock = iter([10.0, 12.0]).__next__
    flops = {"step_flops": lambda metrics: 50.0 * metrics["clips"], "peak_flops": 1_000.0}
    with _writer(tmp_path, clock=clock, **flops) as writer:
        writer.write(1, {"clips": 4.0})
        writer.write(2, {"clips": 4.0})
    last = read_metrics(tmp_path / FILE_NAME)[-1]
    assert last["speed/mfu"] == pytest.approx(200.0 / 2.0 / 1_000.0)


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
        with writer.pause():
            writer.write_scalars(1, {"evaluation/scenes/t2a_r1": 0.25})
    lines = read_metrics(tmp_path / FILE_NAME)
    assert [line.get("evaluation/scenes/t2a_r1") for line in lines] == [None, 0.25]
