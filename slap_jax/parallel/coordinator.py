"""What processes tell each other through the coordinator, JAX's service in process 0.

Unlike an exchange through the devices it works before anything is compiled, between different programs, and with a
limit on time. JAX has no public name for its client; Orbax reaches for the same one.
"""

from typing import Any

from jax._src import distributed


class ProcessLostError(RuntimeError):
    """Another process did not come to where all meet."""


def meet(name: str, seconds: float) -> bool:
    """Waits until every process calls it with the same name, which is used once in a run.

    Returns:
        Whether all came in time.
    """
    try:
        _client().wait_at_barrier(f"slap/{name}", int(1_000 * seconds))
    except Exception:  # late, lost, or no coordinator any more: JAX has no type of its own for each
        return False
    return True


def exchange(name: str, text: str, seconds: float) -> list[str]:
    """Returns what every process told, in the order of the processes.

    Args:
        name: used once in a run.
        text: what this process tells; short, the coordinator sends it to everybody.
        seconds: to wait for the others.

    Raises:
        ProcessLostError: a process did not come in time.
    """
    _client().key_value_set(f"slap/{name}/{distributed.global_state.process_id:08d}", text)
    if not meet(f"{name}/told", seconds):
        raise ProcessLostError(f"not every process came to compare {name!r} within {seconds:g} s; look at their logs")
    return [told for _, told in sorted(_client().key_value_dir_get(f"slap/{name}/"))]


def _client() -> Any:
    client = distributed.global_state.client
    assert client is not None, "this run has one process"
    return client
