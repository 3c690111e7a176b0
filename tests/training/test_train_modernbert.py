"""A run whose text tower starts from a ModernBERT folder, up to captions generated from its export."""

import numpy as np
import pytest

import slap_jax
from slap_jax.checkpoints.read_model import export_run, read_model
from slap_jax.config.rules import ConfigError
from slap_jax.data.records import open_split
from slap_jax.models.modernbert import ModernBertError, read_modernbert
from slap_jax.params import flatten
from slap_jax.train import main
from slap_jax.training.init_from import check_start
from tests.tiny import tiny_config
from tests.tiny_modernbert import IDS, use_modernbert, write_folder

pytestmark = pytest.mark.process

STEPS = 3


@pytest.fixture(scope="module")
def folder(train_data, tmp_path_factory):
    captions = [caption for record in open_split(train_data / "scenes", "train") for caption in record.captions]
    return write_folder(tmp_path_factory.mktemp("modernbert"), captions)


@pytest.fixture
def config(train_data, folder):
    config = use_modernbert(tiny_config(str(train_data)), folder)
    config.data.update(text_tokens=128, max_caption_tokens=32)  # more pieces in a caption than elsewhere in the tests
    config.objectives.distillation.weight = 0.0  # the other objectives are not needed here
    config.train.steps = STEPS
    config.optimizer.warmup_steps = 0
    return config


def test_from_the_folder_to_an_export_that_writes_captions(config, folder, tmp_path):
    frozen = r"^model/text_encoder/(embedding/|transformer/first/)"
    config.optimizer.learning_rate_factors = ((frozen, 0.0), (r"^model/text_encoder/", 0.1))
    assert main(config, tmp_path / "run") == 0

    trained = flatten(read_model(tmp_path / "run").params["model"]["text_encoder"])
    for name, start in flatten(read_modernbert(folder, config.model)).items():
        change = np.abs(np.asarray(trained[name]) - start).max()
        if name.startswith(("embedding/", "transformer/first/")):
            assert change == 0.0, name
        else:  # Adam moves by the learning rate of 0.01 at most, times the factor, for each step
            assert 1e-5 < change < 1.5 * STEPS * 1e-3, name

    exported = export_run(tmp_path / "run")
    assert (exported / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    assert str(folder) not in (exported / "config.json").read_text()
    (folder / "config.json").rename(folder / "moved.json")  # neither an export nor a resumed run needs the folder
    try:
        model = slap_jax.load(exported)
        check_start(config, tmp_path / "run")
        with pytest.raises(ModernBertError, match=r"lacks config\.json"):
            check_start(config, tmp_path / "new")
    finally:
        (folder / "moved.json").rename(folder / "config.json")
    texts = model.embed_text(["a low tone", "a Low tone", "two beeps, then silence"])
    np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1.0, atol=1e-5)
    assert np.abs(texts[0] - texts[1]).max() > 1e-4  # this vocabulary is case-sensitive
    np.testing.assert_array_equal(model.embed_text(["a low tone"])[0], texts[0])
    noise = np.random.default_rng(0).normal(0.0, 0.1, 16_000).astype(np.float32)
    assert model.embed_audio([(noise, 16_000)]).shape == (1, config.model.embed_dim)
    (caption,) = model.caption([(noise, 16_000)])
    assert isinstance(caption, str) and not any(token in caption for token in IDS)


def test_nothing_is_built_for_a_folder_or_ids_that_do_not_fit(config, folder, tmp_path):
    config.model.text_encoder.layers = 7
    with pytest.raises(ModernBertError, match=r"text_encoder\.layers=4 \(found 7\)"):
        main(config, tmp_path / "run")
    config.model.text_encoder.layers = 4
    config.init_text_from = str(folder / "nowhere")
    with pytest.raises(ModernBertError, match="nowhere is not a directory"):
        main(config, tmp_path / "run")
    config.model.update(pad_id=0, bos_id=1, eos_id=2)
    with pytest.raises(ConfigError, match=rf"pad_id is 0, but .* has {IDS['[PAD]']}; write config\.model\.pad_id="):
        main(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
