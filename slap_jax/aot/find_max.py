"""`slap aot --find-max`: the most rows per step that fit, in few compilations."""

from collections.abc import Callable

from ml_collections import ConfigDict

from slap_jax.aot.report import compile_step, row_step
from slap_jax.aot.topology import has_compiler, parse_topology
from slap_jax.config import ConfigError
from slap_jax.parallel.mesh import AXES, mesh_sizes

LIMIT = 2**20


def find_max_rows(config: ConfigDict, topology: str, log: Callable[[str], None]) -> int:
    """Returns the largest `config.data.rows` whose step fits, 0 if not even the smallest does.

    Rows are a multiple of the devices that share them, of `config.train.accumulate` parts and of
    `config.data.virtual_shards`.

    Raises:
        ConfigError: the topology's compiler is missing.
        TopologyError: the topology does not exist.
    """
    target = parse_topology(topology)
    if not has_compiler(target):
        raise ConfigError(f"--find-max compiles for {topology!r}, whose compiler is missing; see slap aot without it")
    sizes = mesh_sizes(config.parallel, target.n_devices)
    step = row_step(config, dict(zip(AXES, sizes, strict=True)))

    def bytes_of(multiple: int) -> tuple[bool, int | None]:
        tried = config.copy_and_resolve_references()
        tried.data.rows = multiple * step
        compiled = compile_step(tried, target, lambda line: None)
        fits = compiled.fits(target)
        total = compiled.total
        size = "" if total is None else f", {total / 2**30:.2f} of {target.chip.hbm_bytes / 2**30:.2f} GiB"
        log(f"{tried.data.rows} rows {'fit' if fits else 'do not fit'}{size} ({compiled.seconds:.0f} s to compile)")
        return fits, total

    start = max(1, config.data.rows // step)
    return step * largest_fitting(bytes_of, start, target.chip.hbm_bytes, LIMIT // step)


def largest_fitting(measure: Callable[[int], tuple[bool, int | None]], start: int, capacity: int, limit: int) -> int:
    """Returns the largest n in 1 .. limit for which `measure(n)` fits, 0 if none does.

    Memory grows about linearly, so the line through two measurements names the next candidate; between what fits and
    what does not, it halves the interval where the line leads out of it.

    Args:
        measure: of n: whether it fits, and its bytes where they are known.
        start: first n.
        capacity: bytes.
        limit: the largest n to try.
    """
    known: dict[int, int] = {}
    fitting, failing = 0, limit + 1

    def tried(n: int) -> None:
        nonlocal fitting, failing
        fits, size = measure(n)
        if size is not None:
            known[n] = size
        if fits:
            fitting = max(fitting, n)
        else:
            failing = min(failing, n)

    tried(min(max(start, 1), limit))
    while failing - fitting > 1:
        middle = fitting * 2 if failing > limit and fitting else (fitting + failing) // 2
        tried(min(max(_line(known, capacity, middle), fitting + 1), failing - 1))
    return fitting


def _line(known: dict[int, int], capacity: int, otherwise: int) -> int:
    """The n at which the line through the two largest measurements reaches the capacity."""
    if len(known) < 2:
        return otherwise
    (n1, size1), (n2, size2) = sorted(known.items())[-2:]
    if size2 <= size1:
        return otherwise
    return int(n1 + (capacity - size1) * (n2 - n1) / (size2 - size1))
