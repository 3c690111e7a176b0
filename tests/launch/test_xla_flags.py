"""The compilers know every flag of launch/xla_flags.sh: an unknown one would end a run before it begins."""

import subprocess
import sys

import pytest

from tests.launch.scripts import LAUNCH, environment, variables_of

pytestmark = pytest.mark.process

PROGRAM = """
import jax
from jax.experimental import topologies
if {tpu}:
    device = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices[0]
    sharding = jax.sharding.SingleDeviceSharding(device)
    jax.jit(lambda x: x + 1).lower(jax.ShapeDtypeStruct((8, 128), "float32", sharding=sharding)).compile()
else:
    jax.jit(lambda x: x + 1)(1.0)
print("compiled")
"""


def flags(platform: str) -> dict[str, str]:
    """Returns the variables that the script sets for a platform, two slices."""
    script = f'source "{LAUNCH}/xla_flags.sh"; set_flags {platform} 2 0; env'
    shown = subprocess.run(["bash", "-c", script], env=environment(), capture_output=True, text=True, check=True)
    variables = variables_of(shown.stdout.splitlines())
    return {name: variables[name] for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS") if name in variables}


def compile_with(tpu: bool, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(tpu=tpu)],
        env=environment(JAX_PLATFORMS="cpu", TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1", **variables),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize(("platform", "variable"), [("gpu", "XLA_FLAGS"), ("tpu", "LIBTPU_INIT_ARGS")])
def test_every_flag_is_known(platform, variable):
    expected = flags(platform)
    assert list(expected) == [variable]
    compiled = compile_with(platform == "tpu", expected)
    assert compiled.stdout == "compiled\n", compiled.stderr
    # The same program fails with an unknown flag, so the assertion above is meaningful.
    unknown = compile_with(platform == "tpu", {variable: f"{expected[variable]} --xla_not_a_flag=true"})
    assert unknown.returncode != 0
    assert "xla_not_a_flag" in unknown.stderr
