"""A request to stop is handled after the step, saves, and does not swallow a second Ctrl-C."""

import contextlib
import os
import signal
import threading

import jax.numpy as jnp
import pytest

from slap_jax.checkpoints.run import EXIT_PREEMPTED, Checkpoints
from slap_jax.parallel.preemption import StopRequest


@pytest.fixture
def stop():
    request = StopRequest()
    yield request
    request.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_a_flag(stop, number):
    assert not stop.reached(1)
    os.kill(os.getpid(), number)
    assert stop.reached(2)
    assert stop.reached(3)


def test_a_second_ctrl_c_aborts_at_once(stop):
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        stop.reached(1)


def test_a_third_ctrl_c_is_heard_even_if_the_second_was_lost(stop):
    """JAX's callback of the garbage collector swallows exceptions; `slap` then sends the signal again."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    request = StopRequest()
    try:
        for _ in range(2):
            with contextlib.suppress(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
                request.reached(1)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            request.reached(1)
    finally:
        request.close()
        signal.signal(signal.SIGINT, before)


def test_a_repeated_sigterm_still_lets_the_checkpoint_be_written(stop):
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.reached(1)


def test_old_handlers_are_restored():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    request = StopRequest()
    assert signal.getsignal(signal.SIGTERM) != before[0]
    request.close()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_outside_the_main_thread_signals_are_unchanged():
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=StopRequest)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.compile
def test_checkpoints_save_the_step_at_which_they_were_asked_to_stop(tmp_path):
    with Checkpoints(tmp_path, every=1_000) as writer:
        for step in range(1, 10):
            if step == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            state = {"params": {"w": jnp.full(2, float(step))}}
            writer.save(step, state, {}, {})
            if writer.reached_preemption(step):
                writer.save(step, state, {}, {}, force=True)
                break
        writer.wait()
        assert writer.latest() == 4
    assert EXIT_PREEMPTED == 83
