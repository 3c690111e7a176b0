"""The cases of the benchmark are valid, and its output is a table."""

import pytest

from benchmarks.ahead_of_time import CONFIGS, line
from slap_jax.aot import parse_topology
from slap_jax.config.files import read_config
from slap_jax.config.validate import validate


@pytest.mark.parametrize(("config", "topology"), CONFIGS)
def test_every_config_is_possible_on_its_topology(config, topology):
    devices, settings = parse_topology(topology).n_devices, read_config(config)
    validate(settings, process_count=max(1, devices // 8), device_count=devices)
    assert settings.data.rows * settings.data.columns * 0.16 > 2_000 * 10  # seconds: the paper's 2,048 clips of 10 s


def test_a_row_of_the_table():
    result = {
        "rows": 256,
        "fits": True,
        "bytes_per_device": {"total": 3 * 2**29},
        "hbm_bytes": 2**34,
        "attention": {"local 8x8": "splash", "global 8x8": "splash", "cross 4x8": "dense"},
        "flops_per_step": 7.5e14,
        "bound_step_seconds": 0.25,
        "bound_mfu": 0.731,
        "bound_by": "compute",
        "compile_seconds": 110.0,
    }
    row = line("base", result)
    assert row == "| base | 256 | fits | 1.5 of 16.0 | dense, splash | 750 | 250 | 0.73 | compute | 110.0 |"
    assert line("base", {"error": "no such file"}) == "| base | no such file |"
