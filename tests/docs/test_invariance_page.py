"""Runs the commands of docs/invariance.md, and compares its tables with the code."""

import re

import pytest
import soundfile

from slap_jax.doctor.diagnosis import ADVICE
from slap_jax.doctor.invariance import EXPECTED, changes
from tests.docs.run_page import ROOT, run_page
from tests.inference.tiny import noise, tiny_config, tiny_tokenizer, write_run

PAGE = (ROOT / "docs" / "invariance.md").read_text(encoding="utf-8")


@pytest.mark.compile
def test_the_commands_work(tmp_path, monkeypatch, capsys):
    config = tiny_config()
    config.data.tokenizer = str(tiny_tokenizer(tmp_path / "words.model").path)
    write_run(tmp_path / "runs/demo/export", config)
    (tmp_path / "recordings").mkdir()
    soundfile.write(tmp_path / "recordings/wind.wav", noise(0, 1.0), 16_000)
    monkeypatch.chdir(tmp_path)
    _, commands = run_page("invariance")
    assert len(commands) == 2 and capsys.readouterr().out.count("a sound and itself after a change") == 2


def test_every_group_and_warning_is_documented():
    groups = {change.group for change in changes(16_000)}
    assert groups <= set(re.findall(r"^\| ([a-z-]+) \|", PAGE, re.M))
    assert {f"varies_with_{group.replace('-', '_')}" for group in ADVICE} == set(
        re.findall(r"`(varies_with_\w+)`", PAGE)
    )
    assert groups == {*ADVICE, "cut"} and f"A median below {EXPECTED:g} is a warning" in PAGE
