"""Configs, parameter tables and a loss curve equal the reviewed ones; `make_golden.py` rewrites them."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.golden.contents import CONFIGS, config_text, loss_curve, parameter_text

pytestmark = pytest.mark.compile

HERE = Path(__file__).parent


@pytest.mark.parametrize("name", CONFIGS)
def test_config_is_as_reviewed(name):
    assert config_text(name) == (HERE / f"{name}.config.json").read_text()


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_are_as_reviewed(name):
    assert parameter_text(name) == (HERE / f"{name}.params.txt").read_text()


def test_twenty_steps_lose_as_much_as_they_did():
    expected = json.loads((HERE / "loss_curve.json").read_text())
    for name, curve in loss_curve().items():
        # Another compiler or processor sums in another order, and training amplifies the difference step by step.
        np.testing.assert_allclose(curve[:5], expected[name][:5], rtol=1e-3, err_msg=name)
        np.testing.assert_allclose(curve, expected[name], rtol=5e-2, err_msg=name)
