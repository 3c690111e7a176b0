"""The ordered map with read-ahead, and signals that arrive while processes are started."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Generator

import pytest

from slap_jax.data.processes import block_signals, map_in_order


def test_results_come_in_the_order_of_the_items_from_several_threads():
    barrier = threading.Barrier(3, timeout=30)  # breaks unless three calls run at once

    def slowest_first(item: int) -> int:
        barrier.wait()
        time.sleep(0.003 * (2 - item % 3))
        return item * item

    assert list(map_in_order(slowest_first, range(12), threads=3, ahead=5)) == [item * item for item in range(12)]


@pytest.mark.parametrize("ahead", [1, 4])
def test_no_more_items_are_read_ahead_than_asked(ahead):
    read = []

    def items():
        for item in range(20):
            read.append(item)
            yield item

    for result in map_in_order(lambda item: item, items(), threads=2, ahead=ahead):
        assert len(read) == min(result + 1 + ahead, 20)
    assert list(map_in_order(str, [], threads=2, ahead=1)) == []


def test_an_error_comes_after_the_results_before_it():
    def items():
        yield from (1, 2, 0)
        raise OSError("the list ends here")

    results = map_in_order(lambda item: 2 / item, items(), threads=2, ahead=9)
    assert [next(results), next(results)] == [2.0, 1.0]
    with pytest.raises(ZeroDivisionError):
        next(results)

    results = map_in_order(str, items(), threads=2, ahead=9)
    assert [next(results) for _ in range(3)] == ["1", "2", "0"]
    with pytest.raises(OSError, match="the list ends here"):
        next(results)


def test_closing_cancels_the_calls_that_have_not_started():
    started, release = [], threading.Event()

    def call(item: int) -> int:
        started.append(item)
        if item:
            release.wait(30)
        return item

    results = map_in_order(call, range(100), threads=1, ahead=9)
    assert isinstance(results, Generator)
    assert next(results) == 0
    threading.Timer(0.05, release.set).start()
    results.close()
    assert started in ([0], [0, 1])


@pytest.fixture
def control_c_raises():
    """Makes Ctrl-C work as in a terminal, however the tests were started."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_signal_waits_for_the_end_of_the_block(control_c_raises):
    ran_on = []
    with pytest.raises(KeyboardInterrupt), block_signals(signal.SIGINT):
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)  # os.kill may reach another thread, after the block
        ran_on.append(True)
    assert ran_on and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())


def test_a_signal_waits_too_where_another_thread_takes_it(control_c_raises):
    end = threading.Event()
    other = threading.Thread(target=end.wait)
    other.start()  # before the block, so no signal is blocked in it
    assert other.ident is not None
    ran_on = []
    with pytest.raises(KeyboardInterrupt), block_signals(signal.SIGINT):
        signal.pthread_kill(other.ident, signal.SIGINT)
        end.set()
        other.join()
        ran_on.append(True)
    assert ran_on


def test_without_a_signal_nothing_is_raised(control_c_raises):
    with block_signals(signal.SIGINT, signal.SIGTERM):
        pass
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.process
def test_a_process_of_the_block_never_sees_the_signal():
    program = "import os, signal; os.kill(os.getpid(), signal.SIGTERM); print('alive')"
    with block_signals(signal.SIGTERM):
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    output, _ = process.communicate(timeout=30)
    assert (process.returncode, output) == (0, "alive\n")


def test_deferral_works_in_other_threads():
    errors = []

    def block() -> None:
        try:
            with block_signals(signal.SIGINT):
                pass
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert errors == []


@pytest.mark.process
@pytest.mark.parametrize("start", [["main.py"], ["-m", "main"]])
def test_a_spawned_process_imports_the_hidden_main_module_only_when_it_is_not_hidden(tmp_path, start):
    (tmp_path / "main.py").write_text(
        textwrap.dedent("""
        import multiprocessing, os, sys
        from slap_jax.data.processes import hide_main_module

        if __name__ != "__main__":
            print("imported again", flush=True)

        if __name__ == "__main__":
            context = multiprocessing.get_context("spawn")
            for hide in (False, True):
                process = context.Process(target=print, args=("hidden" if hide else "seen",))
                if hide:
                    with hide_main_module():
                        process.start()
                else:
                    process.start()
                process.join()
            print(os.path.basename(__file__), __spec__ is None or __spec__.name)
        """)
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, *start]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    name = "True" if start == ["main.py"] else "main"
    assert done.stdout.splitlines() == ["imported again", "seen", "hidden", f"main.py {name}"]
