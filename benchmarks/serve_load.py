"""What `slap serve` does under load on the loopback interface: statuses, bounded queue, memory, latency.

A real server process with a small random model answers on 127.0.0.1. Clients in this process send

1. requests, one after the other on several connections, of clips of 0.2 to 2 s, texts and labels, of which one in ten
   is malformed: junk or truncated audio, broken forms, impossible values. Every good one must be answered with 200 and
   every malformed one with a status from 400 to 499. The resident memory of the server is read after the first tenth
   and at the end.
2. a burst of more requests at once than may wait. Each must be answered with 200 or refused with 503.

The program exits with 1 if a status is wrong, the server is gone, or its memory grew by more than --most-growth MB.

Run: pip install -e '.[dev]' && python benchmarks/serve_load.py > benchmarks/results/serve_load.json
"""

import argparse
import asyncio
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))  # tests import this file as part of a package

import numpy as np
import soundfile
from machine import machine

RATE = 16_000
LIBRARIES = ("fastapi", "jax", "starlette", "uvicorn")
JUNK = (b"", b"RIFFnothing", bytes(range(256)) * 40, b"\xff\xfb\x90\x00" * 100, b"fLaC" + bytes(60))
FORMATS = (("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III"))


def serve(port: int) -> None:
    """Serves a random model; runs in a process of its own."""
    from random_model import random_model

    from slap_jax.config.defaults import default_config
    from slap_jax.serve.app import serve

    config = default_config()
    config.model.update(embed_dim=64, vocab_size=400, compute_dtype="float32")
    for tower in ("audio_encoder", "text_encoder"):
        config.model[tower].update(layers=3, heads=2, width=64, mlp_width=128)
    with tempfile.TemporaryDirectory() as folder:
        serve(random_model(config, Path(folder)), port=port)


def clip(generator: np.random.Generator) -> bytes:
    """Returns a random clip in a random format."""
    format, subtype = FORMATS[generator.integers(len(FORMATS))]
    buffer = io.BytesIO()
    samples = 0.1 * generator.standard_normal(int(RATE * generator.uniform(0.2, 2)))
    soundfile.write(buffer, samples, RATE, format=format, subtype=subtype)
    return buffer.getvalue()


def good_request(generator: np.random.Generator, clips: list[bytes]) -> dict[str, Any]:
    """Returns a request that the service must answer."""
    audio = [("audio", ("clip", clips[generator.integers(len(clips))]))]
    kind = generator.integers(3)
    if kind == 0:
        return {"url": "/embed", "files": audio * int(generator.integers(1, 4))}
    if kind == 1:
        return {"url": "/embed", "data": {"text": [f"a dog barks {generator.integers(1_000)} times"]}}
    return {"url": "/classify", "files": audio, "data": {"labels": ["dog", "rain", f"bell {generator.integers(20)}"]}}


def bad_request(generator: np.random.Generator, clips: list[bytes]) -> dict[str, Any]:
    """Returns a request that the service must refuse."""
    good = clips[generator.integers(len(clips))]
    kind = generator.integers(6)
    if kind == 0:
        return {"url": "/embed", "files": [("audio", ("junk", JUNK[generator.integers(len(JUNK))]))]}
    if kind == 1:  # cut inside the header
        return {"url": "/embed", "files": [("audio", ("cut", good[: generator.integers(1, 20)]))]}
    if kind == 2:
        return {"url": "/classify", "files": [("audio", ("clip", good))]}
    if kind == 3:
        headers = {"content-type": "multipart/form-data; boundary=x"}
        return {"url": "/embed", "content": generator.bytes(200), "headers": headers}
    if kind == 4:
        return {"url": "/embed", "data": {"text": [" "]}}
    return {"url": "/embed", "files": [("audio", ("clip", good))] * 33}


async def load(base: str, pid: int, count: int, connections: int) -> dict[str, Any]:
    """Sends the requests; returns statuses, memory and latency."""
    import httpx

    generator = np.random.default_rng(0)
    clips = [clip(generator) for _ in range(200)]
    plan = [generator.random() < 0.9 for _ in range(count)]
    requests = iter([(good, (good_request if good else bad_request)(generator, clips)) for good in plan])
    statuses: Counter[str] = Counter()
    seconds: list[float] = []
    wrong: list[str] = []
    memory: dict[int, float] = {}
    async with httpx.AsyncClient(base_url=base, timeout=60) as client:

        async def connection() -> None:
            for good, request in requests:
                start = time.perf_counter()
                response = await client.post(**request)
                seconds.append(time.perf_counter() - start)
                statuses[f"{'good' if good else 'malformed'} {response.status_code}"] += 1
                if not (response.status_code == 200 if good else 400 <= response.status_code < 500):
                    wrong.append(f"{request['url']}: {response.status_code} {response.text[:200]}")
                if len(seconds) % max(count // 10, 1) == 0:
                    memory[len(seconds)] = resident_mb(pid)

        await asyncio.gather(*[connection() for _ in range(connections)])
        burst = [client.post(**good_request(generator, clips)) for _ in range(40)]
        answered = Counter(response.status_code for response in await asyncio.gather(*burst))
        if set(answered) - {200, 503}:
            wrong.append(f"burst: {dict(answered)}")
        alive = (await client.get("/health")).status_code == 200
    memories = list(memory.values())
    return {
        "requests": count,
        "connections": connections,
        "statuses": dict(sorted(statuses.items())),
        "wrong": wrong[:10],
        "burst_of_40": {str(status): number for status, number in sorted(answered.items())},
        "alive": alive,
        "resident_mb": [round(value, 1) for value in memories],
        "growth_mb": round(memories[-1] - memories[0], 1),
        "median_ms": round(1e3 * float(np.median(seconds)), 1),
        "p99_ms": round(1e3 * float(np.quantile(seconds, 0.99)), 1),
    }


def resident_mb(pid: int) -> float:
    """Returns the resident memory of a process in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(count: int, connections: int) -> dict[str, Any]:
    """Starts the server, sends the load, and stops the server."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, __file__, "--serve", str(port)]
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(command, stderr=log)
        try:
            deadline = time.monotonic() + 300
            while "listening at" not in (log.seek(0), log.read())[1]:
                if server.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"the server did not start:\n{(log.seek(0), log.read())[1]}")
                time.sleep(0.2)
            return asyncio.run(load(f"http://127.0.0.1:{port}", server.pid, count, connections))
        finally:
            server.terminate()
            server.wait(30)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000, help="number of requests (10000)")
    parser.add_argument("--connections", type=int, default=4, help="clients at the same time (4)")
    parser.add_argument("--most-growth", type=float, default=50.0, help="allowed growth of the memory in MB (50)")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve is not None:
        serve(options.serve)
        return 0
    result = {**measure(options.requests, options.connections), "machine": machine(*LIBRARIES)}
    print(json.dumps(result, indent=2))
    return int(bool(result["wrong"]) or not result["alive"] or result["growth_mb"] > options.most_growth)


if __name__ == "__main__":
    raise SystemExit(main())
