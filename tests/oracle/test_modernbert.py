"""Our text tower and tokenizer against transformers' own, in one process."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from slap_jax.config.defaults import default_config
from slap_jax.data.tokenizer import load_tokenizer
from slap_jax.models.encoders import TextEncoder
from slap_jax.models.modernbert import read_modernbert
from tests.tiny_modernbert import use_modernbert, write_folder

pytestmark = pytest.mark.compile

CAPTIONS = [
    "A dog barks, then rain falls on a tin roof.",
    "someone speaks  in a large hall",
    "Vögel 🐦 singing; 3.5 kHz",
    "",
    " leading space and\ttabs\n",
]


@pytest.mark.parametrize(("layers", "local_attention"), [(1 + 3, 8), (1 + 3, 128), (1 + 3 * 3, 32)])
def test_hidden_states_of_a_random_model(tmp_path, layers, local_attention):
    from tests.golden.make_modernbert import hidden_states, random_model

    model = random_model(layers, local_attention, seed=layers + local_attention)
    model.save_pretrained(tmp_path)
    config = default_config()
    config.model.update(vocab_size=40, compute_dtype="float32")
    config.model.text_encoder.update(kind="modernbert", layers=layers, heads=2, width=16, mlp_width=24)
    config.model.text_encoder.update(locals_per_global=2, local_window=local_attention // 2)
    config.model.text_encoder.update(rope_base=160_000.0, rope_base_local=10_000.0)
    lengths = [200, 77]
    tokens = np.random.default_rng(1).integers(3, 40, (2, 200))
    expected = hidden_states(model, tokens, lengths)
    positions = np.arange(200)[None].repeat(2, axis=0)
    inside = positions < np.asarray(lengths)[:, None]
    graph, _ = nnx.split(nnx.eval_shape(lambda: TextEncoder(config.model, rngs=nnx.Rngs(0))))
    tower = nnx.merge(graph, read_modernbert(tmp_path, config.model))
    found = np.asarray(tower(jnp.asarray(tokens), inside.astype(np.int32), positions))
    difference = np.abs(found - expected)[inside].max()
    print(f"{layers} layers, window {local_attention}: largest difference {difference:.1e}")
    assert difference < 1e-4


def test_hidden_states_and_ids_of_captions_from_a_folder(tmp_path):
    """The folder as a whole, read by transformers and by us."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = write_folder(tmp_path / "folder", CAPTIONS[:3])
    theirs, ours = AutoTokenizer.from_pretrained(folder), load_tokenizer(folder / "tokenizer.json")
    for caption in CAPTIONS:
        assert ours.encode(caption, 1_000) == theirs(caption)["input_ids"]
        assert ours.decode(ours.encode(caption, 1_000)) == caption.strip()
    config = use_modernbert(default_config(), folder)
    config.model.compute_dtype = "float32"
    graph, _ = nnx.split(nnx.eval_shape(lambda: TextEncoder(config.model, rngs=nnx.Rngs(0))))
    tower = nnx.merge(graph, read_modernbert(folder, config.model))
    ids = ours.encode(CAPTIONS[0], 1_000)
    with torch.no_grad():
        expected = AutoModel.from_pretrained(folder)(torch.tensor([ids])).last_hidden_state.numpy()
    found = tower(jnp.asarray([ids]), np.ones((1, len(ids)), np.int32), np.arange(len(ids))[None])
    np.testing.assert_allclose(found, expected, atol=1e-4)
