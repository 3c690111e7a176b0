"""Evaluation of a model equals the parts put together by hand, and its results are complete JSON."""

import json

import jax
import numpy as np
import pytest

from slap_jax.config.defaults import source
from slap_jax.config.rules import ConfigError
from slap_jax.data.audio import to_int16
from slap_jax.data.evaluation_set import EvaluationClip
from slap_jax.data.preparation.prepare import prepare_records
from slap_jax.data.records import make_record
from slap_jax.errors import UrlError
from slap_jax.evaluation.clip_set import read_clip_set
from slap_jax.evaluation.evaluate import evaluate, parse_data_argument, scalars, write_results
from slap_jax.evaluation.retrieval import retrieval
from slap_jax.evaluation.task import ZeroShot, default_task, load_tasks, named_task
from slap_jax.evaluation.text_table import table
from slap_jax.inference.embedder import Embedder
from slap_jax.inference.prompts import ZeroShotError, class_prompts
from slap_jax.parallel.sharding import create_mesh
from tests.inference.tiny import CAPTIONS, CountingEmbedder, noise, shared_params, tiny_config, tiny_params

pytestmark = pytest.mark.compile

CONFIG = tiny_config()
PARAMS = shared_params()["model"]
CLIPS = [
    EvaluationClip(
        id=f"clip{index}",
        waveform=to_int16(noise(index, 0.2 + 0.04 * index)),
        captions=tuple(CAPTIONS[3 * index : 3 * index + 1 + index % 3]),
        labels=(f"kind={'ab'[index % 2]}", "loud") if index < 9 else (),
        key=index,
    )
    for index in range(10)
]


def task_of(clips, tokenizer, label="", template="ensemble", name="tiny"):
    return default_task(read_clip_set(name, clips, tokenizer, 24, "test"), label, (template,))


@pytest.fixture(scope="module")
def results(embedder, tokenizer):
    return evaluate(embedder, PARAMS, [task_of(CLIPS, tokenizer, "kind", "sound")], resamples=200)


def test_evaluation_equals_its_parts(results, embedder, tokenizer):
    audio = embedder.audio(PARAMS, [clip.waveform for clip in CLIPS])
    pairs = [(index, caption) for index, clip in enumerate(CLIPS) for caption in clip.captions]
    owner, captions = np.array([index for index, _ in pairs]), [caption for _, caption in pairs]
    text = embedder.text(PARAMS, [tokenizer.encode(caption, 24) for caption in captions])
    expected = retrieval(audio, text, owner, captions, resamples=200)
    result = results["retrieval"]["tiny"]
    assert {name: result[name] for name in expected} == expected
    prompts = embedder.text(PARAMS, [tokenizer.encode(prompt, 24) for prompt in class_prompts("ab", "sound")])
    right = [int(np.argmax(audio[index] @ prompts.T)) == index % 2 for index in range(9)]
    assert results["zero_shot"]["tiny"]["accuracy"] == np.mean(right)


def test_results_describe_themselves(results):
    result = results["retrieval"]["tiny"]
    assert result["n_clips"] == 10 and result["n_captions"] == 19
    assert result["crop"] == "none" and result["split"] == "test" and len(result["split_fingerprint"]) == 16
    result = results["zero_shot"]["tiny"]
    assert result["n"] == 9 and result["chance"] == 0.5 and result["classes"] == ["a", "b"]
    assert result["template"] == "sound" and result["label"] == "kind"


def test_written_as_json(results, tmp_path):
    write_results(results, tmp_path / "evaluation.json")
    assert json.loads((tmp_path / "evaluation.json").read_text()) == results
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]


def test_scalars_are_the_numbers_of_curves(results):
    result = scalars(results)
    assert result["retrieval/tiny/t2a_r1"] == results["retrieval"]["tiny"]["t2a_r1"]
    assert result["zero_shot/tiny/accuracy"] == results["zero_shot"]["tiny"]["accuracy"]
    assert all(isinstance(value, float) for value in result.values())
    assert not any("interval" in name or "n_clips" in name for name in result)


