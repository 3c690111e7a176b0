"""Processes: a forked one gets an error instead of a hang, and one that was started afresh can unpickle a model."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from slap_jax.inference import own_process
from slap_jax.inference.model import SlapModel
from slap_jax.inference.own_process import ForkError, require_own_process
from tests.inference.tiny import noise, shared_params, tiny_config

FORKING = """
import os, pickle, sys
import numpy as np
from slap_jax.inference.own_process import ForkError

model = pickle.load(open(sys.argv[1], "rb"))
clip = (np.load(sys.argv[2]), 16_000)
model.embed_audio(clip)  # the threads of JAX run now
calls = [lambda: model.embed_audio(clip), lambda: model.embed_text("rain"), lambda: pickle.dumps(model),
         lambda: pickle.load(open(sys.argv[1], "rb"))]
for call in calls:
    child = os.fork()
    if child == 0:
        try:
            call()
        except ForkError as error:
            print(error, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""

HOMELESS = """
import pickle, sys
import numpy as np

model = pickle.load(open(sys.argv[1], "rb"))
np.save(sys.argv[3], model.embed_audio((np.load(sys.argv[2]), 16_000)))
"""

SPAWNING = """
import multiprocessing, pickle, sys
import numpy as np

if __name__ == "__main__":
    model = pickle.load(open(sys.argv[1], "rb"))
    clips = [(np.load(sys.argv[2]), 16_000)]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        vectors = pool.map(model.embed_audio, [clips])
    np.save(sys.argv[3], vectors[0])
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("files")
    model = SlapModel(tiny_config(), shared_params(), tokenizer)
    (folder / "model.pickle").write_bytes(pickle.dumps(model))
    np.save(folder / "clip.npy", noise(0, 0.5))
    for name, script in {"forking.py": FORKING, "spawning.py": SPAWNING, "homeless.py": HOMELESS}.items():
        (folder / name).write_text(script)
    return folder, model


def run(folder, script, environment=None):
    names = (script, "model.pickle", "clip.npy", "vectors.npy")
    command = [sys.executable, *(str(folder / name) for name in names)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.process
def test_a_forked_process_gets_an_error_and_does_not_hang(files):
    lines = run(files[0], "forking.py").stdout.splitlines()
    assert len(lines) == 4
    assert all("JAX does not work after a fork: start worker processes by 'spawn'" in line for line in lines)


@pytest.mark.process
def test_a_spawned_process_computes_the_same_vectors(files):
    folder, model = files
    run(folder, "spawning.py")
    assert np.array_equal(np.load(folder / "vectors.npy"), model.embed_audio((noise(0, 0.5), 16_000)))


@pytest.mark.process
def test_no_home_is_needed(files):
    """The missing cache of programs is mentioned once."""
    folder, model = files
    dropped = ("JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR")
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    done = run(folder, "homeless.py", {**environment, "HOME": "/proc/nonexistent"})  # not even root can make this one
    assert done.stdout.split() == []
    (warning,) = done.stderr.splitlines()
    assert "compiled programs are not kept" in warning and "SLAP_COMPILE_CACHE=DIR chooses another" in warning
    assert np.array_equal(np.load(folder / "vectors.npy"), model.embed_audio((noise(0, 0.5), 16_000)))


def test_a_fork_before_the_first_model_does_no_harm(monkeypatch):
    monkeypatch.setattr(own_process, "_process", None)
    require_own_process()
    require_own_process()
    monkeypatch.setattr(own_process, "_process", os.getpid() + 1)
    with pytest.raises(ForkError, match=r"was forked from process \d+, which had loaded a model"):
        require_own_process()
