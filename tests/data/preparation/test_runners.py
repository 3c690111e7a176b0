"""Preparation in several processes, and the files that remain after a kill or an interrupt.

Preparation as an Apache Beam pipeline writes the same bytes as local preparation.
"""

import functools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from slap_jax.data.preparation.prepare import prepare
from slap_jax.data.preparation.runners import BeamError, WorkerKilledError, run_beam
from slap_jax.data.preparation.shards import ShardError
from slap_jax.data.records import open_split
from tests.data.tiny_data import encoded, write_manifest, write_tone

pytestmark = pytest.mark.process

CLIPS, CLIPS_PER_SHARD = 16, 2


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    """Returns a manifest of clips that take about a tenth of a second each to resample and compress."""
    folder = tmp_path_factory.mktemp("clips")
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, (40 * 44_100, 2)).astype(np.float32)
    (folder / "0.wav").write_bytes(encoded(noise, 44_100))
    for index in range(1, CLIPS):
        os.link(folder / "0.wav", folder / f"{index}.wav")
    return write_manifest(folder, [{"path": f"{index}.wav", "caption": "noise"} for index in range(CLIPS)])


@pytest.fixture(scope="module")
def undisturbed(manifest, tmp_path_factory) -> dict[str, bytes]:
    output = tmp_path_factory.mktemp("undisturbed")
    prepare(manifest, output, clips_per_shard=CLIPS_PER_SHARD, workers=1, log=lambda line: None)
    return contents(output)


def contents(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in output.glob("*/*/*.array_record-*")}


def finished(output: Path) -> dict[str, tuple[int, int]]:
    """Returns inode and time of change of the shards that count as finished."""
    summaries = {path.stem for path in output.glob(".staging/*/summaries/slap*.npz")}
    shards = [path for path in output.glob(".staging/*/shards/slap*") if path.name in summaries]
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in shards}


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)


def start(manifest: Path, output: Path) -> subprocess.Popen[str]:
    words = ["prepare", str(manifest), str(output), "--shard-records", str(CLIPS_PER_SHARD), "--workers", "2"]
    # As from a terminal. A shell makes its background jobs ignore Ctrl-C, and their children inherit that.
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from slap_jax.cli import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", program, *words]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def test_a_killed_preparation_is_resumed(manifest, undisturbed, tmp_path):
    process = start(manifest, tmp_path)
    wait_for(lambda: len(finished(tmp_path)) >= 3)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)  # ends when the workers, which have the same stderr, have ended too
    kept = finished(tmp_path)
    assert 3 <= len(kept) < CLIPS / CLIPS_PER_SHARD and not contents(tmp_path)
    prepared = prepare(manifest, tmp_path, clips_per_shard=CLIPS_PER_SHARD, workers=2, log=lambda line: None)
    assert prepared.clips == {"train": CLIPS} and contents(tmp_path) == undisturbed
    published = {path.name: path.stat() for path in tmp_path.glob("*/*/*.array_record-*")}
    assert kept == {name: (published[name].st_ino, published[name].st_mtime_ns) for name in kept}
    assert [path.name for path in tmp_path.iterdir()] == ["slap_clips"]
    assert [record.id for record in open_split(tmp_path, "train")] == [f"{index}.wav" for index in range(CLIPS)]


def workers(parent: int) -> list[psutil.Process]:
    """Returns the worker processes, those that still import their modules too."""
    return [
        child for child in psutil.Process(parent).children() if any("spawn_main" in word for word in child.cmdline())
    ]


@pytest.mark.parametrize("moment", ["workers start", "workers work"])
def test_ctrl_c_ends_quietly_and_leaves_no_partial_file(manifest, tmp_path, moment):
    process = start(manifest, tmp_path)
    wait_for(lambda: workers(process.pid) if moment == "workers start" else finished(tmp_path))
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in error
    assert {path.name for path in tmp_path.glob(".staging/*/shards/*")} == set(finished(tmp_path))


