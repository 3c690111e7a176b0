"""Programs for TPU and GPU, made on a CPU: the kernels are in them and no matrix of all scores is."""

import contextlib
import functools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from slap_jax.models.attention import attention
from slap_jax.models.attention.dispatch import record_choices
from slap_jax.parallel.sharding import AXES, compiling_for

pytestmark = pytest.mark.compile

LENGTH = 1_024
KINDS = {
    "global": {},
    "local": {"window": 12},
    "causal": {"causal": True},
    "cross": {},
}


def gradients(kind, backend="auto"):
    """A new function of (q, k, v, segment ids) for each test, which is traced for the platform of that test."""

    def function(q, k, v, segments):
        segment_ids = {"q_segment_ids": segments, **({"kv_segment_ids": segments} if kind == "cross" else {})}
        call = functools.partial(attention, **segment_ids, **KINDS[kind], backend=backend)
        out, vjp = jax.vjp(call, q, k, v)
        return out, vjp(out)

    return jax.jit(function)


def abstract(rows=2, heads=2, dim=64):
    tokens = jax.ShapeDtypeStruct((rows, LENGTH, heads, dim), jnp.bfloat16)
    return tokens, tokens, tokens, jax.ShapeDtypeStruct((rows, LENGTH), jnp.int32)


# On a machine without a GPU, Pallas takes its kind from the mesh in context.
GPU = AbstractDevice("NVIDIA H100 80GB HBM3", None, "gpu")
GPU_MESH = AbstractMesh((1,) * 3, AXES, axis_types=(AxisType.Auto,) * 3, abstract_device=GPU)
CASES = [("tpu", "tpu", "splash", "tpu_custom_call"), ("gpu", "cuda", "flash", "xla.gpu.triton")]


# Every kind occurs on both platforms, and each platform with the kernel chosen and forced.
@pytest.mark.parametrize(
    "kind, backend", [("global", "auto"), ("local", "forced"), ("causal", "auto"), ("cross", "forced")]
)
@pytest.mark.parametrize("platform, lowered_for, kernel, call", CASES)
def test_kernels_lower_for_their_platform(platform, lowered_for, kernel, call, kind, backend):
    mesh = jax.sharding.use_abstract_mesh(GPU_MESH) if platform == "gpu" else contextlib.nullcontext()
    with mesh, compiling_for(platform), record_choices() as choices:
        traced = gradients(kind, "auto" if backend == "auto" else kernel).trace(*abstract())
        text = traced.lower(lowering_platforms=(lowered_for,)).as_text()
    assert [(choice.backend, choice.kind) for choice in choices] == [(kernel, kind)]
    assert text.count(f"@{call}(") + text.count(f"@__gpu${call}(") == 3  # forward, gradients of queries and of keys
    assert f"{LENGTH}x{LENGTH}" not in text


COMPILE = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from slap_jax.models.attention import attention
from slap_jax.parallel.sharding import compiling_for

devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
mesh = Mesh(np.array(devices).reshape(2, 1, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)

def loss(q, segments):
    for window in (12, None):
        q = attention(q, q, q, q_segment_ids=segments, window=window)
    return q.astype(jnp.float32).sum()

def abstract(shape, dtype, *spec):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec(*spec)))

tokens = abstract((4, 2048, 4, 64), jnp.bfloat16, "data", None, "tensor")
segments = abstract((4, 2048), jnp.int32, "data")
with jax.set_mesh(mesh), compiling_for("tpu"):
    compiled = jax.jit(jax.grad(loss)).lower(tokens, segments).compile()
text = compiled.as_text()
print(json.dumps({
    "calls": text.count('custom_call_target="tpu_custom_call"'),
    "names": [name for name in ("splash_mha_fwd", "splash_mha_dq", "splash_mha_dkv") if name in text],
    "whole": "2048,2048" in text,
    "temporaries": compiled.memory_analysis().temp_size_in_bytes,
}))
"""


@pytest.mark.process
def test_gradients_of_local_and_global_layers_compile_for_a_tpu():
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        # Keeps libtpu from asking the network what machine this is, and lets two processes load it.
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["calls"] == 6  # forward, queries and keys, of two layers
    assert report["names"] == ["splash_mha_fwd", "splash_mha_dq", "splash_mha_dkv"]
    assert not report["whole"]
    # A device holds 2 rows of 2 heads: one matrix of all their fp32 scores would take 67 MB.
    assert report["temporaries"] < 40e6
