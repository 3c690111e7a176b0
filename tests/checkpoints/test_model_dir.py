"""Exports are read back bit for bit, and every kind of broken directory has a clear error."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from slap_jax.checkpoints.model_dir import ExportError, check_shapes, export, load_export
from slap_jax.params import flatten
from tests.inference.tiny import tiny_config, tiny_run_params, tiny_tokenizer

pytestmark = pytest.mark.compile


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    config = tiny_config()
    tiny_tokenizer(directory / "words.model")
    return config, tiny_run_params(config), directory / "words.model"


@pytest.fixture
def exported(run, tmp_path):
    config, params, tokenizer = run
    return export(params, config, tokenizer, tmp_path / "export", step=7)


def test_round_trip(run, exported):
    config, params, tokenizer = run
    loaded = load_export(exported)
    assert loaded.step == 7 and loaded.tokenizer_path.read_bytes() == tokenizer.read_bytes()
    assert loaded.config.model.to_dict() == config.model.to_dict()
    assert loaded.config.audio.to_dict() == config.audio.to_dict()
    expected = flatten(params)
    result = flatten(loaded.params)
    assert set(expected) - set(result) == {"objectives/distillation/head/prototypes"}
    for name, value in result.items():
        assert value.dtype == np.float32 and np.array_equal(value, np.asarray(expected[name])), name


def test_holds_only_the_three_files_and_no_paths(exported):
    files = sorted(exported.iterdir())
    assert [path.name for path in files] == ["config.json", "model.safetensors", "tokenizer.model"]
    assert len({path.stat().st_mode for path in files}) == 1
    assert "/" not in (exported / "config.json").read_text().replace("\\/", "")


def test_parameters_on_devices_are_gathered(run, tmp_path):
    config, _, tokenizer = run
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    kernel = jax.device_put(np.arange(16.0, dtype=np.float32).reshape(8, 2), spec)
    export({"model": {"kernel": kernel}}, config, tokenizer, tmp_path)
    assert np.array_equal(load_file(tmp_path / "model.safetensors")["model/kernel"], np.asarray(kernel))


def test_version_1_is_read(run, exported):
    path = exported / "config.json"
    content = json.loads(path.read_text())
    del content["tokenizer"], content["config"]["data"]["max_seconds"]
    path.write_text(json.dumps({**content, "format_version": 1}))
    config, params, _ = run
    loaded = load_export(exported)
    assert loaded.config.data.to_dict() == {"max_caption_tokens": config.data.max_caption_tokens}
    assert loaded.tokenizer_path == exported / "tokenizer.model" and loaded.step == 7
    assert np.array_equal(flatten(loaded.params)["model/text_pooling/probe"], params["model"]["text_pooling"]["probe"])


def test_a_vocabulary_in_json_keeps_its_form(run, tmp_path):
    config, params, _ = run
    (tmp_path / "words.json").write_text('{"model": {}}')
    directory = export(params, config, tmp_path / "words.json", tmp_path / "export")
    loaded = load_export(directory)
    assert loaded.tokenizer_path == directory / "tokenizer.json"
    assert loaded.tokenizer_path.read_text() == '{"model": {}}'
    assert not (directory / "tokenizer.model").exists()


def test_files_derived_from_an_older_model_are_removed(run, exported):
    config, params, tokenizer = run
    (exported / "fingerprint.json").write_text("{}")
    (exported / "README.md").write_text("numbers of the older model")
    export(params, config, tokenizer, exported)
    assert sorted(path.name for path in exported.iterdir()) == ["config.json", "model.safetensors", "tokenizer.model"]


def test_a_second_export_replaces_the_first(run, exported):
    config, params, tokenizer = run
    params = {"model": jax.tree.map(lambda leaf: leaf + 1, params["model"])}
    loaded = load_export(export(params, config, tokenizer, exported, step=8))
    assert loaded.step == 8 and "objectives" not in loaded.params


@pytest.mark.parametrize("name", ["tokenizer.model", "model.safetensors", "config.json"])
def test_a_missing_file_is_named(exported, name):
    (exported / name).unlink()
    with pytest.raises(ExportError, match=f"lacks {name}"):
        load_export(exported)


def test_not_a_directory(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text('{"steps": 1}')
    with pytest.raises(ExportError, match=r"run is a run, not an export.*`slap export .*run`, then give .*run/export"):
        load_export(tmp_path / "run")
    with pytest.raises(ExportError, match="nowhere is not a directory"):
        load_export(tmp_path / "nowhere")


def test_another_version(exported):
    path = exported / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 99}))
    with pytest.raises(ExportError, match=r"version 99; this slap_jax .* reads 'slap_jax' versions 1 to 2"):
        load_export(exported)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"format": "slap_jax"}', "null"])
def test_a_broken_config(exported, content):
    (exported / "config.json").write_text(content)
    with pytest.raises(ExportError, match=r"config\.json is not the description of an export"):
        load_export(exported)


def test_a_config_without_a_section(exported):
    path = exported / "config.json"
    content = json.loads(path.read_text())
    del content["config"]["model"]
    path.write_text(json.dumps(content))
    with pytest.raises(ExportError, match=r"config\.json lacks config\.model: it was edited; write it again"):
        load_export(exported)


@pytest.mark.parametrize(
    ("group", "values", "message"),
    [
        ("audio", {"std": None}, r"config\.audio\.std is missing; all settings are required\. It was edited, or"),
        ("audio", {"sample_rate": "16000"}, r"config\.audio\.sample_rate is '16000'; write an integer"),
        ("audio", {"loudness": 1.0}, r"config\.audio\.loudness is not a setting; config\.audio takes: dft"),
        ("model", {"audio_encoder": 3}, r"config\.model\.audio_encoder is 3; expected a group of settings"),
        ("model", {"attention": "sparse"}, r"config\.model\.attention is 'sparse'; write one of auto"),
        ("data", {"max_caption_tokens": None}, r"config\.data\.max_caption_tokens is None; write an integer"),
    ],
)
def test_an_edited_config_is_refused(exported, group, values, message):
    path = exported / "config.json"
    content = json.loads(path.read_text())
    settings = content["config"][group] | values
    content["config"][group] = {name: value for name, value in settings.items() if value is not None}
    path.write_text(json.dumps(content))
    with pytest.raises(ExportError, match=rf"config\.json: {message}"):
        load_export(exported)


def test_heads_that_do_not_divide_the_width(exported):
    path = exported / "config.json"
    content = json.loads(path.read_text())
    content["config"]["model"]["audio_encoder"]["heads"] = 5
    path.write_text(json.dumps(content))
    with pytest.raises(ExportError, match=r"audio_encoder\.width is 32, not a multiple of its heads=5"):
        load_export(exported)


def test_damaged_weights(exported):
    path = exported / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1_000])
    with pytest.raises(ExportError, match=r"model\.safetensors cannot be read"):
        load_export(exported)


def test_the_vocabulary_of_another_model_is_refused(exported):
    with (exported / "tokenizer.model").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ExportError, match="not the tokenizer that this model was trained with"):
        load_export(exported)


def test_export_needs_model_and_vocabulary(run, tmp_path):
    config, params, tokenizer = run
    with pytest.raises(ExportError, match=r"tokenizer .*none is missing"):
        export(params, config, tmp_path / "none", tmp_path)
    with pytest.raises(ExportError, match="hold objectives; expected 'model'"):
        export({"objectives": params["objectives"]}, config, tokenizer, tmp_path)


def test_shapes_are_compared_by_name():
    expected = {"a": {"b": np.zeros((2, 3))}, "c": np.zeros(1)}
    check_shapes(expected, expected, "model")
    with pytest.raises(ExportError, match=r"a/b: found \[3, 2\], expected \[2, 3\]; c: found nothing, expected \[1\]"):
        check_shapes({"a": {"b": np.zeros((3, 2))}}, expected, "model")