def test_a_killed_worker_is_one_clear_error(manifest, tmp_path):
    def kill_a_worker():
        wait_for(lambda: finished(tmp_path))
        worker = multiprocessing.active_children()[0]
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_a_worker)
    killer.start()
    with pytest.raises(WorkerKilledError, match=r"a worker process was killed, probably .* with fewer --workers"):
        prepare(manifest, tmp_path, clips_per_shard=CLIPS_PER_SHARD, workers=2, log=lambda line: None)
    killer.join()
    assert finished(tmp_path) and not multiprocessing.active_children()


@pytest.fixture
def beam_manifest(tmp_path) -> Path:
    """Returns a manifest of eight tones and a text file, in two splits."""
    names = [write_tone(tmp_path / "in" / f"{index}.wav", 0.1, frequency=200.0 + 10 * index) for index in range(9)]
    (tmp_path / "in" / "4.wav").write_text("no audio")
    lines = [{"path": name, "caption": name, "split": "test" if name > "6" else "train"} for name in names]
    return write_manifest(tmp_path / "in", lines)


def quiet(beam_manifest: Path, output: Path, *flags: str, **settings: Any):
    runner = functools.partial(run_beam, flags=flags) if flags else None
    return prepare(
        beam_manifest, output, clips_per_shard=2, runner=runner, workers=1, log=lambda line: None, **settings
    )


def files(output: Path) -> dict[str, bytes]:
    """Returns everything that was written but the metadata, which name their folder."""
    paths = [path for path in output.rglob("*") if path.is_file() and path.suffix != ".json"]
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.parametrize(
    "flags",
    [
        ["--runner=DirectRunner"],
        ["--runner=FnApiRunner", "--direct_num_workers=2", "--direct_running_mode=multi_threading"],
    ],
)
def test_the_data_set_does_not_depend_on_the_runner(beam_manifest, tmp_path, flags):
    by_beam, local = quiet(beam_manifest, tmp_path / "beam", *flags), quiet(beam_manifest, tmp_path / "local")
    assert by_beam.clips == local.clips == {"train": 5, "test": 3}
    assert by_beam.rejected == local.rejected == {"unreadable_audio": 1}
    assert files(tmp_path / "beam") == files(tmp_path / "local")
    assert quiet(beam_manifest, tmp_path / "beam", *flags).reused


def test_beam_divides_a_collection_as_local_workers_do(beam_manifest, tmp_path):
    lines = [{**json.loads(line), "split": None} for line in beam_manifest.read_text().splitlines()]
    flat = write_manifest(tmp_path / "in", lines)
    by_beam = quiet(flat, tmp_path / "beam", "--runner=DirectRunner", split="50/25/25")
    local = quiet(flat, tmp_path / "local", split="50/25/25")
    assert by_beam.clips == local.clips and len(local.clips) == 3 and sum(local.clips.values()) == 8
    assert files(tmp_path / "beam") == files(tmp_path / "local")


def test_finished_shards_are_not_written_again(beam_manifest, tmp_path):
    quiet(beam_manifest, tmp_path / "out", "--runner=DirectRunner")
    before = {path.name: path.stat().st_ino for path in (tmp_path / "out").glob("*/*/*.array_record-*")}
    write_tone(tmp_path / "in" / "8.wav", 0.2)  # in the last shard
    assert not quiet(beam_manifest, tmp_path / "out", "--runner=DirectRunner").reused
    after = {path.name: path.stat().st_ino for path in (tmp_path / "out").glob("*/*/*.array_record-*")}
    assert [name for name in after if after[name] != before[name]] == ["slap_clips-test.array_record-00001-of-00002"]


def test_an_unknown_runner_is_one_error(beam_manifest, tmp_path):
    with pytest.raises(BeamError, match="Unexpected pipeline runner: NoRunner"):
        quiet(beam_manifest, tmp_path / "out", "--runner=NoRunner")


def test_a_shard_that_cannot_be_written_is_reported(beam_manifest, tmp_path):
    def run_without_folder(plans, staging):
        run_beam(plans, tmp_path / "missing", ["--runner=DirectRunner"])

    with pytest.raises((ShardError, BeamError), match="could not be written"):
        prepare(beam_manifest, tmp_path / "out", runner=run_without_folder, log=lambda line: None)
