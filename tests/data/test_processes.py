"""Signals that arrive while processes are started."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from slap_jax.data.processes import held_signals


@pytest.fixture
def control_c_raises():
    """As in a terminal, whatever started the tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_signal_waits_for_the_end_of_the_block(control_c_raises):
    ran_on = []
    with pytest.raises(KeyboardInterrupt), held_signals(signal.SIGINT):
        os.kill(os.getpid(), signal.SIGINT)
        ran_on.append(True)
    assert ran_on and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())


def test_a_signal_waits_too_where_another_thread_takes_it(control_c_raises):
    end = threading.Event()
    other = threading.Thread(target=end.wait)
    other.start()  # before the block: nothing is blocked in it
    assert other.ident is not None
    ran_on = []
    with pytest.raises(KeyboardInterrupt), held_signals(signal.SIGINT):
        signal.pthread_kill(other.ident, signal.SIGINT)
        end.set()
        other.join()
        ran_on.append(True)
    assert ran_on


def test_no_signal_no_interrupt(control_c_raises):
    with held_signals(signal.SIGINT, signal.SIGTERM):
        pass
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_process_of_the_block_never_sees_the_signal():
    program = "import os, signal; os.kill(os.getpid(), signal.SIGTERM); print('alive')"
    with held_signals(signal.SIGTERM):
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    output, _ = process.communicate(timeout=30)
    assert (process.returncode, output) == (0, "alive\n")


def test_threads_may_use_it():
    errors = []

    def block() -> None:
        try:
            with held_signals(signal.SIGINT):
                pass
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert errors == []
