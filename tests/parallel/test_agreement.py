"""Processes that were started differently are told apart, fact by fact."""

from slap_jax.parallel import agreement
from slap_jax.parallel.agreement import describe_disagreement, flattened, require_agreement, run_facts
from tests.tiny import tiny_config


def test_one_process_agrees_with_itself_and_asks_nobody(monkeypatch):
    asked = []
    monkeypatch.setattr(agreement, "exchange", lambda *arguments: asked.append(arguments))
    require_agreement("anything", {"a": 1}, seconds=0.0)
    assert not asked


def test_facts_have_the_names_of_settings():
    facts = flattened(run_facts(tiny_config()))
    assert facts["config.data.rows"] == 8
    assert facts["config.model.audio_encoder.width"] == 16
    assert {"version.slap_jax", "version.jax", "version.jaxlib"} <= set(facts)


def test_every_difference_with_its_values_and_who_has_them():
    same = {"config.seed": 0, "config.data.rows": 8, "version.jax": "0.10.2"}
    told = [same, same, {**same, "config.data.rows": 16}, {"config.seed": 0, "config.data.rows": 8}, same, same]
    message = describe_disagreement(told, ["a", "b", "c", "d", "e", "f"])
    assert message.splitlines()[:3] == [
        "the processes of this run were not started alike:",
        "  config.data.rows: 8 on process 0 (a), 1 (b), 3 (d) and 2 more; 16 on process 2 (c)",
        '  version.jax: "0.10.2" on process 0 (a), 1 (b), 2 (c) and 2 more; absent on process 3 (d)',
    ]
    assert "config.seed" not in message
    assert "give all hosts the same code, config file, overrides and prepared data" in message


def test_a_long_list_is_cut():
    message = describe_disagreement([{f"x{n:02d}": 0 for n in range(30)}, {}], ["a", "b"])
    assert "x19" in message
    assert "x20" not in message
    assert "... and 10 more" in message
