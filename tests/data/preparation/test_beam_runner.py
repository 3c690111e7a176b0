"""Preparation as an Apache Beam pipeline gives what preparation on this machine gives, byte for byte."""

import functools
from pathlib import Path

import pytest

from slap_jax.data.preparation.beam_runner import BeamError, run_beam
from slap_jax.data.preparation.prepare import prepare
from slap_jax.data.preparation.shard_writer import ShardError
from tests.data.tiny_data import write_manifest, write_tone


@pytest.fixture
def manifest(tmp_path) -> Path:
    """Returns a manifest of eight tones and a text, in two splits."""
    names = [write_tone(tmp_path / "in" / f"{index}.wav", 0.1, frequency=200.0 + 10 * index) for index in range(9)]
    (tmp_path / "in" / "4.wav").write_text("no audio")
    lines = [{"path": name, "caption": name, "split": "test" if name > "6" else "train"} for name in names]
    return write_manifest(tmp_path / "in", lines)


def quiet(manifest: Path, output: Path, *flags: str):
    runner = functools.partial(run_beam, flags=flags) if flags else None
    return prepare(manifest, output, clips_per_shard=2, runner=runner, workers=1, log=lambda line: None)


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
def test_the_data_set_does_not_depend_on_the_runner(manifest, tmp_path, flags):
    by_beam, local = quiet(manifest, tmp_path / "beam", *flags), quiet(manifest, tmp_path / "local")
    assert by_beam.clips == local.clips == {"train": 5, "test": 3}
    assert by_beam.rejected == local.rejected == {"unreadable_audio": 1}
    assert files(tmp_path / "beam") == files(tmp_path / "local")
    assert quiet(manifest, tmp_path / "beam", *flags).reused


def test_finished_shards_are_not_made_again(manifest, tmp_path):
    quiet(manifest, tmp_path / "out", "--runner=DirectRunner")
    before = {path.name: path.stat().st_ino for path in (tmp_path / "out").glob("*/*/*.array_record-*")}
    write_tone(tmp_path / "in" / "8.wav", 0.2)  # in the last shard
    assert not quiet(manifest, tmp_path / "out", "--runner=DirectRunner").reused
    after = {path.name: path.stat().st_ino for path in (tmp_path / "out").glob("*/*/*.array_record-*")}
    assert [name for name in after if after[name] != before[name]] == ["slap_clips-test.array_record-00001-of-00002"]


def test_an_unknown_runner_is_one_error(manifest, tmp_path):
    with pytest.raises(BeamError, match="Unexpected pipeline runner: NoRunner"):
        quiet(manifest, tmp_path / "out", "--runner=NoRunner")


def test_a_shard_that_cannot_be_written_is_said(manifest, tmp_path):
    def run_without_folder(plans, staging):
        run_beam(plans, tmp_path / "missing", ["--runner=DirectRunner"])

    with pytest.raises((ShardError, BeamError), match="could not be written"):
        prepare(manifest, tmp_path / "out", runner=run_without_folder, log=lambda line: None)
