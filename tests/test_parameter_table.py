"""The parameter table: every parameter once, right totals, no values read."""

import jax
import numpy as np
from ml_collections import ConfigDict

from slap_jax.parallel.mesh import create_mesh
from slap_jax.parallel.rules import with_shardings
from slap_jax.parameter_table import parameter_table

TREE = {
    "model": {
        "audio_encoder": {"up": {"kernel": jax.ShapeDtypeStruct((2, 8, 32), np.float32)}},
        "text_encoder": {"norm": {"scale": jax.ShapeDtypeStruct((8,), np.float32)}},
    },
    "objectives": {"contrastive": {"log_scale": jax.ShapeDtypeStruct((), np.float32)}},
}


def test_rows_and_totals():
    lines = parameter_table(TREE).splitlines()
    cells = [line.split() for line in lines]
    assert cells[0] == ["parameter", "shape", "dtype", "count", "split"]
    assert ["model/audio_encoder/up/kernel", "2x8x32", "float32", "512"] in cells
    assert ["objectives/contrastive/log_scale", "-", "float32", "1"] in cells
    assert lines[-4:] == [
        "model/audio_encoder: 512",
        "model/text_encoder: 8",
        "objectives/contrastive: 1",
        "total: 521",
    ]


def test_shows_how_parameters_are_split():
    mesh = create_mesh(ConfigDict({"data": 2, "fsdp": 2, "tensor": 2}))
    table = parameter_table(with_shardings(TREE, mesh))
    (line,) = [line for line in table.splitlines() if "up/kernel" in line]
    assert line.endswith("-, fsdp, tensor")


def test_columns_are_aligned():
    rows = parameter_table(TREE).splitlines()[:4]
    assert len({row.index("float32") for row in rows[1:]}) == 1
