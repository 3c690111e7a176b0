"""Prepares random collections of good and bad files and compares the clips with those that were put into them.

Each collection is a folder with sidecars, a JSON lines or CSV manifest, an audiofolder, WebDataset tars or Parquet
files. Prepared and rejected clips must be all that are present, and the prepared ones those without a fault. Prints
one JSON object; exits 1 if a clip was lost without being counted.

Run in the repository: PYTHONPATH=. python benchmarks/lost_clips.py [--collections 200]
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from slap_jax.data.collections.open_collection import open_collection
from slap_jax.data.preparation.prepare import PrepareError, prepare
from tests.data.random_collections import write_random_collection


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--collections", type=int, default=200)
    options = parser.parse_args()
    started, wrong, totals, rejected = time.monotonic(), [], Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.collections):
            collection = write_random_collection(Path(folder) / f"in {seed}", seed)
            opened = open_collection(collection.source, **collection.options)
            output = Path(folder) / f"out {seed}"
            clips, reasons = 0, Counter[str]()
            try:
                prepared = prepare(opened, output, workers=1, max_rejected=collection.present, log=lambda line: None)
            except PrepareError:  # every clip has a fault
                reasons["no clip is left"] = collection.present
            else:
                clips, reasons = sum(prepared.clips.values()), Counter(prepared.rejected)
            if clips != collection.good or clips + reasons.total() != collection.present:
                wrong.append({"seed": seed, "prepared": clips, "rejected": reasons, "present": collection.present})
            totals.update(collections=1, present=collection.present, good=collection.good, prepared=clips)
            rejected += reasons
    seconds = round(time.monotonic() - started, 1)
    print(json.dumps({**totals, "rejected": rejected, "seconds": seconds, "wrong": wrong}, indent=2))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
