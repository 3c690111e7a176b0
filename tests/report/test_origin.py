"""The page says where a run comes from and what it was trained on, as far as the run recorded it."""

import json
import re

import pytest

from slap_jax.config.defaults import source
from slap_jax.report.origin import data_table, provenance
from slap_jax.report.page import build_report
from slap_jax.report.record import read_run

START = {
    "started": "2030-01-02T03:04:05+00:00",
    "ended": "2030-01-02T04:04:05+00:00",
    "outcome": "finished",
    "first_step": 0,
    "last_step": 30,
    "command": "slap train --config configs/<x>.py --run-dir runs/a",
    "code": {"commit": "0123456789abcdef", "modified": True},
    "seed": 7,
    "versions": {"python": "3.11.9", "jax": "0.10.0"},
    "platform": "cpu",
    "devices": {"cpu": 2},
    "processes": 1,
    "machine": {"system": "Linux", "architecture": "x86_64", "processor": "EPYC", "cores": 4},
}


@pytest.mark.compile
def test_the_page_shows_the_provenance(run_dir):
    (run_dir / "provenance.json").write_text(
        json.dumps({"starts": [{**START, "started": "2030-01-01T00:00:00"}, START]})
    )
    build_report(run_dir, evaluation_sets={})
    html = (run_dir / "report.html").read_text()
    text = " ".join(re.sub(r"<[^>]+>", " ", html[html.index('<dl class="origin">') :].partition("</dl>")[0]).split())
    for shown in (
        "command slap train --config configs/&lt;x&gt;.py --run-dir runs/a",
        "commit 0123456789abcdef, with local changes",
        "seed 7 started 2030-01-01T00:00:00 ended 2030-01-02T04:04:05+00:00 outcome finished starts of the run 2",
        "devices cpu, 2 × cpu",
        "machine Linux, x86_64, EPYC, 4 cores",
        "versions python 3.11.9, jax 0.10.0",
    ):
        assert shown in text
    assert json.loads((run_dir / "report.json").read_text())["provenance"][1] == START


@pytest.mark.parametrize(
    "content", [None, "{", "[]", '{"starts": [3, {}]}', '{"starts": [{"code": null, "machine": 3}]}']
)
def test_a_run_without_a_full_record(run_dir, content):
    if content is not None:
        (run_dir / "provenance.json").write_text(content)
    shown = provenance(read_run(run_dir))
    assert shown is None or set(shown) <= {"seed", "outcome", "starts"}


def test_the_data_table_states_sizes_epochs_and_licences(run_dir, train_data):
    run = read_run(run_dir)
    run.config.data.train.scenes = source(f"{train_data}/scenes", "train", weight=3.0)
    run.config.data.evaluation.both = source(f"{train_data}/scenes", "train+test")
    run.metrics.append({"step": 30, "epoch/scenes": 4.5})
    table = data_table(run)
    gone, scenes = table["train"]
    assert gone["name"] == "clips" and gone["clips"] is gone["seconds"] is gone["epochs"] is None
    assert (scenes["clips"], scenes["weight"], scenes["share"], scenes["epochs"]) == (24, 3.0, 0.75, 4.5)
    assert scenes["seconds"] > 24 * 0.2 and "%" in scenes["licences"]
    both, gone = table["evaluation"]
    assert (both["name"], gone["name"], gone["clips"]) == ("both", "clips", None)
    assert both["clips"] > 24 and both["seconds"] > scenes["seconds"]
