"""The directory of compiled programs, and its reuse by a second process."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from slap_jax.inference.compile_cache import cache_directory, use_compile_cache

pytestmark = pytest.mark.process

PROGRAM = """
import jax, jax.numpy as jnp
from slap_jax.inference.compile_cache import use_compile_cache
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
use_compile_cache()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
print(jax.config.values["jax_compilation_cache_dir"])
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((8, 8))).block_until_ready()
print(hits.count("/jax/compilation_cache/cache_hits"))
"""


def in_a_process(**variables):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment |= {"JAX_PLATFORMS": "cpu", **variables}
    run = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    return run.stdout.split()


def test_the_second_process_compiles_nothing(tmp_path):
    directory = tmp_path / "kept" / "here"
    first, first_hits = in_a_process(SLAP_COMPILE_CACHE=str(directory))
    assert first == str(directory) and first_hits == "0" and any(directory.iterdir())
    second, second_hits = in_a_process(SLAP_COMPILE_CACHE=str(directory))
    assert second == first and int(second_hits) > 0


@pytest.fixture
def no_cache():
    """JAX without a compilation cache, as in the process of a user."""
    directory = jax.config.values["jax_compilation_cache_dir"]
    seconds = jax.config.values["jax_persistent_cache_min_compile_time_secs"]
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", directory)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", seconds)


def test_the_users_own_cache_of_jax_is_left_alone(no_cache, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    use_compile_cache({"SLAP_COMPILE_CACHE": str(tmp_path / "ours")})
    assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path / "own") and not (tmp_path / "ours").exists()


def test_a_directory_that_cannot_be_created_is_a_warning(no_cache, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    use_compile_cache({"SLAP_COMPILE_CACHE": str(tmp_path / "file" / "below")})
    assert jax.config.values["jax_compilation_cache_dir"] is None
    assert "compiled programs are not kept" in caplog.text and "SLAP_COMPILE_CACHE=DIR" in caplog.text


def test_directories():
    assert cache_directory({}) == Path.home() / ".cache" / "slap_jax" / "programs"
    assert cache_directory({"XDG_CACHE_HOME": "/x"}) == Path("/x/slap_jax/programs")
    assert cache_directory({"SLAP_COMPILE_CACHE": "/y", "XDG_CACHE_HOME": "/x"}) == Path("/y")
    assert cache_directory({"SLAP_COMPILE_CACHE": "off"}) is None
    assert cache_directory({"SLAP_COMPILE_CACHE": "0"}) is None


def test_a_cache_that_cannot_be_written_is_used_only_if_it_has_programs(no_cache, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    use_compile_cache({"SLAP_COMPILE_CACHE": str(tmp_path)})
    assert jax.config.values["jax_compilation_cache_dir"] is None
    assert "compiled programs are not kept" in caplog.text and "is empty and read-only" in caplog.text
    (tmp_path / "program").touch()
    use_compile_cache({"SLAP_COMPILE_CACHE": str(tmp_path)})
    assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path)
