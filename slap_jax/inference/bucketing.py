"""Length bucketing: runs a jitted function on items of any length with few compiled shapes.

Each item gets a separate row, padded to the bucket of its length. The number of rows of a bucket is fixed, so XLA
compiles one program per bucket, and an item runs through the same program alone or in a list: its result does not
depend on the other items.
"""

import collections
import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from slap_jax.errors import UserError
from slap_jax.inference.own_process import require_own_process
from slap_jax.parallel.sharding import batch_sharding, compiling_for, replicated, target_platform

# Tokens per program on accelerators. On a CPU the last bits of a row may depend on its index in the batch, so there a
# program takes a single row.
ACCELERATOR_TOKENS = 32_768
_IN_FLIGHT = 4  # programs whose inputs may be in memory at once
_WAITING_TOKENS = 8 * ACCELERATOR_TOKENS  # limit on the rows that wait for a full batch: about 0.7 GB of samples

Item = TypeVar("Item")


class BatchSizeError(UserError, ValueError):
    """A batch size that is not a positive integer."""


def check_batch_size(size: Any) -> int | None:
    """Returns the largest number of clips or texts of a program; None for the default.

    Raises:
        BatchSizeError: `size` is neither None nor a positive integer.
    """
    if size is None:
        return None
    if not isinstance(size, (int, np.integer)) or isinstance(size, bool) or size < 1:
        raise BatchSizeError(f"batch_size is {size!r}; write a whole number, 1 or more, or None")
    return int(size)


def bucket_size(length: int, smallest: int = 1) -> int:
    """Returns the bucket of a length: 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, ...; less than 25 % above the length.

    Args:
        length: length in columns or tokens, at least 1.
        smallest: the first bucket; shorter items are padded to it.
    """
    size = smallest
    while size < length:
        size = max(size + 1, size * 5 // 4)
    return size


@dataclasses.dataclass(frozen=True)
class LengthBucketing:
    """Forms batches of equal length and runs them.

    Attributes:
        mesh: shards the rows over its `data` and `fsdp` axes and replicates the results; None for one device. All
            processes of the mesh must call with the same items.
        tokens_per_call: approximate number of tokens per program; None chooses it by platform.
        device: runs the programs, unless there is a mesh; None for JAX's default.
        most_rows: largest number of rows per program; None for no limit.
    """

    mesh: Mesh | None = None
    tokens_per_call: int | None = None
    device: Any | None = None
    most_rows: int | None = None

    def rows_per_call(self, row_tokens: int) -> int:
        """Returns the number of rows of a program whose rows have `row_tokens` tokens."""
        budget = self.tokens_per_call
        if budget is None:
            budget = 0 if self._platform() == "cpu" else ACCELERATOR_TOKENS
        rows = max(1, budget // row_tokens)
        if self.most_rows is not None:
            rows = min(rows, self.most_rows)
        num_shards = 1 if self.mesh is None else self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        return -(-rows // num_shards) * num_shards

    def output_sharding(self) -> NamedSharding | None:
        """Returns the `out_shardings` of jitted functions."""
        return None if self.mesh is None else replicated(self.mesh)

    def place(self, array: np.ndarray) -> jax.Array:
        """Puts a batch, which is the same in every process, on the devices."""
        if self.mesh is None:
            return jax.device_put(array, self.device)
        return jax.make_array_from_callback(array.shape, batch_sharding(self.mesh), lambda index: array[index])

    def _platform(self) -> str:
        return target_platform() if self.device is None else self.device.platform

    @contextlib.contextmanager
    def _placement(self) -> Iterator[None]:
        """In its body, programs are traced for the devices that will run them."""
        with contextlib.ExitStack() as contexts:
            if self.mesh is not None:  # each device then runs attention on its own rows
                contexts.enter_context(jax.set_mesh(self.mesh))
            elif self.device is not None:
                contexts.enter_context(compiling_for(self.device.platform))
            yield

    def stream(
        self,
        function: Callable[..., jax.Array],
        build: Callable[[Sequence[Item], int, int], Sequence[np.ndarray]],
        items: Iterable[Item],
        length: Callable[[Item], int],
        smallest: int,
        tokens_per_unit: int,
    ) -> Iterator[tuple[Item, np.ndarray]]:
        """Calls `function` on batches of items as they arrive; memory does not grow with the number of items.

        Args:
            function: jitted; takes arrays with a leading row axis and returns one.
            build: (items, rows, bucket) -> arguments of `function`; rows beyond the items are padding.
            items: one row each, fetched while programs run.
            length: units (columns, tokens) of an item.
            smallest: the smallest bucket.
            tokens_per_unit: tokens per unit.

        Yields:
            Each item with its row of the result: in the order of the items where a program takes one row (CPU),
            otherwise as batches complete.

        Raises:
            ForkError: see `require_own_process`.
        """
        require_own_process()
        waiting: dict[int, list[Item]] = collections.defaultdict(list)
        waiting_tokens = 0
        running: collections.deque[tuple[list[Item], jax.Array]] = collections.deque()

        def launch(bucket: int, rows: int) -> None:
            members = waiting.pop(bucket)
            with self._placement():
                arguments = [self.place(array) for array in build(members, rows, bucket)]
                running.append((members, function(*arguments)))

        def collect(limit: int) -> Iterator[tuple[Item, np.ndarray]]:
            while len(running) > limit:
                members, output = running.popleft()
                yield from zip(members, jax.device_get(output), strict=False)

        for item in items:
            bucket = bucket_size(length(item), smallest)
            waiting[bucket].append(item)
            waiting_tokens += bucket * tokens_per_unit
            rows = self.rows_per_call(bucket * tokens_per_unit)
            if len(waiting[bucket]) < rows:
                if waiting_tokens <= _WAITING_TOKENS:
                    continue
                bucket = max(waiting, key=lambda bucket: bucket * len(waiting[bucket]))
                rows = self.rows_per_call(bucket * tokens_per_unit)
            waiting_tokens -= bucket * tokens_per_unit * len(waiting[bucket])
            launch(bucket, rows)
            yield from collect(_IN_FLIGHT - 1)
        for bucket in sorted(waiting):
            launch(bucket, self.rows_per_call(bucket * tokens_per_unit))
            yield from collect(_IN_FLIGHT - 1)
        yield from collect(0)

    def run(
        self,
        function: Callable[..., jax.Array],
        build: Callable[[Sequence[int], int, int], Sequence[np.ndarray]],
        lengths: Sequence[int],
        smallest: int,
        tokens_per_unit: int,
        after_each: Callable[[], object] = lambda: None,
    ) -> list[np.ndarray]:
        """Calls `function` on items that are all in memory.

        Args:
            function: as for `stream`.
            build: as for `stream`; the items are indices into `lengths`.
            lengths: units (columns, tokens) of each item.
            smallest: the smallest bucket.
            tokens_per_unit: tokens per unit.
            after_each: called after each item.

        Returns:
            The result row of each item, in the order of `lengths`.
        """
        results: list[Any] = [None] * len(lengths)
        indices = range(len(lengths))
        for index, row in self.stream(function, build, indices, lengths.__getitem__, smallest, tokens_per_unit):
            results[index] = row
            after_each()
        return results
