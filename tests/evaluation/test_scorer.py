"""Caption generators: equal on a mesh, with the current parameters, none without a decoder; training collections."""

import jax
import pytest

from slap_jax.config.defaults import source
from slap_jax.data.preparation.prepare import prepare_records
from slap_jax.data.records import make_record
from slap_jax.evaluation.scorer import CaptionWriter, training_collections
from slap_jax.inference.embedder import Embedder
from slap_jax.parallel.sharding import create_mesh
from tests.inference.tiny import noise, tiny_config, tiny_run_params

pytestmark = pytest.mark.compile

CLIPS = [noise(seed, seconds) for seed, seconds in enumerate((0.5, 2.0, 1.0))]


def test_captions_do_not_depend_on_the_mesh_and_follow_the_parameters(embedder, tokenizer, run_params):
    config, params = tiny_config(), run_params
    writer = CaptionWriter(embedder, tokenizer, 12)
    captions = writer.generator(params)
    assert captions is not None and captions.decoding == {"beam": 1}
    written = captions.write(CLIPS)
    assert len(written) == len(CLIPS) and all(written)

    mesh = create_mesh(config.parallel, jax.devices()[:2])
    placed = jax.device_put(params, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    on_mesh = CaptionWriter(Embedder(config, mesh=mesh), tokenizer, 12).generator(placed)
    assert on_mesh is not None and on_mesh.write(CLIPS) == written

    later = writer.generator(tiny_run_params(config, seed=5))
    assert later is not None and later.write(CLIPS) != written


def test_ids_beyond_the_vocabulary_are_ignored(tokenizer):
    config = tiny_config()
    config.model.vocab_size = 2 * tokenizer.vocab_size
    params = tiny_run_params(config)
    embedding = params["objectives"]["captioning"]["decoder"]["embedding"]
    embedding["table"] = embedding["table"].at[: tokenizer.vocab_size].multiply(1e-3)  # so that surplus ids win
    captions = CaptionWriter(Embedder(config), tokenizer, 6).generator(params)
    assert captions is not None and captions.write(CLIPS[:1]) == [""]


def test_a_run_without_a_decoder_has_no_captions(embedder, tokenizer, run_params):
    params = {"model": run_params["model"], "objectives": {}}
    assert CaptionWriter(embedder, tokenizer, 12).generator(params) is None


def test_training_collections_are_those_of_the_records(tmp_path):
    """The training collections come from the records, not from the names of folders or sources."""
    records = [make_record(f"{n}", noise(n, 0.1), ["rain"], source=("wavcaps", "macs")[n % 2]) for n in range(4)]
    prepare_records({"train": (4, records)}, tmp_path / "esc50", {}, log=lambda line: None)
    config = tiny_config()
    assert training_collections(config) is None  # an export
    config.data.train.clotho = source(str(tmp_path / "esc50"), "train")
    config.data.train.gone = source(str(tmp_path / "gone"), "train")
    assert training_collections(config) == ["macs", "wavcaps"]
    del config.data.train["clotho"]
    assert training_collections(config) is None  # the data is on another machine
