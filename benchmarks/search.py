"""Searching an index of many windows: seconds of an exact and of an approximate search, and how far they agree.

The vectors stand in for embeddings: files of 100 windows scattered round a point of their own, all of them in a space
of 32 dimensions within the 512. Prints one JSON object for each size.

Run: python benchmarks/search.py [--windows 100000 1000000] [--exact-only] [--directory DIR]
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from slap_jax.search.index import FileState, Manifest, SearchIndex, file_entry
from slap_jax.search.search import Hit, approximate_hits, build_graph, exact_hits
from slap_jax.search.writer import IndexWriter

WINDOWS_PER_FILE = 100
HITS = 10


class Vectors:
    """A source of vectors that are like those of recordings."""

    def __init__(self, embed_dim: int, inner_dim: int = 32):
        self._generator = np.random.default_rng(0)
        self._spread = self._generator.normal(size=(inner_dim, embed_dim)).astype(np.float32)

    def of_file(self, windows: int) -> Float[np.ndarray, "w E"]:
        """Returns unit vectors round a new point."""
        inner = self._generator.normal(size=(1, len(self._spread)))
        near = inner + 0.7 * self._generator.normal(size=(windows, len(self._spread)))
        vectors = near.astype(np.float32) @ self._spread
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make_index(folder: Path, windows: int, embed_dim: int) -> Vectors:
    """Writes an index; returns the source of its vectors, for queries."""
    folder.mkdir()
    writer = IndexWriter(folder, Manifest("benchmark000", embed_dim, "float32", 10.0, 5.0, "/recordings"))
    vectors = Vectors(embed_dim)
    starts = 5.0 * np.arange(WINDOWS_PER_FILE)
    for number in range(windows // WINDOWS_PER_FILE):
        times = np.stack([starts, starts + 10], axis=1)
        writer.add_content(str(number), times, vectors.of_file(WINDOWS_PER_FILE))
        writer.note(file_entry(f"{number}.wav", FileState(1, 1, str(number))))
    writer.commit()
    writer.close()
    return vectors


def measure(folder: Path, windows: int, embed_dim: int, queries: int, exact_only: bool = False) -> dict[str, Any]:
    """Times both searches on one index, or the exact one alone."""
    source = make_index(folder, windows, embed_dim)
    asked = list(source.of_file(queries))
    start = time.perf_counter()
    index = SearchIndex(folder)
    exact_hits(index, asked[0], HITS)
    first_seconds = time.perf_counter() - start
    exact, exact_seconds = _timed(lambda query: exact_hits(index, query, HITS), asked)
    facts = {
        "windows": index.manifest.rows,
        "embed_dim": embed_dim,
        "megabytes": round(sum(file.stat().st_size for file in folder.rglob("*.bin")) / 1e6, 1),
        "open_and_first_exact_seconds": round(first_seconds, 3),
        "exact_seconds": round(exact_seconds, 4),
    }
    if exact_only:
        return facts
    start = time.perf_counter()
    build_graph(folder, progress=False)
    graph_seconds = time.perf_counter() - start
    index = SearchIndex(folder)
    near, near_seconds = _timed(lambda query: approximate_hits(index, query, HITS), asked)
    same = sum(len({_moment(hit) for hit in a} & {_moment(hit) for hit in b}) for a, b in zip(exact, near, strict=True))
    return facts | {
        "graph_seconds": round(graph_seconds, 1),
        "approximate_seconds": round(near_seconds, 4),
        "first_ten_that_agree": round(same / sum(len(hits) for hits in exact), 3),
    }


def _timed(search: Callable[[Float[np.ndarray, " E"]], list[Hit]], queries: Sequence[Any]) -> tuple[list[Any], float]:
    """Returns the hits of each query, and the median seconds."""
    found, seconds = [], []
    for query in queries:
        start = time.perf_counter()
        found.append(search(query))
        seconds.append(time.perf_counter() - start)
    return found, float(np.median(seconds))


def _moment(hit: Hit) -> tuple[str, float]:
    return hit.path, hit.start


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the measurements, after the machine they were taken on."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--windows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--embed-dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--exact-only", action="store_true", help="make no graph, which takes long")
    parser.add_argument("--directory", type=Path, help="for the indexes (a temporary one)")
    options = parser.parse_args(arguments)
    from machine import machine  # beside this file; tests import this one as part of a package

    print(json.dumps({"machine": machine("numpy", "usearch"), "load": os.getloadavg()[0]}), flush=True)
    for windows in options.windows:
        with tempfile.TemporaryDirectory(dir=options.directory) as folder:
            found = measure(Path(folder) / "index", windows, options.embed_dim, options.queries, options.exact_only)
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
