"""Trains SLAP: one script, read from top to bottom.

    slap train --config configs/demo.py --run-dir runs/demo

A run starts from the first of these that exists: (1) the newest checkpoint of the run directory, with its data state;
(2) the parameters of `config.init_from`, or of `config.init_text_from` for the text tower; (3) random parameters.
All randomness is derived from (seed, step), so a resumed run is bit-identical to an uninterrupted one.
"""

import contextlib
import functools
import json
import logging
import os
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from slap_jax.atomic import write_text_atomic
from slap_jax.checkpoints.best import BestCheckpoint
from slap_jax.checkpoints.run import EXIT_PREEMPTED, Checkpoints, check_architecture, latest_step, restore_data_state
from slap_jax.config.defaults import classes_in_batch
from slap_jax.config.validate import require_vocabulary, validate
from slap_jax.data.batches.before_training import clips_per_batch, warnings_before_training
from slap_jax.data.batches.labels import reads_captions
from slap_jax.data.batches.leakage import check_leakage
from slap_jax.data.batches.pipeline import TrainBatches
from slap_jax.data.batches.prefetch import Prefetch
from slap_jax.data.records import open_split
from slap_jax.data.tokenizer import load_tokenizer
from slap_jax.errors import UserError, require_path
from slap_jax.evaluation.evaluate import scalars
from slap_jax.evaluation.held_out_loss import tie_break
from slap_jax.evaluation.in_loop import LoopEvaluation
from slap_jax.evaluation.scorer import CaptionWriter
from slap_jax.evaluation.suites import loop_tasks
from slap_jax.evaluation.task import load_tasks
from slap_jax.evaluation.text_table import describe_results
from slap_jax.inference.embedder import Embedder
from slap_jax.parallel import distributed
from slap_jax.parallel.distributed import require_consistency, run_facts
from slap_jax.parallel.process_group import process_group
from slap_jax.parallel.sharding import create_mesh
from slap_jax.params import parameter_table
from slap_jax.training.diagnostics import (
    ProfileWindow,
    Watchdog,
    describe_program_memory,
    device_memory,
    program_memory,
)
from slap_jax.training.flops import peak_flops
from slap_jax.training.init_from import check_start, start_from
from slap_jax.training.metrics import FILE_NAME as METRICS
from slap_jax.training.metrics import MetricWriter, Throughput
from slap_jax.training.progress import duration
from slap_jax.training.provenance import Provenance
from slap_jax.training.step import step_program
from slap_jax.training.timing import Goodput, StepTimer


class NonFiniteError(UserError, RuntimeError):
    """Too many steps in a row had a loss or a gradient that is not finite."""


def main(config: ConfigDict, run_dir: str | Path) -> int:
    """Trains until `config.train.steps`, or until asked to stop.

    Args:
        config: config from a config file, overrides applied.
        run_dir: receives config, metrics and checkpoints; an existing run is resumed.

    Returns:
        Exit code 0, or `EXIT_PREEMPTED` after SIGTERM, when the same command resumes the run. A process whose run
        has lost another process exits with `slap_jax.parallel.process_group.EXIT_LOST`, or JAX aborts it.

    Raises:
        UserError: the config, the data, the vocabulary or a checkpoint cannot be used; the message says what to do.
        NonFiniteError: after `config.optimizer.max_bad_steps`.
    """
    run_dir, timer = Path(require_path(os.fspath(run_dir))), StepTimer()
    validate(config)
    with process_group(config.distributed, run_dir), Watchdog(run_dir, config.train.watchdog_seconds, timer):
        return train(config, run_dir, timer)


