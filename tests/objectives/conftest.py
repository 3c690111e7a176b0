"""Meshes of the 8 fake devices."""

import math
from collections.abc import Callable

import jax
import pytest
from jax.sharding import Mesh
from ml_collections import ConfigDict

from slap_jax.parallel.sharding import AXES, create_mesh


@pytest.fixture(scope="session")
def mesh_of() -> Callable[..., Mesh]:
    """Returns the mesh of the given sizes of `data`, `fsdp` and `tensor` over the first devices."""

    def create(*sizes: int) -> Mesh:
        return create_mesh(ConfigDict(dict(zip(AXES, sizes, strict=True))), jax.devices()[: math.prod(sizes)])

    return create
