"""Every test runs on CPU with 8 fake devices and a compilation cache that later runs reuse."""

import gc
import importlib.metadata
import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
# Compiling is most of a tiny test's time, and no test depends on the speed of the result: without optimisation it takes
# half, and with the older of XLA's two code generators, which needs no MLIR context for every fusion, 0.6 of that.
# Newer versions have but one, and do not start with a flag that they do not know.
COMPILE_FLAGS = "--xla_backend_optimization_level=0"
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) <= (0, 10):
    COMPILE_FLAGS += " --xla_cpu_use_fusion_emitters=false"
_DEVICES = os.environ.get("SLAP_TEST_DEVICES", "8")  # fewer in each of several processes
_FLAGS = f" --xla_force_host_platform_device_count={_DEVICES} {COMPILE_FLAGS}"
if "--xla_force_host" not in os.environ.get("XLA_FLAGS", ""):  # else they are a parent test's already
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + _FLAGS
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import pytest  # noqa: E402  (the environment must be set before anything imports jax)
from absl import flags  # noqa: E402

# These want torch and transformers, which `make oracle` installs.
collect_ignore = [] if os.environ.get("SLAP_TEST_ORACLES") else ["oracle"]

flags.FLAGS.mark_as_parsed()  # grain reads absl flags
gc.set_threshold(50_000, 20, 50)  # tracing makes millions of objects that live on: looking at them again is in vain

# The files that take longest, to be begun first: as the last one, any of them would leave the other workers idle.
_LONGEST = (
    "multi_process/test_train.py",
    "aot/test_compilation.py",
    "launch/test_two_processes.py",
    "test_train.py",
    "training/test_step.py",
    "training/test_grad_cache.py",
    "finetune/test_recipes.py",
    "docs/test_finetuning_page.py",
    "finetune/test_finetune.py",
    "training/test_train_modernbert.py",
    "objectives/test_base.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """Makes `--dist loadfile` keep the order of the files; by itself it begins with those of the most tests."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first and leaves the order of all else."""
    ranks = {Path(__file__).parent / name: rank for rank, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


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
