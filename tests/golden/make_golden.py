"""Writes the golden configs, parameter tables and loss curve; run it after an intended change and review the diff.

PYTHONPATH=. python tests/golden/make_golden.py
"""

import json
from pathlib import Path

import tests.conftest  # noqa: F401  (the same devices and flags as in the tests)
from tests.golden.contents import CONFIGS, config_text, loss_curve, parameter_text

HERE = Path(__file__).parent

if __name__ == "__main__":
    for name in CONFIGS:
        (HERE / f"{name}.config.json").write_text(config_text(name))
        (HERE / f"{name}.params.txt").write_text(parameter_text(name))
    (HERE / "loss_curve.json").write_text(json.dumps(loss_curve(), indent=1) + "\n")
