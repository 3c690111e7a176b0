"""The report: a small step compiled for TPU slices, GPUs without their compiler, and the search for the most rows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from slap_jax import cli
from slap_jax.aot import compilation, format_report, report, topology
from slap_jax.aot.compilation import largest_fitting
from slap_jax.aot.costs import expected_counts, loss_of_rows
from slap_jax.config.rules import ConfigError
from slap_jax.models.attention.dispatch import AttentionError
from slap_jax.parallel.sharding import compiling_for
from slap_jax.training.flops import train_step_flops
from tests.aot.compile_worker import LOOPS, VALUES
from tests.aot.small_config import small_config
from tests.models.attention.test_lowering import GPU_MESH

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
KEYS = {
    "fits",
    "bytes_per_device",
    "hbm_bytes",
    "flops_per_step",
    "flops_per_audio_second",
    "collectives",
    "attention",
    "compile_seconds",
    "bound_step_seconds",
    "bound_mfu",
    "topology",
    "n_devices",
}
KINDS = {"parameters", "optimizer", "teacher", "batch", "activations", "temporaries", "total"}


@pytest.fixture(scope="module")
def compiled() -> dict:
    """The output of `compile_worker.py`, a separate process because this one must not load a second backend."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.aot.compile_worker"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_report_of_a_small_step(compiled):
    result = compiled["step"]
    assert result.keys() >= KEYS
    assert result["fits"] is True
    assert (result["topology"], result["n_devices"]) == ("2*v5e:2x2", 8)
    assert result["mesh"] == {"data": 4, "fsdp": 2, "tensor": 1}
    assert result["hbm_bytes"] == int(15.75 * 2**30)
    assert set(result["attention"].values()) == {"splash"}
    assert 0 < result["bound_mfu"] < 1
    assert result["flops_per_step"] == train_step_flops(small_config(), expected_counts(small_config()))
    assert result["computed_flops_per_step"] > result["flops_per_step"]


def test_memory_categories_add_up_and_the_state_is_donated(compiled):
    sizes = compiled["step"]["bytes_per_device"]
    assert set(sizes) == KINDS
    assert sum(size for kind, size in sizes.items() if kind != "total") == sizes["total"]
    state = sizes["parameters"] + sizes["optimizer"] + sizes["teacher"]
    assert compiled["step"]["state_in_place_bytes"] >= state
    assert sizes["activations"] > 0


def test_no_array_of_scores_is_stored(compiled):
    length = 384  # tokens of an audio row; attention has that many scores squared
    arrays = compiled["step"]["largest_arrays"]
    assert len(arrays) == 8
    for shape in arrays:
        sizes = list(map(int, shape.partition("[")[2].rstrip("]").split(",")))
        assert sizes.count(length) < 2, arrays


def test_sharded_parameters_are_gathered(compiled):
    sharded, whole = (compiled[name]["bytes_per_device"]["parameters"] for name in ("step", "large"))
    assert sharded < whole
    # Each of the two shards receives the other half of every matrix, in bf16 or fp32.
    assert compiled["step"]["collectives"]["all-gather"]["bytes"] > whole / 2


def test_slices_sum_their_gradients_over_the_network(compiled):
    step, whole = compiled["step"], compiled["large"]["bytes_per_device"]["parameters"]
    # Each of the four devices of a slice sends a quarter, in bf16 or fp32.
    assert step["collectives"]["network-all-reduce"]["bytes"] >= whole / 8
    assert step["bound_parts_seconds"]["network"] > 0
    assert compiled["islands"] == {"v5e:4x4": [0] * 16, "2*v5e:2x2": [0] * 4 + [1] * 4}


def test_a_step_that_is_too_large_is_reported(compiled):
    result = compiled["large"]
    assert result["fits"] is False
    assert "15.75G" in result["reason"] and "\n" not in result["reason"]
    assert result["bytes_per_device"]["total"] > result["hbm_bytes"]
    text = format_report(result)
    assert "DOES NOT FIT" in text and result["reason"] in text


def test_collectives_in_a_loop_match_a_manual_count(compiled):
    assert compiled["loop"] == {"all-reduce": {"count": LOOPS, "bytes": LOOPS * VALUES * 4}}


@pytest.fixture
def no_plugin(monkeypatch):
    monkeypatch.setattr(compilation, "has_compiler", lambda topology: False)


