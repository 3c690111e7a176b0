"""Compiles a small step for every kind of GPU, without a GPU: `make gpu-aot`.

Not part of the test suite, because the compiler is several GB: pip install 'slap-jax[cuda12]'.
"""

import os
import sys

os.environ["JAX_PLATFORMS"] = "cpu"

from slap_jax.aot import CHIPS, format_report, report
from tests.aot.small_config import small_config

TOPOLOGIES = (*(f"{name}:8" for name, chip in CHIPS.items() if chip.platform == "gpu"), "h100:2x4")


def check(topology: str) -> None:
    """Compiles for every kind and checks the report."""
    result = report(small_config(fsdp=2), topology, log=lambda line: None)
    print(format_report(result), end="\n\n", flush=True)
    assert result["fits"] is True, result.get("reason")
    assert set(result["attention"].values()) == {"flash"}, result["attention"]
    assert result["n_devices"] == 8
    sizes = result["bytes_per_device"]
    assert result["state_in_place_bytes"] >= sizes["parameters"] + sizes["optimizer"], "the state is not donated"
    assert result["collectives"]["all-gather"]["bytes"] > 0, "parameters in pieces are not gathered"
    assert (result["bound_parts_seconds"]["network"] > 0) == (topology == "h100:2x4")


if __name__ == "__main__":
    for name in sys.argv[1:] or TOPOLOGIES:
        check(name)
    print("ok")
