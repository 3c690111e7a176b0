"""Every test runs on CPU with 8 fake devices and a compilation cache that later runs reuse.

The tests have three tiers. Those marked `compile` run JAX programs, those marked `process` start processes, and the
rest is quick: `make quick` runs only it. A test without the mark that it needs fails.
"""

import gc
import importlib.metadata
import multiprocessing.process
import os
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
# Most of the time of a tiny test is compilation, and no test depends on the speed of the program. Without optimisation
# it takes half the time, and 0.6 of that with the older of XLA's two code generators, which needs no MLIR
# context for every fusion. Newer versions have only one of them, and fail on a flag that they do not know.
COMPILE_FLAGS = "--xla_backend_optimization_level=0"
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) <= (0, 10):
    COMPILE_FLAGS += " --xla_cpu_use_fusion_emitters=false"
_DEVICES = os.environ.get("SLAP_TEST_DEVICES", "8")  # fewer if there are several processes
_FLAGS = f" --xla_force_host_platform_device_count={_DEVICES} {COMPILE_FLAGS}"
if "--xla_force_host" not in os.environ.get("XLA_FLAGS", ""):  # a parent test has set them
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + _FLAGS
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import jax  # noqa: E402  (the environment must be set first)
import pytest  # noqa: E402
from absl import flags  # noqa: E402
from jax import monitoring  # noqa: E402

# These need torch and transformers, which `make oracle` installs.
collect_ignore = [] if os.environ.get("SLAP_TEST_ORACLES") else ["oracle"]

flags.FLAGS.mark_as_parsed()  # grain reads absl flags
gc.set_threshold(50_000, 20, 50)  # tracing creates millions of long-lived objects, which need not be scanned often

# The files that take longest. They start first, since the last file to start keeps only one worker busy.
_LONGEST = (
    "multi_process/test_train.py",
    "aot/test_compilation.py",
    "test_train.py",
    "launch/test_two_processes.py",
    "training/test_step.py",
    "multi_process/test_process_group.py",
    "finetune/test_recipes.py",
    "launch/test_preflight.py",
    "training/test_grad_cache.py",
    "objectives/test_base.py",
    "training/test_flops.py",
    "aot/test_costs.py",
    "objectives/test_captioning.py",
    "training/test_optimizer.py",
    "docs/test_finetuning_page.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """Makes `--dist loadfile` keep the order of the files; by default it starts with those that have the most tests."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False
    _count_calls(subprocess.Popen, "__init__", "process")
    _count_calls(multiprocessing.process.BaseProcess, "start", "process")
    monitoring.register_event_duration_secs_listener(_count_compilation)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first and keeps the order of the others."""
    ranks = {Path(__file__).parent / name: rank for rank, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


# The tiers: a test that does more than its marks say fails. A program that an earlier test has compiled goes unnoticed,
# but not by `make quick`, which runs none of the tests that may compile.

_ACTIONS = {"compile": 0, "process": 0}  # how often this process has done each
_BEFORE = pytest.StashKey[dict[str, int]]()


def _count_calls(cls: type, method: str, action: str) -> None:
    original = getattr(cls, method)

    def counted(*args: Any, **kwargs: Any) -> Any:
        _ACTIONS[action] += 1
        return original(*args, **kwargs)

    setattr(cls, method, counted)


def _count_compilation(event: str, duration_secs: float, **kwargs: str | int) -> None:
    _ACTIONS["compile"] += event.endswith("backend_compile_duration")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    """Remembers what was done before the test and its fixtures."""
    item.stash[_BEFORE] = dict(_ACTIONS)
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Fails a test that has compiled a program or started a process without being marked."""
    result = yield
    done = {action for action, count in _ACTIONS.items() if count > item.stash[_BEFORE][action]}
    marks = {mark.name for mark in item.iter_markers()}
    allowed = _ACTIONS.keys() if "process" in marks else marks
    if missing := sorted(done - allowed):
        jax.clear_caches()  # otherwise the next test that needs the same program would pass
        pytest.fail(f"mark this test with @pytest.mark.{missing[-1]}", pytrace=False)
    return result


@pytest.fixture(scope="session")
def train_data(tmp_path_factory) -> Path:
    """24 short synthetic scenes and a vocabulary, as `tests.tiny.tiny_config` names them."""
    from slap_jax.data.datasets.synthetic_scenes import prepare_scenes
    from slap_jax.data.records import open_split
    from slap_jax.data.tokenizer import train_tokenizer
    from tests.tiny import VOCABULARY

    directory = tmp_path_factory.mktemp("data")
    prepare_scenes(directory / "scenes", seed=0, train=24, test=8, log=lambda line: None)
    captions = [caption for record in open_split(directory / "scenes", "train") for caption in record.captions]
    train_tokenizer(captions, directory / "tokenizer.model", VOCABULARY)
    return directory
