"""Start-up from the environment, and batches placed on a mesh.

Differences between processes are reported setting by setting.
"""

import logging

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from slap_jax.batch import PackedBatch
from slap_jax.config.rules import ConfigError
from slap_jax.parallel import distributed
from slap_jax.parallel import distributed as agreement
from slap_jax.parallel.distributed import describe_differences, flattened, require_consistency, run_facts
from slap_jax.parallel.sharding import create_mesh
from tests.tiny import tiny_config

EXPLICIT = {"SLAP_COORDINATOR": "10.0.0.1:1234", "SLAP_NUM_PROCESSES": "2", "SLAP_PROCESS_ID": "1"}


@pytest.mark.parametrize(
    ("environment", "kind"),
    [
        ({}, "single"),
        (EXPLICIT, "explicit"),
        ({"SLAP_DISTRIBUTED": "auto"}, "auto"),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}, "single"),  # a shell inside an allocation
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2"}, "slurm"),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, "single"),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, "single"),
        ({"TPU_WORKER_HOSTNAMES": "a,b,c,d"}, "tpu_pod"),
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_COORDINATOR_ADDRESS": "x"}, "tpu_pod"),
        (EXPLICIT | {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2"}, "explicit"),
    ],
)
def test_launch_kind(environment, kind):
    assert distributed.launch_kind(environment) == kind


def test_half_an_explicit_launch_is_an_error():
    with pytest.raises(ConfigError, match="SLAP_COORDINATOR is set without SLAP_NUM_PROCESSES, SLAP_PROCESS_ID"):
        distributed.launch_kind({"SLAP_COORDINATOR": "10.0.0.1:1234"})
    with pytest.raises(ConfigError, match="SLAP_PROCESS_ID is 'one'"):
        distributed.launch_kind(EXPLICIT | {"SLAP_PROCESS_ID": "one"})


def test_initialize_alone_starts_no_service(monkeypatch):
    joined = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *values, **settings: joined.append((values, settings)))
    distributed.initialize(environment={})
    assert not joined
    assert jax.config.values["jax_enable_compilation_cache"]  # which only processes of one run on CPUs do without


def test_initialize_passes_the_explicit_values_and_the_timeouts(monkeypatch, caplog):
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *values, **settings: calls.append((values, settings)))
    limits = ConfigDict({"initialization_timeout": 20, "heartbeat_timeout": 30})
    with caplog.at_level(logging.INFO):
        distributed.initialize(limits, EXPLICIT)
    timeouts = {"initialization_timeout": 20, "heartbeat_timeout_seconds": 30}
    assert calls == [(("10.0.0.1:1234", 2, 1), timeouts)]
    assert (
        "waiting for all 2 processes (this is process 1; coordinator 10.0.0.1:1234, started by process 0), "
        "at most 20 s" in caplog.text
    )
    distributed.initialize(limits, {"SLAP_DISTRIBUTED": "auto"})
    assert calls[1] == ((), timeouts)


def test_the_other_processes_are_described():
    slurm = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2"}
    assert distributed.others(slurm) == "all 4 tasks of the SLURM step (this is task 2)"
    assert distributed.others({"SLAP_DISTRIBUTED": "auto"}) == "all hosts of the TPU slice"


def test_device_table_counts_devices_and_hosts():
    assert "8 x cpu (cpu) on 1 host" in distributed.device_table()


def _batch(rows: int) -> PackedBatch:
    columns, slots, text = 3, 2, 5
    return PackedBatch(
        waveform=np.arange(rows * columns * 4, dtype=np.int16).reshape(rows, -1),
        audio_segment_ids=np.ones((rows, columns), np.int32),
        audio_positions=np.tile(np.arange(columns, dtype=np.int32), (rows, 1)),
        text_tokens=np.arange(rows * text, dtype=np.int32).reshape(rows, text),
        text_segment_ids=np.ones((rows, text), np.int32),
        text_positions=np.ones((rows, text), np.int32),
        clip_valid=np.ones((rows, slots), bool),
        clip_key=np.arange(rows * slots, dtype=np.int32).reshape(rows, slots),
        clip_source=np.zeros((rows, slots), np.int32),
    )


def test_place_batch_splits_rows_and_keeps_values_under_a_transfer_guard():
    mesh = create_mesh(ConfigDict({"data": 2, "fsdp": 2, "tensor": 2}))
    batch = _batch(rows=8)
    with jax.transfer_guard("disallow"):
        placed = distributed.place_batch(batch, mesh)
    for field, array in vars(placed).items():
        np.testing.assert_array_equal(np.asarray(array), getattr(batch, field))
        assert {shard.data.shape[0] for shard in array.addressable_shards} == {2}, field
        assert array.dtype == getattr(batch, field).dtype


def test_gathering_with_one_process_returns_its_value():
    distributed.barrier("alone")
    assert distributed.allgather_json({"a": [1, None]}) == [{"a": [1, None]}]


def test_one_process_is_consistent_without_communication(monkeypatch):
    asked = []
    monkeypatch.setattr(agreement, "allgather_text", lambda *arguments: asked.append(arguments))
    require_consistency("anything", {"a": 1}, seconds=0.0)
    assert not asked


def test_facts_have_the_names_of_settings():
    facts = flattened(run_facts(tiny_config()))
    assert facts["config.data.rows"] == 8
    assert facts["config.model.audio_encoder.width"] == 16
    assert {"version.slap_jax", "version.jax", "version.jaxlib"} <= set(facts)


def test_differences_are_listed_with_values_and_hosts():
    same = {"config.seed": 0, "config.data.rows": 8, "version.jax": "0.10.2"}
    facts = [same, same, {**same, "config.data.rows": 16}, {"config.seed": 0, "config.data.rows": 8}, same, same]
    message = describe_differences(facts, ["a", "b", "c", "d", "e", "f"])
    assert message.splitlines()[:3] == [
        "the processes of this run differ:",
        "  config.data.rows: 8 on process 0 (a), 1 (b), 3 (d) and 2 more; 16 on process 2 (c)",
        '  version.jax: "0.10.2" on process 0 (a), 1 (b), 2 (c) and 2 more; absent on process 3 (d)',
    ]
    assert "config.seed" not in message
    assert "give all hosts the same code, config file, overrides and prepared data" in message


def test_a_long_list_is_cut():
    message = describe_differences([{f"x{n:02d}": 0 for n in range(30)}, {}], ["a", "b"])
    assert "x19" in message
    assert "x20" not in message
    assert "... and 10 more" in message
