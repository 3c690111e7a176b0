"""Runs a jitted function over clips or captions of any length with few compiled shapes and order-free results.

Each item gets a row of its own. Its length is rounded up to a bucket, and the number of rows of a bucket is fixed, so a
program is compiled once per bucket and an item meets the same program whether it comes alone or in a list.
"""

import collections
import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from slap_jax.parallel.sharding import batch_sharding, replicated, target_platform

# Rows share one program, and on a CPU a row's last bits may depend on its place in the batch; there a program takes one
# row. Accelerators get batches of about that many tokens.
ACCELERATOR_TOKENS = 32_768
_IN_FLIGHT = 4  # calls whose inputs may be in memory at once

# Rows wait until their program is full, at most so many tokens in all: about 0.7 GB of samples.
_WAITING_TOKENS = 8 * ACCELERATOR_TOKENS
Item = TypeVar("Item")


def bucket_size(length: int, smallest: int = 1) -> int:
    """The bucket of a length: 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, ...; less than 25 % above the length.

    Args:
        length: columns or tokens, at least 1.
        smallest: the first bucket; shorter items are padded to it.
    """
    size = smallest
    while size < length:
        size = max(size + 1, size * 5 // 4)
    return size


@dataclasses.dataclass(frozen=True)
class Rows:
    """How rows are formed and where they run.

    Attributes:
        mesh: split the rows over its `data` and `fsdp` axes and give every device the whole result; None for one
            device. All processes of the mesh must call with the same items.
        tokens_per_call: about how many tokens a program handles; None chooses by the platform.
    """

    mesh: Mesh | None = None
    tokens_per_call: int | None = None

    def count(self, bucket_tokens: int) -> int:
        """Rows of a program whose row has that many tokens."""
        budget = self.tokens_per_call
        if budget is None:
            budget = 0 if target_platform() == "cpu" else ACCELERATOR_TOKENS
        rows = max(1, budget // bucket_tokens)
        ways = 1 if self.mesh is None else self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        return -(-rows // ways) * ways

    def output_sharding(self) -> NamedSharding | None:
        """Sharding to give `jax.jit` for results."""
        return None if self.mesh is None else replicated(self.mesh)

    def place(self, array: np.ndarray) -> jax.Array:
        """Puts rows, the same in every process, on the devices."""
        if self.mesh is None:
            return jax.device_put(array)
        return jax.make_array_from_callback(array.shape, batch_sharding(self.mesh), lambda index: array[index])

    def stream(
        self,
        function: Callable[..., jax.Array],
        build: Callable[[Sequence[Item], int, int], Sequence[np.ndarray]],
        items: Iterable[Item],
        length: Callable[[Item], int],
        smallest: int,
        tokens_per_unit: int,
    ) -> Iterator[tuple[Item, np.ndarray]]:
        """Calls `function` on rows of items as they come; memory does not grow with their number.

        Args:
            function: jitted; arrays with a leading row axis to an array with one.
            build: (items, rows, bucket) -> its arguments; rows beyond the items are padding.
            items: one row each.
            length: units (columns, tokens) of an item.
            smallest: the smallest bucket.
            tokens_per_unit: tokens that one unit stands for.

        Yields:
            Each item and its row of the result, when its program has run: in the order of the items where a program
            takes one row (CPU), else not. The next items are fetched while programs run.
        """
        waiting: dict[int, list[Item]] = collections.defaultdict(list)
        waiting_tokens = 0
        running: collections.deque[tuple[list[Item], jax.Array]] = collections.deque()

        def launch(bucket: int, rows: int) -> None:
            members = waiting.pop(bucket)
            # With the mesh in context every device runs attention on its own rows.
            with contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh):
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
            rows = self.count(bucket * tokens_per_unit)
            if len(waiting[bucket]) < rows:
                if waiting_tokens <= _WAITING_TOKENS:
                    continue
                bucket = max(waiting, key=lambda bucket: bucket * len(waiting[bucket]))
                rows = self.count(bucket * tokens_per_unit)
            waiting_tokens -= bucket * tokens_per_unit * len(waiting[bucket])
            launch(bucket, rows)
            yield from collect(_IN_FLIGHT - 1)
        for bucket in sorted(waiting):
            launch(bucket, self.count(bucket * tokens_per_unit))
            yield from collect(_IN_FLIGHT - 1)
        yield from collect(0)

    def run(
        self,
        function: Callable[..., jax.Array],
        build: Callable[[Sequence[int], int, int], Sequence[np.ndarray]],
        lengths: Sequence[int],
        smallest: int,
        tokens_per_unit: int,
    ) -> list[np.ndarray]:
        """Calls `function` on rows of items that are all in memory.

        Args:
            function: as for `stream`.
            build: as for `stream`; an item is its index.
            lengths: units (columns, tokens) of each item.
            smallest: the smallest bucket.
            tokens_per_unit: tokens that one unit stands for.

        Returns:
            The result row of each item, in the order of `lengths`.
        """
        results: list[Any] = [None] * len(lengths)
        indices = range(len(lengths))
        for index, row in self.stream(function, build, indices, lengths.__getitem__, smallest, tokens_per_unit):
            results[index] = row
        return results
