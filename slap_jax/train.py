"""Trains SLAP: one script, read from top to bottom.

    slap train --config configs/demo.py --run-dir runs/demo

What starts a run, the first that applies: (1) the newest checkpoint of the run directory, with its data state; (2) the
parameters of `config.init_from`; (3) scratch. Everything random is derived from (seed, step), so a resumed run is
bit-identical to an uninterrupted one.
"""

import functools
import json
import logging
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from slap_jax.batch import batch_shapes
from slap_jax.checkpoints import EXIT_PREEMPTED, Checkpoints
from slap_jax.config import ConfigError, samples_per_column, validate
from slap_jax.data.batches.leakage import check_leakage
from slap_jax.data.batches.pipeline import TrainBatches
from slap_jax.data.batches.prefetch import Prefetch
from slap_jax.data.tokenizer import Tokenizer
from slap_jax.evaluation.evaluate import evaluate, load_tasks, scalars
from slap_jax.flops import peak_flops, train_step_flops
from slap_jax.inference.embedder import Embedder
from slap_jax.init_from import read_params, replace_params
from slap_jax.metrics import MetricWriter
from slap_jax.optimizer import create_optimizer
from slap_jax.parallel import distributed
from slap_jax.parallel.mesh import batch_sharding, create_mesh, replicated
from slap_jax.parallel.rules import shardings, with_shardings
from slap_jax.parameter_table import parameter_table
from slap_jax.train_state import abstract_learner, create_state
from slap_jax.train_step import make_train_step


class NonFiniteError(RuntimeError):
    """Too many steps in a row had a loss or a gradient that is not finite."""


def main(config: ConfigDict, run_dir: str | Path) -> int:
    """Trains until `config.train.steps` or until asked to stop.

    Args:
        config: of a config file, overrides applied.
        run_dir: where config, metrics and checkpoints go; a run found there goes on.

    Returns:
        The exit code: 0, or `EXIT_PREEMPTED` after SIGTERM, when the same command goes on with the run.

    Raises:
        ConfigError, TokenizerError, LeakageError, DataMismatchError, CheckpointError: see their messages.
        NonFiniteError: after `config.optimizer.max_bad_steps`.
    """
    if "://" in str(run_dir):
        raise ConfigError(f"run directory {run_dir} is a URL; give a directory on a file system that all hosts share")
    run_dir = Path(run_dir)

    # Set-up: nothing is built before the config is known to be possible ----------------------------------------------
    validate(config)
    distributed.initialize()
    validate(config, jax.process_count(), jax.device_count())
    first_process = jax.process_index() == 0
    mesh = create_mesh(config.parallel)
    tokenizer = Tokenizer(config.data.tokenizer)
    if tokenizer.vocab_size > config.model.vocab_size:
        raise ConfigError(
            f"config.model.vocab_size is {config.model.vocab_size}, but {config.data.tokenizer} has "
            f"{tokenizer.vocab_size} pieces; write vocab_size={tokenizer.vocab_size} or more"
        )

    # Data -------------------------------------------------------------------------------------------------------------
    data = config.data
    check_leakage(*({name: (s.path, s.split) for name, s in part.items()} for part in (data.train, data.evaluation)))
    batches = TrainBatches(config, tokenizer, jax.process_index(), jax.process_count())
    tasks = load_tasks(config.data.evaluation, tokenizer, config.data.max_caption_tokens)

    # Model, optimiser, state: shapes first, then arrays straight onto their devices ----------------------------------
    learner = abstract_learner(config)
    transform = create_optimizer(config.optimizer, config.train.steps)
    init = functools.partial(create_state, config, transform)
    state_shapes = jax.eval_shape(init)
    state_shardings = shardings(state_shapes, mesh)

    # Step: compiled once, for these shapes and no others --------------------------------------------------------------
    rows = batch_shapes(data.rows, data.columns, data.slots, data.text_tokens, samples_per_column(config.audio))
    rows = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=batch_sharding(mesh)), rows)
    logging.info("compiling the step for %d rows of %d columns", data.rows, data.columns)
    train_step = (
        jax.jit(
            make_train_step(config, learner, transform),
            out_shardings=(state_shardings, replicated(mesh)),
            donate_argnums=0,
        )
        .lower(with_shardings(state_shapes, mesh), rows)
        .compile()
    )

    # What starts the run ----------------------------------------------------------------------------------------------
    checkpoints = Checkpoints(run_dir / "checkpoints", config.checkpoint.keep, config.checkpoint.every)
    if checkpoints.latest() is not None:
        state, data_state, _ = checkpoints.restore(with_shardings(state_shapes, mesh))
        batches.set_state(data_state)
    else:
        state = jax.jit(init, out_shardings=state_shardings)()
        if config.init_from:
            state = replace_params(state, read_params(config.init_from), config.init_from)
    step = int(np.asarray(state.step))
    if first_process:
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / "config.json").write_text(config.to_json_best_effort(indent=2) + "\n")
        (run_dir / "params.txt").write_text(parameter_table(state_shapes.params))
    logging.info("starting at step %d of %d", step, config.train.steps)

    # Loop: no host synchronisation but the metrics of the step before -------------------------------------------------
    embedder = Embedder(config, mesh=mesh)
    meta = {"config": json.loads(config.to_json_best_effort())}
    writer = MetricWriter(
        run_dir,
        config.metrics.tensorboard,
        total_steps=config.train.steps,
        log_every=config.train.log_every,
        restored_step=step,
        step_flops=functools.partial(train_step_flops, config),
        peak_flops=peak_flops(per_device=config.train.peak_flops_per_device),
        enabled=first_process,
    )
    place = functools.partial(distributed.place_batch, mesh=mesh)
    prefetch = Prefetch(batches, place, config.data.prefetch)
    preempted = False
    try:
        with jax.transfer_guard("disallow"):
            while step < config.train.steps and not preempted:
                state, metrics = train_step(state, next(prefetch))
                step += 1
                metrics |= {f"epoch/{name}": epochs for name, epochs in batches.epochs(prefetch.state).items()}
                stop_if_not_finite(writer.write(step, metrics), config, checkpoints)
                preempted = checkpoints.reached_preemption(step)
                last = preempted or step == config.train.steps
                if last or checkpoints.is_due(step):
                    writer.flush()  # so that no line of a step that is never run again is lost
                    checkpoints.save(step, state, prefetch.state, meta, force=last)
                every = config.train.evaluate_every
                if every and step % every == 0 and step < config.train.steps and not preempted:
                    with writer.pause(), jax.transfer_guard("allow"):
                        writer.write_scalars(step, scalars(evaluate(embedder, state.params["model"], tasks)))
        checkpoints.wait()
    finally:
        prefetch.close()
        batches.close()
        writer.close()
        checkpoints.close()
    if preempted:
        logging.warning("stopped at step %d as asked; the same command goes on from there", step)
        return EXIT_PREEMPTED
    return 0


def stop_if_not_finite(metrics: dict[str, float] | None, config: ConfigDict, checkpoints: Checkpoints) -> None:
    """Raises `NonFiniteError` once too many steps in a row were skipped."""
    limit = config.optimizer.max_bad_steps
    if metrics is not None and metrics["bad_steps"] >= limit:
        raise NonFiniteError(
            f"{limit} steps in a row had a loss or gradient that is not finite and were skipped; the last good "
            f"checkpoint is step {checkpoints.latest()} in {checkpoints.directory}: lower "
            "config.optimizer.learning_rate, or look at the data after it"
        )
