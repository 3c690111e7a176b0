"""Captions for evaluation: alike on a mesh, with the parameters of the moment, and none without a decoder."""

import jax
import pytest

from slap_jax.evaluation.scorer import CaptionWriter
from slap_jax.inference.embedder import Embedder
from slap_jax.parallel.sharding import create_mesh
from tests.inference.tiny import noise, tiny_config, tiny_run_params, tiny_tokenizer

CLIPS = [noise(seed, seconds) for seed, seconds in enumerate((0.5, 2.0, 1.0))]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny_tokenizer(tmp_path_factory.mktemp("words") / "words.model")


def test_captions_do_not_depend_on_the_mesh_and_follow_the_parameters(tokenizer):
    config, params = tiny_config(), tiny_run_params(tiny_config())
    writer = CaptionWriter(Embedder(config), tokenizer, 12)
    captions = writer.captions(params)
    assert captions is not None and captions.decoding == {"beam": 1}
    written = captions.write(CLIPS)
    assert len(written) == len(CLIPS) and all(written)

    mesh = create_mesh(config.parallel, jax.devices()[:2])
    placed = jax.device_put(params, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    on_mesh = CaptionWriter(Embedder(config, mesh=mesh), tokenizer, 12).captions(placed)
    assert on_mesh is not None and on_mesh.write(CLIPS) == written

    later = writer.captions(tiny_run_params(config, seed=5))
    assert later is not None and later.write(CLIPS) != written


def test_ids_beyond_the_vocabulary_spell_nothing(tokenizer):
    config = tiny_config()
    config.model.vocab_size = 2 * tokenizer.vocab_size
    params = tiny_run_params(config)
    embedding = params["objectives"]["captioning"]["decoder"]["embedding"]
    embedding["table"] = embedding["table"].at[: tokenizer.vocab_size].multiply(1e-3)  # so that surplus ids win
    captions = CaptionWriter(Embedder(config), tokenizer, 6).captions(params)
    assert captions is not None and captions.write(CLIPS[:1]) == [""]


def test_a_run_without_a_decoder_writes_none(tokenizer):
    params = tiny_run_params(tiny_config())
    del params["objectives"]["captioning"]
    assert CaptionWriter(Embedder(tiny_config()), tokenizer, 12).captions(params) is None