def test_the_table_has_chance_and_n_next_to_each_number(results):
    lines = table(results).splitlines()
    assert len(lines) == 5
    assert "tiny, text to audio" in lines[1] and f"{results['retrieval']['tiny']['chance_r1']:.3f}" in lines[1]
    assert "tiny, kind" in lines[4] and "0.500" in lines[4]
    assert "nothing was evaluated" in table({"retrieval": {}, "zero_shot": {}})


def test_same_results_on_a_mesh_and_while_parameters_change(tokenizer, results):
    task, counting = task_of(CLIPS, tokenizer, "kind", "sound"), CountingEmbedder(CONFIG)
    assert evaluate(counting, PARAMS, [task], resamples=200) == results
    traces = counting.traces
    other = evaluate(counting, tiny_params(CONFIG, seed=5), [task], resamples=50)
    assert counting.traces == traces
    assert other["retrieval"]["tiny"]["t2a_map10"] != results["retrieval"]["tiny"]["t2a_map10"]
    mesh = create_mesh(CONFIG.parallel, jax.devices()[:2])
    params = jax.device_put(PARAMS, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    sharded = evaluate(Embedder(CONFIG, mesh=mesh), params, [task], resamples=200)
    for name in ("t2a_r1", "t2a_map10", "a2t_map10", "t2a_medr"):
        assert sharded["retrieval"]["tiny"][name] == pytest.approx(results["retrieval"]["tiny"][name])


def test_works_under_a_transfer_guard(embedder, tokenizer):
    task = task_of(CLIPS, tokenizer, "kind")
    params = jax.device_put(PARAMS)
    expected = evaluate(embedder, params, [task], resamples=10)
    with jax.transfer_guard("disallow"):
        assert evaluate(embedder, params, [task], resamples=10) == expected


def test_sets_without_captions_or_labels(embedder, tokenizer):
    bare = [EvaluationClip(clip.id, clip.waveform, (), clip.labels, clip.key) for clip in CLIPS[:3]]
    result = evaluate(embedder, PARAMS, [task_of(bare, tokenizer, "kind", name="bare")], resamples=10)
    assert result["retrieval"] == {} and result["zero_shot"]["bare"]["n"] == 3
    result = evaluate(embedder, PARAMS, [task_of([*bare, *CLIPS[3:6]], tokenizer, name="mixed")], resamples=10)
    assert result["zero_shot"] == {} and result["retrieval"]["mixed"]["n_clips"] == 3


def test_clips_without_captions_are_logged(tokenizer, caplog):
    bare = [EvaluationClip(clip.id, clip.waveform, (), clip.labels, clip.key) for clip in CLIPS[:3]]
    with caplog.at_level("INFO"):
        task_of([*bare, *CLIPS[3:6]], tokenizer, name="mixed")
        task_of(bare, tokenizer, "kind", name="bare")
        task_of(CLIPS, tokenizer, name="full")
    assert [record.getMessage() for record in caplog.records] == [
        "evaluation set 'mixed': 3 of 6 clips have captions; only those take part in retrieval",
        "evaluation set 'bare': 0 of 3 clips have captions; it has no retrieval results",
    ]
    with pytest.raises(ConfigError, match=r"'bare': 0 of 3 clips have captions, and retrieval needs two; .*: kind$"):
        task_of(bare, tokenizer, name="bare")
    with pytest.raises(ConfigError, match=r"'alone': 1 of 1 clips have captions, .* label keys: it has none"):
        task_of(CLIPS[9:], tokenizer, name="alone")


def test_a_set_of_labels_alone_is_read_from_records(tokenizer, tmp_path):
    records = [make_record(clip.id, clip.waveform, (), labels=clip.labels, source="tiny") for clip in CLIPS[:4]]
    prepare_records({"test": (len(records), records)}, tmp_path / "tiny", {}, log=lambda line: None)
    (task,) = load_tasks({"tiny": source(str(tmp_path / "tiny"), "test", label="kind")}, tokenizer, 24)
    (measure,) = task.measures
    assert task.kinds == ("zero_shot",) and task.data.captions == [] and task.data.sources == ["tiny"]
    assert isinstance(measure, ZeroShot)
    assert measure.labels.classes == ["a", "b"] and list(measure.labels.index) == [0, 1, 0, 1]


def test_fingerprint_depends_on_the_scored_clips(tokenizer):
    def fingerprint(clips):
        return read_clip_set("tiny", clips, tokenizer, 24).fingerprint

    assert fingerprint(CLIPS) == fingerprint(list(CLIPS))
    assert len({fingerprint(CLIPS), fingerprint(CLIPS[::-1]), fingerprint(CLIPS[:-1])}) == 3
    other = EvaluationClip("clip0", CLIPS[0].waveform, ("other words",), CLIPS[0].labels, 0)
    assert fingerprint([other, *CLIPS[1:]]) != fingerprint(CLIPS)


def test_unknown_tasks_are_errors(tokenizer):
    with pytest.raises(ConfigError, match="evaluation set 'empty' holds no clips"):
        task_of([], tokenizer, name="empty")
    with pytest.raises(ZeroShotError, match="no clip has the label 'genre'; labels found: kind"):
        task_of(CLIPS, tokenizer, "genre")
    with pytest.raises(ZeroShotError, match="template 'loud' is not known"):
        task_of(CLIPS, tokenizer, "kind", "loud")


@pytest.mark.parametrize(
    ("names", "multi_label"), [(("zero_shot",), True), (("zero_shot_multi_label",), False), (("zero_shot",), False)]
)
def test_every_way_to_ask_for_classes_has_a_table(embedder, tokenizer, names, multi_label):
    """The kind of the results follows the labels, so that every reader of results finds the metric of their kind."""
    task = named_task(read_clip_set("tiny", CLIPS, tokenizer, 24), names, "kind", multi_label=multi_label)
    results = evaluate(embedder, PARAMS, [task], resamples=10)
    several = multi_label or names != ("zero_shot",)
    (entry,) = results["zero_shot_multi_label" if several else "zero_shot"].values()
    assert ("map" in entry) == several and ("accuracy" in entry) != several
    assert f"tiny, kind{'':<22}" in table(results) and entry["template"] == "ensemble"


def test_named_measures(tokenizer):
    data = read_clip_set("tiny", CLIPS, tokenizer, 24)
    task = named_task(data, ["zero_shot", "retrieval", "zero_shot_multi_label"], "kind", multi_label=True)
    assert task.kinds == ("zero_shot_multi_label", "retrieval")
    with pytest.raises(ConfigError, match=r"'probe' is not a measure; choose of retrieval, .*; `slap probe` trains"):
        named_task(data, ["probe"], "kind")
    with pytest.raises(ConfigError, match=r"'tiny': zero_shot needs the key of a label \(NAME=PATH:SPLIT:LABEL\)"):
        named_task(data, ["zero_shot"])
    with pytest.raises(ConfigError, match="'tiny': frames needs clips with timed regions"):
        named_task(data, ["frames"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("esc=data/esc50:test:class", ("esc", "data/esc50", "test", "class")),
        ("clips=data/clips:val+test", ("clips", "data/clips", "val+test", "")),
        ("odd=a:b/c:test:", ("odd", "a:b/c", "test", "")),
        ("odd=/mnt/a:b/data:test:drum", ("odd", "/mnt/a:b/data", "test", "drum")),
        ("odd=/mnt/a:b/data:test", ("odd", "/mnt/a:b/data", "test", "")),
    ],
)
def test_data_argument(text, expected):
    name, settings = parse_data_argument(text)
    assert (name, settings.path, settings.split, settings.label) == expected


@pytest.mark.parametrize("text", ["data/esc50:test", "esc=data/esc50", "=data:test", "esc=:test", "esc=data:"])
def test_bad_data_argument(text):
    with pytest.raises(ConfigError, match="is not NAME=PATH:SPLIT"):
        parse_data_argument(text)
    with pytest.raises(UrlError, match=r"gs://bucket/data:test:drum is a URL; mount the bucket"):
        parse_data_argument("cloud=gs://bucket/data:test:drum")