def train(config: ConfigDict, run_dir: Path, timer: StepTimer) -> int:
    """Trains as one of the processes of the run; see `main`."""
    # Set-up: the config is checked, and compared between processes, before anything is built ------------------------
    patience = config.distributed.initialization_timeout
    require_consistency("config", run_facts(config), patience)
    validate(config, jax.process_count(), jax.device_count())
    first_process = jax.process_index() == 0
    mesh = create_mesh(config.parallel)
    tokenizer = load_tokenizer(config.data.tokenizer)
    require_vocabulary(config.model, tokenizer)
    check_start(config, run_dir)

    with contextlib.ExitStack() as resources:
        # Data --------------------------------------------------------------------------------------------------------
        data = config.data
        suite, suite_data = loop_tasks(config, tokenizer)
        held_out = {name: (s.path, s.split) for name, s in data.evaluation.items()} | suite_data
        check_leakage({name: (s.path, s.split) for name, s in data.train.items()}, held_out)
        batches = TrainBatches(config, tokenizer, jax.process_index(), jax.process_count())
        resources.callback(batches.close)
        scored_by_text = data.evaluation if reads_captions(config) else {}
        tasks = [*load_tasks(scored_by_text, tokenizer, config.data.max_caption_tokens), *suite]
        embedder = Embedder(config, mesh=mesh)
        caption_writer = CaptionWriter(embedder, tokenizer, config.data.max_caption_tokens)
        sources = {name: open_split(source.path, source.split) for name, source in data.train.items()}
        evaluation = LoopEvaluation(
            config,
            embedder,
            tokenizer,
            tasks,
            caption_writer.generator,
            clips_per_batch(config, list(sources.values())),
        )
        evaluation_sets = {f"{task.name}, {', '.join(task.kinds)}": task.data.fingerprint for task in tasks}
        read = {"training": batches.get_state()["fingerprint"], "evaluation": evaluation_sets}
        require_consistency("data", read, patience)

        # Resume: what does not fit is refused, and a finished run ends, before minutes of compiling -------------------
        program = step_program(config, mesh)
        newest = latest_step(run_dir)
        if newest is not None:
            check_architecture(run_dir, program.state)
            batches.check_state(restore_data_state(run_dir)[1])
            if reason := finished(config, run_dir, newest):
                logging.info("%s", reason)
                return 0

        for warning in warnings_before_training(config, tokenizer, sources, batches.fractions) if first_process else ():
            logging.warning("warning: %s", warning)

        # Step: compiled once, for these shapes and no others ---------------------------------------------------------
        timer.enter("compiling")
        logging.info("compiling the step for %d rows of %d columns", data.rows, data.columns)
        train_step = program.traced.lower().compile()
        memory = program_memory(train_step)
        logging.info("%s", describe_program_memory(memory))
        resources.enter_context(silenced("slap_jax.models.attention"))  # evaluation makes the same choices again
        distributed.barrier("compiled")

        # State: arrays are read straight onto their devices ----------------------------------------------------------
        timer.enter("restoring")
        checkpoints = Checkpoints(run_dir / "checkpoints", config.checkpoint.keep, config.checkpoint.every)
        resources.callback(checkpoints.close)
        if checkpoints.latest() is not None:
            state, data_state, _ = checkpoints.restore(program.state)
            batches.set_state(data_state)
        else:
            state = start_from(jax.jit(program.init, out_shardings=program.state_shardings)(), config)
        step = int(np.asarray(state.step))
        timer.enter("starting")
        if first_process:
            run_dir.mkdir(parents=True, exist_ok=True)
            step_facts = {"bytes_per_device": memory, "compile_seconds": timer.seconds()["compiling"]}
            write_text_atomic(run_dir / "config.json", config.to_json_best_effort(indent=2) + "\n")
            write_text_atomic(run_dir / "params.txt", parameter_table(program.state.params))
            write_text_atomic(run_dir / "step.json", json.dumps(step_facts, indent=2) + "\n")
        provenance = Provenance(run_dir, config.seed, step, enabled=first_process)
        logging.info("starting at step %d of %d", step, config.train.steps)

        # Observers ---------------------------------------------------------------------------------------------------
        meta = {"config": json.loads(config.to_json_best_effort())}
        best = open_best(config, run_dir, step, enabled=first_process)
        if best is not None:
            resources.callback(best.close)
        stopped_early = best is not None and best.should_stop
        goodput = Goodput(run_dir, timer, step, enabled=first_process)
        peak = peak_flops(per_device=config.train.peak_flops_per_device)
        writer = MetricWriter(
            run_dir,
            config.metrics.tensorboard,
            total_steps=config.train.steps,
            log_every=config.train.log_every,
            restored_step=step,
            timer=timer,
            throughput=Throughput(timer, config, peak),
            gauges=(lambda _: device_memory(), goodput.update),
            enabled=first_process,
        )
        resources.callback(writer.close)
        prefetch = Prefetch(batches, functools.partial(distributed.place_batch, mesh=mesh), config.data.prefetch)
        resources.callback(prefetch.close)
        profile = ProfileWindow(run_dir, config.train.profile_start, config.train.profile_steps)
        resources.callback(profile.close)

        # Loop: the host only waits for the metrics of the previous step ----------------------------------------------
        preempted = False
        with jax.transfer_guard("disallow"):
            timer.enter("other")
            while step < config.train.steps and not preempted and not stopped_early:
                with timer.during("data"):
                    batch = next(prefetch)
                with timer.during("dispatch"), profile.step(step + 1):
                    state, metrics = train_step(state, batch)
                del batch  # the step keeps its own reference
                step += 1
                profile.stop_after(step, metrics)
                metrics |= {f"epoch/{name}": epochs for name, epochs in batches.epochs(prefetch.state).items()}
                stop_if_not_finite(writer.write(step, metrics), config, checkpoints)
                preempted = checkpoints.reached_preemption(step)
                every = config.train.evaluate_every
                due = every > 0 and (step % every == 0 or step == config.train.steps)
                if due and not preempted:
                    began = time.monotonic()
                    with timer.during("evaluation"), jax.transfer_guard("allow"), writer.evaluation() as progress:
                        results = evaluation(state.params, progress)
                        scores = scalars(results)
                        writer.write_scalars(step, scores)
                        if best is not None:
                            best.update(step, scores, state, prefetch.state, meta)
                            stopped_early = best.should_stop
                    seconds = time.monotonic() - began
                    writer.note(f"step {step:,}: {describe_results(results)}; evaluated in {seconds:.0f} s")
                last = preempted or stopped_early or step == config.train.steps
                if last or checkpoints.should_save(step):
                    writer.flush()  # the metrics of every step before the checkpoint are on disk
                    with timer.during("checkpoint"):
                        checkpoints.save(step, state, prefetch.state, meta, force=last)
        timer.enter("checkpoint")
        checkpoints.wait()
        provenance.finish(step, "interrupted" if preempted else "stopped early" if stopped_early else "finished")

    if first_process:
        logging.info("%s", goodput.describe(step))
    if preempted:
        logging.warning("stopped at step %d as requested; the same command resumes the run", step)
        return EXIT_PREEMPTED
    if first_process:
        taken = duration(sum(timer.seconds().values()))
        logging.info("%s\n%s", f"finished at step {step:,} after {taken}", end_of_run(config, run_dir, best))
    return 0


