"""Every test runs on CPU with 8 fake devices and a compilation cache that later runs reuse."""

import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
# Code generation is most of a tiny test's time: level 0 halves it, and no test depends on the speed of the result.
_DEVICES = os.environ.get("SLAP_TEST_DEVICES", "8")  # fewer in each of several processes
_FLAGS = f" --xla_force_host_platform_device_count={_DEVICES} --xla_backend_optimization_level=0"
if "--xla_force_host" not in os.environ.get("XLA_FLAGS", ""):  # else they are a parent test's already
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + _FLAGS
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import pytest  # noqa: E402  (the environment must be set before anything imports jax)
from absl import flags  # noqa: E402

# These want torch and transformers, which `make oracle` installs.
collect_ignore = [] if os.environ.get("SLAP_TEST_ORACLES") else ["oracle"]

flags.FLAGS.mark_as_parsed()  # grain reads absl flags


@pytest.fixture(scope="session")
def train_data(tmp_path_factory) -> Path:
    """24 short synthetic scenes and a vocabulary, as `tests.tiny.tiny_config` names them."""
    from slap_jax.data.builders.synthetic_scenes import prepare_scenes
    from slap_jax.data.records import open_split
    from slap_jax.data.tokenizer import train_tokenizer
    from tests.tiny import VOCABULARY

    directory = tmp_path_factory.mktemp("data")
    prepare_scenes(directory / "scenes", seed=0, train=24, test=8, log=lambda line: None)
    captions = [caption for record in open_split(directory / "scenes", "train") for caption in record.captions]
    train_tokenizer(captions, directory / "tokenizer.model", VOCABULARY)
    return directory
