"""With the weights of ModernBERT our text tower gives the hidden states of transformers; other folders are rejected."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from slap_jax.config.defaults import default_config
from slap_jax.config.rules import ConfigError
from slap_jax.config.validate import validate, validate_towers
from slap_jax.models.encoders import TextEncoder
from slap_jax.models.modernbert import ModernBertError, check_modernbert, read_modernbert
from slap_jax.parallel.sharding import partition_spec
from slap_jax.params import flatten

GOLDEN = np.load(Path(__file__).parent.parent / "golden" / "modernbert.npz")
TOKENS, LENGTHS, HIDDEN = (GOLDEN[name] for name in ("tokens", "lengths", "hidden"))


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A folder written by transformers, except for the tokenizer."""
    folder = tmp_path_factory.mktemp("modernbert")
    (folder / "config.json").write_text(str(GOLDEN["config"]))
    save_file({n.removeprefix("weights/"): GOLDEN[n] for n in GOLDEN.files if "/" in n}, folder / "model.safetensors")
    return folder


@pytest.fixture
def folder(stored, tmp_path):
    """A copy that a test may modify."""
    return Path(shutil.copytree(stored, tmp_path / "folder"))


@pytest.fixture
def config():
    """A config with the sizes of the stored model."""
    config = default_config()
    config.model.update(vocab_size=40, compute_dtype="float32")
    config.model.text_encoder.update(kind="modernbert", layers=7, heads=2, width=16, mlp_width=24)
    config.model.text_encoder.update(locals_per_global=2, local_window=4, rope_base=160_000.0, rope_base_local=10_000.0)
    return config


def tower(config, params):
    graph, _ = nnx.split(nnx.eval_shape(lambda: TextEncoder(config.model, rngs=nnx.Rngs(0))))
    return nnx.merge(graph, params)


def change_config(folder, **changes):
    path = folder / "config.json"
    described = {name: value for name, value in (json.loads(path.read_text()) | changes).items() if value != "gone"}
    path.write_text(json.dumps(described))


@pytest.mark.compile
@pytest.mark.parametrize("backend", ["auto", "dense", "chunked", "blocked"])
def test_hidden_states_equal_those_of_transformers(config, stored, backend):
    config.model.attention = backend
    positions = np.arange(TOKENS.shape[1])[None].repeat(len(TOKENS), axis=0)
    inside = positions < LENGTHS[:, None]
    out = tower(config, read_modernbert(stored, config.model))(jnp.asarray(TOKENS), inside.astype(np.int32), positions)
    assert np.abs(HIDDEN[inside]).mean() > 0.3
    np.testing.assert_allclose(np.asarray(out)[inside], HIDDEN[inside], atol=1e-4)


@pytest.mark.compile
def test_packed_captions_have_the_hidden_states_of_single_ones(config, stored, pack):
    order = [2, 0, 1]
    segments, positions = pack([[int(LENGTHS[index]) for index in order]], 80)
    tokens = np.zeros((1, 80), np.int32)
    expected = np.concatenate([HIDDEN[index, : LENGTHS[index]] for index in order])
    tokens[0, : len(expected)] = np.concatenate([TOKENS[index, : LENGTHS[index]] for index in order])
    out = tower(config, read_modernbert(stored, config.model))(jnp.asarray(tokens), segments, positions)
    np.testing.assert_allclose(np.asarray(out)[0, : len(expected)], expected, atol=1e-4)


def test_the_published_files_format_is_read_too(config, stored, folder):
    """The published files have a head for masked tokens, and settings in an older format."""
    tensors = {f"model.{name}": value for name, value in load_file(stored / "model.safetensors").items()}
    save_file(tensors | {"decoder.bias": np.zeros(40, np.float32)}, folder / "model.safetensors")
    older = {"global_attn_every_n_layers": 3, "global_rope_theta": 160_000.0, "local_rope_theta": 10_000.0}
    change_config(folder, rope_parameters="gone", layer_types="gone", **older)
    expected, result = (flatten(read_modernbert(path, config.model)) for path in (stored, folder))
    assert expected.keys() == result.keys()
    assert all(np.array_equal(value, result[name]) for name, value in expected.items())


def test_weights_in_half_precision_are_read(config, stored, folder):
    tensors = load_file(stored / "model.safetensors")
    save_file({n: v.astype(ml_dtypes.bfloat16) for n, v in tensors.items()}, folder / "model.safetensors")
    table = read_modernbert(folder, config.model)["embedding"]["table"]
    assert table.dtype == np.float32
    np.testing.assert_allclose(table, tensors["embeddings.tok_embeddings.weight"], rtol=2**-8)