def test_without_the_gpu_compiler_the_rest_is_reported(no_plugin):
    result = report(small_config(fsdp=4), "h100:8", log=lambda line: None)
    assert result.keys() >= KEYS
    assert result["fits"] is None and "pip install 'slap-jax[cuda12]'" in result["reason"]
    assert result["attention"]["global 256x256"] == "flash"
    assert result["bytes_per_device"]["parameters"] > 0 and result["bytes_per_device"]["total"] is None
    assert result["bound_mfu"] > 0
    assert "not known to fit" in format_report(result)


def test_the_step_lowers_for_cuda_without_a_gpu():
    loss, shapes = loss_of_rows(small_config(), 2)
    with jax.sharding.use_abstract_mesh(GPU_MESH), compiling_for("gpu"):
        text = jax.jit(jax.grad(loss)).trace(*shapes).lower(lowering_platforms=("cuda",)).as_text()
    for kernel in ("flash_attention_forward", "flash_attention_query_gradient", "flash_attention_key_gradient"):
        assert kernel in text


@pytest.mark.parametrize(
    ("topology", "changes", "message"),
    [
        ("h100:8", {"fsdp": 3}, "describes 3 devices, but there are 8"),
        ("h100:3", {}, "not a multiple of the 3 devices"),
        ("h100:3x1", {}, "not a multiple of the 3 hosts"),
    ],
)
def test_a_mesh_that_does_not_divide_the_devices_is_an_error(no_plugin, topology, changes, message):
    with pytest.raises(ConfigError, match=message):
        report(small_config(**changes), topology)


def test_a_backend_of_another_platform_is_an_error(no_plugin):
    config = small_config()
    config.model.attention = "splash"
    with pytest.raises(AttentionError, match=r"kernel for TPUs, but the program is compiled for gpu"):
        report(config, "h100:8", log=lambda line: None)


@pytest.fixture
def config_file(tmp_path) -> Path:
    path = tmp_path / "small.py"
    path.write_text("from tests.aot.small_config import small_config\n\ndef get_config():\n    return small_config()\n")
    return path


def test_the_command_prints_writes_and_exits(no_plugin, config_file, tmp_path, capsys):
    command = ["aot", "--config", str(config_file), "--topology", "h100:8"]
    assert cli.main([*command, "--output", str(tmp_path / "aot.json"), "--config.data.rows=16"]) == 0
    printed = capsys.readouterr().out
    assert "h100:8: 8 x NVIDIA H100 80GB HBM3" in printed and "step: 16 rows" in printed
    assert json.loads((tmp_path / "aot.json").read_text())["rows"] == 16


def test_user_errors_are_one_line(config_file, capsys, monkeypatch):
    command = ["aot", "--config", str(config_file), "--topology"]
    assert cli.main([*command, "v5e:3x3"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("slap aot: topology 'v5e:3x3' does not exist") and error.count("\n") == 1
    monkeypatch.setattr(topology, "has_compiler", lambda topology: False)
    assert cli.main([*command, "v5e:2x2"]) == 2
    assert "pip install 'slap-jax[aot]'" in capsys.readouterr().err


def _search(size, capacity: int, start: int, known: bool = True, limit: int = 1_000) -> tuple[int, int]:
    tried = []

    def measure(n: int) -> tuple[bool, int | None]:
        assert 1 <= n <= limit
        tried.append(n)
        fits = size(n) <= capacity
        return fits, size(n) if known or fits else None

    answer = largest_fitting(measure, start, capacity, limit)
    assert len(set(tried)) == len(tried), "the same rows were compiled twice"
    return answer, len(tried)


@pytest.mark.parametrize("start", [1, 7, 40, 300])
@pytest.mark.parametrize("known", [True, False])
def test_find_max_returns_the_largest_number_of_rows(start, known):
    answer, tries = _search(lambda n: 100 + 10 * n, 525, start, known)
    assert answer == 42
    assert tries <= (5 if known else 9)


def test_find_max_works_if_memory_is_not_linear():
    answer, tries = _search(lambda n: 50 + 10 * n + n * n // 20, 900, 4)
    assert answer == max(n for n in range(1_000) if 50 + 10 * n + n * n // 20 <= 900)
    assert tries <= 8


def test_find_max_if_nothing_or_everything_fits():
    assert _search(lambda n: 100 * n, 50, 8)[0] == 0
    assert _search(lambda n: n, 5_000, 8, limit=64)[0] == 64
