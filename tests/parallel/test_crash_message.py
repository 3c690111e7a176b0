"""The companion process reports how its parent crashed, and nothing after a normal exit."""

import signal
import subprocess
import sys

import pytest

from slap_jax.parallel import crash_message

pytestmark = pytest.mark.process

PROGRAM = """
import os, signal, sys
from slap_jax.parallel.crash_message import CrashMessage
signal.signal(signal.SIGUSR1, lambda *_: None)
words = CrashMessage()
words.set("forgotten")
os.kill(os.getpid(), signal.SIGUSR1)  # its number stands between the words
words.set("ended by abort\\nin two lines", "ended by a kill, naïvely")
{end}
"""


def run(end: str) -> tuple[int, str]:
    # Reads until the companion, too, has closed its standard error.
    finished = subprocess.run([sys.executable, "-c", PROGRAM.format(end=end)], capture_output=True, timeout=120)
    return finished.returncode, finished.stderr.decode()


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        ("os.abort()", -signal.SIGABRT, "\nslap: ended by abort\nin two lines\n"),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, "\nslap: ended by a kill, naïvely\n"),
        ("words.close()", 0, ""),
        ("words.close(); words.close()", 0, ""),
    ],
)
def test_messages_by_exit(end, code, said):
    assert run(end) == (code, said)


def test_signals_work_as_before_when_closed():
    before = signal.getsignal(signal.SIGABRT)
    words = crash_message.CrashMessage()
    assert signal.getsignal(signal.SIGABRT) != before
    words.close()
    assert signal.getsignal(signal.SIGABRT) == before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_lost_companion_is_harmless():
    words = crash_message.CrashMessage((sys.executable, "-c", "pass"))
    words._companion.wait(timeout=60)
    words.set("to nobody")
    words.close()
    assert words._companion.returncode == 0 and signal.set_wakeup_fd(-1) == -1
