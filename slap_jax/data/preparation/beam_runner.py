"""Makes shards as an Apache Beam pipeline, on the engine that its flags name: Flink, Spark, Dataflow."""

import contextlib
import functools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from slap_jax.data.preparation.plan import ShardPlan
from slap_jax.data.preparation.shard import prepare_shard
from slap_jax.data.preparation.shard_writer import ShardError

# What Beam itself means by these would download a program first.
_IN_PROCESS = "FnApiRunner"
_NAMES_OF_IN_PROCESS = ("direct", "directrunner")


class BeamError(ValueError):
    """Beam is not installed, cannot start the pipeline, or the pipeline failed."""


def run_beam(plans: Sequence[ShardPlan], staging: Path, flags: Sequence[str]) -> None:
    """Makes shards, each an element of the pipeline; those that are finished are kept whatever happens.

    Args:
        plans: the shards to make.
        staging: folder of the preparation, which every worker sees under this name, like the audio files.
        flags: of the pipeline, `--runner` among them. `DirectRunner` runs in this process.

    Raises:
        BeamError: Beam is not installed, cannot start the pipeline, or the pipeline failed.
        ShardError: a shard could not be written.
    """
    try:
        with _quiet():
            import apache_beam as beam
            from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
            from apache_beam.runners.runner import PipelineState
    except ImportError as error:
        raise BeamError("--runner needs Apache Beam, which is not installed: pip install 'slap-jax[beam]'") from error
    options = PipelineOptions(list(flags))
    runner = options.view_as(StandardOptions)
    if (runner.runner or "").lower() in _NAMES_OF_IN_PROCESS:
        runner.runner = _IN_PROCESS
    try:
        pipeline = beam.Pipeline(options=options)
        shards = pipeline | "plans" >> beam.Create(list(plans)) | "spread" >> beam.Reshuffle()
        _ = shards | "make shards" >> beam.Map(functools.partial(prepare_shard, staging=staging))
        state = pipeline.run().wait_until_finish()
    except ShardError:
        raise
    except (RuntimeError, ValueError, ImportError, AttributeError) as error:
        raise BeamError(f"the Beam pipeline failed: {error}") from error
    if state != PipelineState.DONE:
        raise BeamError(f"the pipeline ended as {state}; the engine's log says why, and finished shards are kept")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Beam from telling which cloud libraries it has not found."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
