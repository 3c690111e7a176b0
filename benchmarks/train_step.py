"""Speed of the contrastive training step and of embedding on the CPU, compared with PyTorch.

The unit is seconds of real audio per CPU second. All sides use the same model sizes, clips of the same log-normal
durations, fp32 and the same cores, and compute the log-mel from int16 samples. They take turns in separate processes,
and the median of the rounds is reported. Reading and batching are not measured: the batches are in memory.

    slap_jax_packed      packed rows
    slap_jax_padded      the same program with one clip per row, padded to the longest clip; shows the gain from packing
    torch_padded         PyTorch with `scaled_dot_product_attention`, padded to the longest clip of each batch
    torch_bucketed       the same with batches from 8 length buckets
    torch_bucketed_32    the same with 32 length buckets: little padding is left, but it needs a pool of 32 batches
    clap_model           the audio tower of ClapModel (transformers), clips cut or repeated to 10 s; embedding only

Run: pip install -e '.[benchmarks]' && python benchmarks/train_step.py > train_step.json
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

sys.path.append(str(Path(__file__).parent))  # tests import this file as part of a package

from machine import machine
from mixed_clips import COLUMN_SAMPLES, Batches, MixedClip, by_length, in_order, mixed_clips

from slap_jax.config.defaults import default_config, source

OURS = ("slap_jax_packed", "slap_jax_padded")
PEERS = ("torch_padded", "torch_bucketed", "torch_bucketed_32", "clap_model")
TASKS = ("train", "embed")
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "torch", "transformers")
ROW_COLUMNS = 304  # 48.6 s
POOL = 32  # number of batches from which a representative sample is measured


def benchmark_config(clips_per_step: int = 32) -> ConfigDict:
    """Returns a config with the contrastive objective alone and about `clips_per_step` clips in a step."""
    config = default_config()
    config.data.train.clips = source("unused", "train")
    # 8 clips of 6 s fill a row.
    config.data.update(rows=max(1, clips_per_step // 8), columns=ROW_COLUMNS, slots=32, text_tokens=192)
    config.model.update(embed_dim=256, vocab_size=2_000, compute_dtype="float32")
    config.model.scan_unroll = 2  # all super-blocks: on a CPU, a loop over layers copies its residuals
    config.model.audio_encoder.update(layers=6, heads=6, width=384, mlp_width=1_024)
    config.model.text_encoder.update(layers=3, heads=3, width=192, mlp_width=512)
    config.objectives.distillation.weight = 0.0
    config.objectives.captioning.weight = 0.0
    config.spec_augment.update(time_masks=0, frequency_masks=0)  # the PyTorch model has none
    config.optimizer.warmup_steps = 100
    return config


def batches_of(side: str, config: ConfigDict, clips_per_step: int, count: int) -> Batches:
    """Returns the clips of each batch of one side, or of each row if the side packs."""
    if side == "slap_jax_packed":
        rows, bins = max(1, count // 2) * config.data.rows, config.data.packing_bins
        # The first complete rows are the fullest. Skip them: the rows after them are as full as in a long run.
        clips = mixed_clips(24 * bins + 10 * rows, config.model.vocab_size)
        return packed_rows(clips, config)[bins : bins + rows]
    if side == "torch_bucketed":
        return by_length(mixed_clips(count * clips_per_step, config.model.vocab_size), clips_per_step, count, count)
    clips = mixed_clips(POOL * clips_per_step, config.model.vocab_size)
    if side == "torch_bucketed_32":
        return by_length(clips, clips_per_step, POOL, count)
    # Padded batches are slow, so measure only a few, spread evenly over the lengths of their longest clips.
    ordered = sorted(in_order(clips, clips_per_step), key=longest_columns)
    chosen = max(1, count * 3 // 8)
    return [ordered[POOL * (2 * number + 1) // (2 * chosen)] for number in range(chosen)]


def longest_columns(clips: Sequence[MixedClip]) -> int:
    """Returns the number of columns of the longest clip."""
    return max(clip.columns for clip in clips)


def packed_rows(clips: Sequence[MixedClip], config: ConfigDict) -> Batches:
    """Returns the clips of each row, packed as in training."""
    from slap_jax.data.batches.rows import RowPacker

    data = config.data
    packer: RowPacker[MixedClip] = RowPacker(data.columns, data.text_tokens, data.slots, data.packing_bins)
    rows = (packer.add(clip, clip.columns, len(clip.tokens)) for clip in clips)
    return [[placed.item for placed in row] for row in rows if row is not None]


def our_batches(side: str, config: ConfigDict, clips_per_step: int, count: int) -> Iterator[tuple[Any, float]]:
    """Yields batches on the device with their seconds of audio; sets the row sizes in `config` for the padded side."""
    import jax
    import numpy as np

    from slap_jax.data.packing import Clip, pack_rows

    groups = batches_of(side, config, clips_per_step, count)
    if side == "slap_jax_padded":
        longest = max(map(longest_columns, groups))
        captions = max(len(clip.tokens) for clips in groups for clip in clips)
        config.data.update(rows=clips_per_step, columns=longest, slots=1, text_tokens=captions)
        groups = [[clip] for clips in groups for clip in clips]
    data = config.data
    rows = [
        pack_rows(
            [Clip(clip.waveform, clip.tokens, key=index * data.slots + slot) for slot, clip in enumerate(row)],
            *(data.columns, data.slots, data.text_tokens, COLUMN_SAMPLES),
            rows=1,
        )[0]
        for index, row in enumerate(groups)
    ]
    for start in range(0, len(rows) - data.rows + 1, data.rows):
        batch = jax.tree.map(lambda *parts: np.concatenate(parts), *rows[start : start + data.rows])
        seconds = sum(clip.seconds for row in groups[start : start + data.rows] for clip in row)
        yield jax.device_put(batch), seconds


def our_side(
    side: str, task: str, config: ConfigDict, clips_per_step: int, count: int
) -> Iterator[tuple[Callable[[], Any], float]]:
    """Yields calls that each compute one of our batches, with its seconds of audio."""
    import jax
    from flax import nnx

    from slap_jax.inference.embedder import inference_config
    from slap_jax.models.slap import Slap
    from slap_jax.training.optimizer import create_optimizer
    from slap_jax.training.state import abstract_learner, create_state
    from slap_jax.training.step import make_train_step

    batches = list(our_batches(side, config, clips_per_step, count))
    transform = create_optimizer(config.optimizer, config.train.steps)
    state = jax.jit(lambda: create_state(config, transform))()
    if task == "train":
        step = jax.jit(make_train_step(config, abstract_learner(config), transform), donate_argnums=0)

        def train(batch: Any) -> Any:
            nonlocal state
            state, metrics = step(state, batch)
            return jax.block_until_ready(metrics)

        call = train
    else:
        inference = inference_config(config)
        graph, _ = nnx.split(nnx.eval_shape(lambda: Slap(inference, rngs=nnx.Rngs(0))))

        @jax.jit
        def embed_rows(params: Any, batch: Any) -> Any:
            model = nnx.merge(graph, params)
            patches = model.audio_patches(batch.waveform, batch.audio_segment_ids)
            tokens = model.audio_tokens(patches, batch.audio_segment_ids, batch.audio_positions)
            return model.audio_embeddings(tokens, batch.audio_segment_ids, config.data.slots)

        def embed(batch: Any) -> Any:
            return jax.block_until_ready(embed_rows(state.params["model"], batch))

        call = embed
    for batch, seconds in batches:
        yield lambda batch=batch: call(batch), seconds


def measure(calls: Sequence[tuple[Callable[[], Any], float]], warm_up: Sequence[int]) -> dict[str, float]:
    """Runs every call once, after warm-up calls that compile and allocate. The CPU time is the sum over all threads."""
    for index in warm_up:
        calls[index][0]()
    wall, cpu, audio = time.perf_counter(), time.process_time(), 0.0
    for call, seconds in calls:
        call()
        audio += seconds
    return {"audio_s": audio, "cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}


def run_side(side: str, task: str, clips_per_step: int, count: int, threads: int) -> dict[str, float]:
    """Measures one side in this process, on the first `threads` cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])  # before XLA counts the cores
    config = benchmark_config(clips_per_step)
    if side in OURS:
        return measure(list(our_side(side, task, config, clips_per_step, count)), [0])
    import train_step_peers

    batches = batches_of(side, config, clips_per_step, count)
    if side == "clap_model":
        calls = train_step_peers.clap_calls(batches, threads)
    else:
        calls = train_step_peers.torch_calls(task, config, batches, threads)
    return measure(calls, [len(calls) // 2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="repetitions; the median is reported")
    parser.add_argument("--clips", type=int, default=32, help="mean number of clips in a step")
    parser.add_argument("--batches", type=int, default=8, help="batches of a bucketed side per round, one per bucket")
    parser.add_argument("--threads", type=int, default=1, help="number of cores for each side")
    parser.add_argument("--sides", nargs="+", default=[*OURS, *PEERS], choices=(*OURS, *PEERS))
    parser.add_argument("--task", choices=TASKS, help="run one task only")
    parser.add_argument("--one-side", choices=(*OURS, *PEERS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one_side:
        print(json.dumps(run_side(options.one_side, options.task, options.clips, options.batches, options.threads)))
        return

    with tempfile.TemporaryDirectory() as folder:
        # With a compilation cache, programs are compiled only in the first round.
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1"}
        environment.setdefault("JAX_COMPILATION_CACHE_DIR", folder)

        def in_own_process(side: str, task: str) -> dict[str, float]:
            sizes = ["--clips", options.clips, "--batches", options.batches, "--threads", options.threads]
            command = [sys.executable, __file__, "--one-side", side, "--task", task, *map(str, sizes)]
            run = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment)
            result = json.loads(run.stdout.splitlines()[-1])
            print(f"{task} {side}: {result}", file=sys.stderr)
            return result

        runs = [
            (side, task)
            for task in ([options.task] if options.task else TASKS)
            for side in options.sides
            if task == "embed" or side != "clap_model"
        ]
        rounds = [{run: in_own_process(*run) for run in runs} for _ in range(options.rounds)]
    sizes = {"clips_per_step": options.clips, "threads": options.threads, "rounds": options.rounds}
    print(json.dumps({"machine": machine(*LIBRARIES), **sizes, **summary(rounds)}, indent=2))


def summary(rounds: list[dict[tuple[str, str], dict[str, float]]]) -> dict[str, Any]:
    """Returns the median speeds by task and side, and the ratio of our packed rows to each other side."""
    results: dict[str, Any] = {}
    for side, task in rounds[0]:
        of_task = results.setdefault(task, {"audio_s_per_cpu_s": {}, "audio_s_per_wall_s": {}})
        for name, time_key in (("audio_s_per_cpu_s", "cpu_s"), ("audio_s_per_wall_s", "wall_s")):
            speeds = [run[side, task]["audio_s"] / run[side, task][time_key] for run in rounds]
            of_task[name][side] = round(statistics.median(speeds), 2)
    for of_task in results.values():
        speeds = of_task["audio_s_per_cpu_s"]
        if "slap_jax_packed" in speeds:
            ours = speeds["slap_jax_packed"]
            others = {side: speed for side, speed in speeds.items() if side != "slap_jax_packed"}
            of_task["packed_rows_to"] = {side: round(ours / speed, 2) for side, speed in others.items()}
    return results


if __name__ == "__main__":
    main()