@pytest.mark.compile
def test_the_parameters_are_those_of_the_tower_and_are_sharded_like_others(config, stored):
    _, state = nnx.split(nnx.eval_shape(lambda: TextEncoder(config.model, rngs=nnx.Rngs(0))))
    expected = {name: leaf.shape for name, leaf in flatten(nnx.to_pure_dict(state)).items()}
    result = {name: leaf.shape for name, leaf in flatten(read_modernbert(stored, config.model)).items()}
    assert result == expected
    mesh = {"data": 1, "fsdp": 2, "tensor": 2}
    for name, shape in expected.items():
        split = [axis for axis in partition_spec(f"/model/text_encoder/{name}", shape, mesh) if axis]
        assert (name.endswith("/scale") and not split) or sorted(split) == ["fsdp", "tensor"], name


@pytest.mark.compile
def test_rematerialisation_and_depth(config, pack):
    segments, positions = pack([[9, 6]], 16)
    tokens = jnp.asarray(np.random.default_rng(0).integers(3, 40, (1, 16)))

    def gradient(remat):
        config.model.remat = remat
        graph, params = nnx.split(TextEncoder(config.model, rngs=nnx.Rngs(0)))

        def loss(params):
            return jnp.sum(jnp.sin(nnx.merge(graph, params)(tokens, segments, positions)))

        return jax.jit(jax.grad(loss)), params

    (plain, params), (full, _) = gradient("none"), gradient("full")
    for a, b in zip(jax.tree.leaves(plain(params)), jax.tree.leaves(full(params)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    lines = plain.lower(params).as_text().count("\n")
    config.model.text_encoder.layers = 22
    deep, params = gradient("none")
    assert deep.lower(params).as_text().count("\n") == lines


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "bert"}, r"config\.json describes a 'bert'; expected model_type 'modernbert'"),
        ({"model_type": "gone"}, r"config\.json is not the config of a model"),
        ({"hidden_activation": "relu"}, "has hidden_activation='relu'; expected ModernBERT's 'gelu'"),
        ({"norm_bias": True}, "has norm_bias=True"),
        ({"num_hidden_layers": 10}, r"write config\.model with text_encoder\.layers=10 \(found 7\)$"),
        (
            {"vocab_size": 50, "local_attention": 128},
            r"with vocab_size=50 \(found 40\), text_encoder\.local_window=64 \(found 4\)$",
        ),
        ({"layer_types": ["full_attention"] * 7}, r"text_encoder\.locals_per_global=0 \(found 2\)"),
        ({"layer_types": ["sliding_attention"] * 7}, "expected full_attention first and then at regular intervals"),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 5e5}}},
            r"text_encoder\.rope_base=500000\.0 \(found 160000\.0\)",
        ),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "has rope_type='yarn'; expected 'default'"),
    ],
)
def test_another_kind_of_model_is_refused(config, folder, changes, words):
    change_config(folder, **changes)
    with pytest.raises(ModernBertError, match=words):
        check_modernbert(folder, config.model)


def test_missing_and_damaged_files(config, folder):
    with pytest.raises(
        ModernBertError, match=r"config\.init_text_from: .*nowhere is not a directory; give a local folder"
    ):
        read_modernbert(folder / "nowhere", config.model)
    (folder / "config.json").write_text("{")
    with pytest.raises(ModernBertError, match=r"config\.json is not the config of a model \(JSONDecodeError"):
        read_modernbert(folder, config.model)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModernBertError, match=r"lacks model\.safetensors; give a local folder with ModernBERT"):
        read_modernbert(folder, config.model)


def test_weights_of_another_config_are_refused(config, stored, folder):
    tensors = load_file(stored / "model.safetensors")
    name = "layers.3.mlp.Wi.weight"
    save_file(tensors | {name: np.zeros((40, 16), np.float32)}, folder / "model.safetensors")
    with pytest.raises(ModernBertError, match=rf"{name} has shape \[40, 16\]; expected \[48, 16\] by the config\.json"):
        read_modernbert(folder, config.model)
    del tensors[name]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModernBertError, match=rf"{name} is missing; expected \[48, 16\]"):
        read_modernbert(folder, config.model)
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ModernBertError, match=r"model\.safetensors cannot be read \(.*\); download the file again"):
        read_modernbert(folder, config.model)


def test_impossible_settings_are_refused(config):
    validate_towers(config.model)
    config.model.text_encoder.layers = 6
    with pytest.raises(ConfigError, match=r"layers is 6; .*write 1 \+ a multiple of 3 for ModernBERT"):
        validate_towers(config.model)
    config.model.text_encoder.update(kind="scratch", layers=6)
    config.init_text_from = "folder"
    with pytest.raises(ConfigError, match=r"config\.init_text_from is 'folder', .* write kind='modernbert'"):
        validate(config)
    config.init_text_from = ""
    config.model.text_encoder.kind = "bert"
    with pytest.raises(ConfigError, match=r"text_encoder\.kind is 'bert'; write one of scratch, modernbert"):
        validate(config)
    config.model.text_encoder.kind = "scratch"
    config.model.eos_id = 50_282
    with pytest.raises(ConfigError, match=r"pad_id=0, bos_id=1, eos_id=50282; write three different ids below"):
        validate_towers(config.model)