def open_best(config: ConfigDict, run_dir: Path, step: int, enabled: bool = True) -> BestCheckpoint | None:
    """Opens `RUN/best`, if the run keeps its best step."""
    metric = config.train.best_metric
    return BestCheckpoint(config, run_dir, step, tie_break(metric), enabled=enabled) if metric else None


def finished(config: ConfigDict, run_dir: Path, step: int) -> str:
    """Returns a message if a run is complete at the step of its newest checkpoint, else ""."""
    more = f"slap train --run-dir {shlex.quote(str(run_dir))} --config.train"
    if step >= config.train.steps:
        return (
            f"{run_dir} is finished at step {step} of config.train.steps={config.train.steps}, so nothing is trained; "
            f"to train further, raise it: {more}.steps={2 * step}"
        )
    best = open_best(config, run_dir, step, enabled=False)
    if best is None:
        return ""
    with contextlib.closing(best):
        if not best.should_stop:
            return ""
    return (
        f"{run_dir} stopped early at step {step}: the last {config.train.patience} evaluations were no improvement; to "
        f"train further, raise config.train.patience: {more}.patience=0 trains all {config.train.steps} steps"
    )


def end_of_run(config: ConfigDict, run_dir: Path, best: BestCheckpoint | None) -> str:
    """Returns where the results are, and the commands that come next."""
    lines = [f"run: {run_dir} (metrics in {METRICS}, settings in config.json)"]
    model = run_dir
    if best is not None and best.best is not None:
        lines, model = [*lines, best.describe()], best.directory
    name = shlex.quote(str(model))
    use = f"slap predict SOUNDS --model {name}" if classes_in_batch(config) else f"slap export {name}"
    return "\n".join([*lines, f"next: slap evaluate {name}", f"      {use}"])


@contextlib.contextmanager
def silenced(name: str) -> Iterator[None]:
    """Hides the information that a part of the package logs; its warnings still appear."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def stop_if_not_finite(metrics: dict[str, float] | None, config: ConfigDict, checkpoints: Checkpoints) -> None:
    """Raises `NonFiniteError` once too many steps in a row were skipped."""
    limit = config.optimizer.max_bad_steps
    if metrics is not None and metrics["bad_steps"] >= limit:
        raise NonFiniteError(
            f"{limit} steps in a row had a loss or gradient that is not finite and were skipped; the last good "
            f"checkpoint is step {checkpoints.latest()} in {checkpoints.directory}: lower "
            "config.optimizer.learning_rate, or inspect the data that follow it"
        )
