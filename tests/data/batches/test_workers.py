"""Worker processes: the same batches as threads for any number of workers, errors, signals and imports."""

import ast
import multiprocessing
import os
import signal
import subprocess
import sys

import pytest

from slap_jax.data.audio import AudioError
from slap_jax.data.batches.pipeline import TrainBatches
from slap_jax.data.batches.workers import DataWorkerError, _reserve
from tests.data.batches.test_pipeline import global_batches, same
from tests.data.tiny_data import damage_audio, tiny_config, tiny_dataset

pytestmark = pytest.mark.process


def workers_of_this_test() -> list:
    return [child for child in multiprocessing.active_children() if child.name == "slap data worker"]


@pytest.fixture(scope="module")
def expected(dataset, tokenizer):
    train = TrainBatches(tiny_config(dataset, tokenizer), tokenizer)
    batches = global_batches([train], 6)
    state = train.get_state()
    train.close()
    return batches, state


def test_workers_give_the_same_batches_and_states_as_threads(dataset, tokenizer, expected):
    batches, state = expected
    train = TrainBatches(tiny_config(dataset, tokenizer, workers=3), tokenizer)
    beginning = train.get_state()
    first = global_batches([train], 2)
    assert len(workers_of_this_test()) == 3
    middle = train.get_state()
    assert all(same(a, b) for a, b in zip(batches, first + global_batches([train], 4), strict=True))
    assert train.get_state() == state
    train.set_state(beginning)
    assert not workers_of_this_test()
    train.close()
    # Another number of workers resumes from the state of three.
    other = TrainBatches(tiny_config(dataset, tokenizer, workers=1), tokenizer)
    other.set_state(middle)
    assert all(same(a, b) for a, b in zip(batches[2:], global_batches([other], 4), strict=True))
    other.close()
    assert not workers_of_this_test()


def test_an_error_in_a_worker_is_raised_in_the_caller(tokenizer, tmp_path):
    tiny_dataset(tmp_path)
    damage_audio(tmp_path, "train", "clip-5")
    train = TrainBatches(tiny_config(tmp_path, tokenizer, workers=1), tokenizer)
    with pytest.raises(AudioError, match="record tiny/clip-5"):
        global_batches([train], 9)
    train.close()
    assert not workers_of_this_test()


def test_workers_ignore_signals_and_a_killed_worker_is_one_error(dataset, tokenizer, expected):
    batches, _ = expected
    train = TrainBatches(tiny_config(dataset, tokenizer, workers=1), tokenizer)
    first = global_batches([train], 1)
    (worker,) = workers_of_this_test()
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(worker.pid, number)
    assert all(same(a, b) for a, b in zip(batches, first + global_batches([train], 5), strict=True))
    assert worker.is_alive()
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(DataWorkerError, match="ended with exit code -9"):
        global_batches([train], 5)
    train.close()
    assert not workers_of_this_test()


def test_a_worker_loads_only_used_modules():
    """Every worker spends the time for these imports at every start of a run."""
    program = (
        "import sys, slap_jax.data.batches.workers\n"
        "print([name for name in sys.argv[1:] if name in sys.modules])\n"
        "ours = {'.'.join(name.split('.')[:2]) for name in sys.modules if name.startswith('slap_jax.')}\n"
        "print(sorted(ours))\n"
    )
    slow = (
        "scipy.signal",
        "tensorflow_datasets",
        "tensorflow",
        "tensorboardX",
        "matplotlib",
        "librosa",
        "flax",
        "optax",
    )
    done = subprocess.run([sys.executable, "-c", program, *slow], capture_output=True, text=True, check=True)
    loaded, rooms = map(ast.literal_eval, done.stdout.splitlines())
    assert loaded == []
    assert rooms == ["slap_jax.atomic", "slap_jax.batch", "slap_jax.config", "slap_jax.data", "slap_jax.errors"]


def test_missing_shared_memory_says_what_to_do():
    with pytest.raises(DataWorkerError, match=r"cannot allocate \d+ MiB of shared memory .*workers=0"):
        _reserve(1 << 45)
