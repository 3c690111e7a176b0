"""Runs a jitted function over clips or captions of any length with few compiled shapes and order-free results.

Each item gets a row of its own. Its length is rounded up to a bucket, and the number of rows of a bucket is fixed, so a
program is compiled once per bucket and an item meets the same program whether it comes alone or in a list.
"""

import collections
import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from slap_jax.parallel.mesh import batch_sharding, replicated
from slap_jax.parallel.platform import target_platform

# Rows share one program, and on a CPU a row's last bits may depend on its place in the batch; there a program takes one
# row. Accelerators get batches of about that many tokens.
ACCELERATOR_TOKENS = 32_768
_IN_FLIGHT = 4  # calls whose inputs may be in memory at once


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

    def run(
        self,
        function: Callable[..., jax.Array],
        build: Callable[[Sequence[int], int, int], Sequence[np.ndarray]],
        lengths: Sequence[int],
        smallest: int,
        tokens_per_unit: int,
    ) -> list[np.ndarray]:
        """Calls `function` on rows of all items.

        Args:
            function: jitted; arrays with a leading row axis to an array with one.
            build: (indices of the items, rows, bucket) -> its arguments; rows beyond the items are padding.
            lengths: units (columns, tokens) of each item.
            smallest: the smallest bucket.
            tokens_per_unit: tokens that one unit stands for.

        Returns:
            The result row of each item, in the order of `lengths`.
        """
        buckets: dict[int, list[int]] = collections.defaultdict(list)
        for index, length in enumerate(lengths):
            buckets[bucket_size(length, smallest)].append(index)
        results: list[Any] = [None] * len(lengths)
        running: collections.deque[tuple[list[int], jax.Array]] = collections.deque()

        def collect(limit: int) -> None:
            while len(running) > limit:
                indices, output = running.popleft()
                for index, row in zip(indices, jax.device_get(output), strict=False):
                    results[index] = row

        # With the mesh in context every device runs attention on its own rows.
        with contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh):
            for bucket, members in sorted(buckets.items()):
                rows = self.count(bucket * tokens_per_unit)
                for start in range(0, len(members), rows):
                    indices = members[start : start + rows]
                    arguments = [self.place(array) for array in build(indices, rows, bucket)]
                    running.append((indices, function(*arguments)))
                    collect(_IN_FLIGHT - 1)
        collect(0)
        return results
