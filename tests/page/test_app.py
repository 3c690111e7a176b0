"""The checks before a page is served. tests/oracle tests the page itself in a browser."""

import sys

import pytest

import slap_jax
from slap_jax.cli import main
from slap_jax.page.answers import PageError
from slap_jax.page.app import gradio
from tests.search.fake_model import FakeModel


def test_without_gradio(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(PageError, match=r"needs gradio, which is missing: pip install 'slap-jax\[page\]'"):
        gradio()
    monkeypatch.setattr(slap_jax, "load", lambda directory: FakeModel())
    assert main(["demo", "--model", "anything"]) == 2
    assert "slap demo: the page needs gradio" in capsys.readouterr().err
