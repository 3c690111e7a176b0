"""Times exact and approximate searches of an index of many windows, next to a brute-force search in NumPy.

The vectors stand in for embeddings: each file has 100 windows scattered around a random point, in a space of 32
dimensions within the 512. NumPy has all vectors in memory; an index reads them from disk, or from the page cache. The
three searches of a query follow each other, so that all of them see the same load. Prints one JSON object per size.

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

from slap_jax.search.index import FileState, SearchIndex, Settings, create_tables
from slap_jax.search.search import Hit, best_hits
from slap_jax.search.update import IndexWriter

WINDOWS_PER_FILE = 100
FILES_PER_COMMIT = 100
HITS = 10


class Vectors:
    """A source of vectors with the structure of those of recordings."""

    def __init__(self, embed_dim: int, inner_dim: int = 32):
        self._generator = np.random.default_rng(0)
        self._basis = self._generator.normal(size=(inner_dim, embed_dim)).astype(np.float32)

    def of_file(self, windows: int) -> Float[np.ndarray, "w E"]:
        """Returns unit vectors around a new point."""
        point = self._generator.normal(size=(1, len(self._basis)))
        points = point + 0.7 * self._generator.normal(size=(windows, len(self._basis)))
        vectors = points.astype(np.float32) @ self._basis
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make_index(folder: Path, windows: int, embed_dim: int) -> tuple[Vectors, Float[np.ndarray, "n E"]]:
    """Writes an index; returns the source of its vectors, for queries, and the vectors."""
    folder.mkdir()
    create_tables(folder, Settings("benchmark000", embed_dim, "float32", 10.0, 5.0, "/recordings"))
    writer, source = IndexWriter(SearchIndex(folder)), Vectors(embed_dim)
    starts = 5.0 * np.arange(WINDOWS_PER_FILE)
    times = np.stack([starts, starts + 10], axis=1)
    vectors = np.empty((windows // WINDOWS_PER_FILE * WINDOWS_PER_FILE, embed_dim), np.float32)
    for number in range(windows // WINDOWS_PER_FILE):
        rows = slice(number * WINDOWS_PER_FILE, (number + 1) * WINDOWS_PER_FILE)
        vectors[rows] = source.of_file(WINDOWS_PER_FILE)
        writer.add_windows(str(number), times, vectors[rows])
        writer.set_file(f"{number}.wav", FileState(1, 1, str(number)))
        if number % FILES_PER_COMMIT == FILES_PER_COMMIT - 1:
            writer.commit()
    writer.finish(approximate=False)
    return source, vectors


def measure(folder: Path, windows: int, embed_dim: int, queries: int, exact_only: bool = False) -> dict[str, Any]:
    """Times the searches of one index."""
    start = time.perf_counter()
    source, vectors = make_index(folder, windows, embed_dim)
    write_seconds = time.perf_counter() - start
    start = time.perf_counter()
    index = SearchIndex(folder)
    best_hits(index, vectors[0], HITS)
    first_seconds = time.perf_counter() - start
    facts: dict[str, Any] = {
        "windows": index.windows.count_rows(),
        "embed_dim": embed_dim,
        "megabytes": round(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6, 1),
        "write_seconds": round(write_seconds, 1),
        "open_and_first_exact_seconds": round(first_seconds, 3),
    }
    searches: dict[str, Callable[[Any], Any]] = {
        "numpy": lambda query: np.argpartition(-(vectors @ query), HITS)[:HITS],
        "exact": lambda query: best_hits(index, query, HITS),
    }
    if not exact_only:
        start = time.perf_counter()
        index.update_vector_index()
        facts["vector_index_seconds"] = round(time.perf_counter() - start, 1)
        searches["approximate"] = lambda query: best_hits(index, query, HITS, approximate=True)
    seconds: dict[str, list[float]] = {name: [] for name in searches}
    hits: dict[str, list[Any]] = {name: [] for name in searches}
    for query in source.of_file(queries):
        for name, search in searches.items():
            start = time.perf_counter()
            hits[name].append(search(query))
            seconds[name].append(time.perf_counter() - start)
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    facts |= {f"{name}_seconds": round(value, 4) for name, value in medians.items()}
    facts |= {f"{name}_to_numpy": round(medians[name] / medians["numpy"], 2) for name in searches if name != "numpy"}
    if not exact_only:
        same = sum(
            len({_moment(hit) for hit in a} & {_moment(hit) for hit in b})
            for a, b in zip(hits["exact"], hits["approximate"], strict=True)
        )
        facts["first_ten_that_agree"] = round(same / sum(map(len, hits["exact"])), 3)
    return facts


def _moment(hit: Hit) -> tuple[str, float]:
    return hit.path, hit.start


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the measurements, after the machine they were taken on."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--windows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--embed-dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--exact-only", action="store_true", help="build no vector index")
    parser.add_argument("--directory", type=Path, help="for the indexes (a temporary one)")
    options = parser.parse_args(arguments)
    from machine import machine  # next to this file; tests import this file as part of a package

    print(json.dumps({"machine": machine("numpy", "lancedb"), "load": os.getloadavg()[0]}), flush=True)
    for windows in options.windows:
        with tempfile.TemporaryDirectory(dir=options.directory) as folder:
            facts = measure(Path(folder) / "index", windows, options.embed_dim, options.queries, options.exact_only)
            print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
