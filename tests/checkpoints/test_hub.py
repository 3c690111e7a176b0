"""Exports on the hub: what is downloaded, what comes first, and one clear error for each failure."""

import json
import re
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

import slap_jax
from slap_jax.checkpoints.hub import HubError, find_export
from slap_jax.checkpoints.model_dir import ExportError, export, load_export
from slap_jax.checkpoints.read_model import read_model
from slap_jax.cli import main
from slap_jax.evaluation.scorer import ModelScorer
from slap_jax.export.formats import _model_name, export_model
from slap_jax.finetune.config import base_config
from slap_jax.inference.classifier import FinetuneError, read_classifier
from slap_jax.training.init_from import read_params
from tests.checkpoints.fake_hub import COMMIT, FakeHub, serve
from tests.inference.tiny import shared_params, tiny_config, tiny_tokenizer

pytestmark = pytest.mark.compile


@pytest.fixture(scope="module")
def repositories(tmp_path_factory):
    root = tmp_path_factory.mktemp("repositories")
    words = tiny_tokenizer(root / "words.model").path
    directory = export(shared_params(), tiny_config(), words, root / "tiny")
    (directory / "README.md").write_text("# Tiny\n")
    (directory / "extra.bin").write_bytes(b"0" * 1_000)
    other = shutil.copytree(directory, root / "clap")
    (other / "config.json").write_text(json.dumps({"model_type": "clap"}))
    (root / "empty").mkdir()
    (root / "empty" / "README.md").write_text("# Nothing\n")
    return {"owner/tiny": directory, "laion/clap": other, "owner/empty": root / "empty"}


@pytest.fixture
def hub(repositories, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with serve(FakeHub(repositories)) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        yield hub


def test_only_the_files_of_a_model_are_downloaded_and_once(hub, repositories):
    directory = find_export("owner/tiny")
    assert sorted(hub.downloads()) == ["README.md", "config.json", "model.safetensors", "tokenizer.model"]
    for name in hub.downloads():
        assert (directory / name).read_bytes() == (repositories["owner/tiny"] / name).read_bytes()
    assert load_export(directory).config == load_export(repositories["owner/tiny"]).config
    assert find_export("owner/tiny") == find_export("owner/tiny", revision=COMMIT) == directory
    assert len(hub.downloads()) == 4
    for url in (f"{hub.url}/owner/tiny", f"{hub.url}/owner/tiny/", f"{hub.url}/owner/tiny/tree/main"):
        assert find_export(url) == directory


def test_the_cache_answers_without_a_network(hub, monkeypatch):
    directory = find_export("owner/tiny")
    seen = len(hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find_export("owner/tiny") == directory and len(hub.requests) == seen
    with pytest.raises(HubError, match=r"^owner/other is not a local directory, and not in the cache .*OFFLINE is set"):
        find_export("owner/other")
    assert len(hub.requests) == seen


def test_local_directories_come_first(hub, repositories):
    shutil.copytree(repositories["owner/tiny"], "owner/tiny")
    assert find_export("owner/tiny") == Path("owner/tiny")
    for local in ("owner/missing", "missing", "a/b/c", "./owner/tiny2", "/owner/tiny", "~/tiny", Path("some/name")):
        assert find_export(local) == Path(local)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        (
            "owner/other",
            None,
            r"is neither a local directory nor a public model on the hub; .*HF_TOKEN",
        ),
        ("owner/tiny", "v9", r"at revision v9 has no such revision on the hub; give a branch, tag or commit"),
        ("owner/gated", None, r"is gated: ask for access on its page, .*HF_TOKEN"),
        ("laion/clap", None, r"is not an export of slap_jax \(model_type 'clap'\); write clap:laion/clap"),
        ("owner/empty", None, r"has no config\.json, so it is not a model that `slap export` wrote"),
        (
            "https://example.org/owner/tiny",
            None,
            r"is not the URL of a model on the hub, such as https://huggingface\.co",
        ),
        ("gs://bucket/tiny", None, r"is not the URL of a model on the hub"),
        ("owner/tiny--x..", None, "is neither a local directory nor an id on the hub"),
    ],
)
def test_each_failure_is_one_sentence(hub, repositories, name, revision, message):
    hub.repositories = {**repositories, "owner/gated": repositories["owner/tiny"]}
    hub.gated.add("owner/gated")
    with pytest.raises(HubError, match=f"^{re.escape(name)} .*{message}") as raised:
        find_export(name, revision)
    assert "\n" not in str(raised.value)
    assert "model.safetensors" not in hub.downloads()


def test_a_hub_that_cannot_be_reached(hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match=r"^owner/tiny is not a local directory, .*//127\.0\.0\.1:9 cannot be reached"):
        find_export("owner/tiny")


def test_a_model_is_loaded_by_its_id(hub, repositories):
    model = slap_jax.load("owner/tiny", device="cpu", revision="main")
    assert "source='owner/tiny'" in repr(model) and model.model_id == slap_jax.load(repositories["owner/tiny"]).model_id
    assert slap_jax.SlapModel.from_pretrained("owner/tiny", revision=COMMIT).model_id == model.model_id
    with pytest.raises(HubError, match="at revision v9 has no such revision"):
        slap_jax.load("owner/tiny", revision="v9")


def test_every_reader_of_models_takes_an_id(hub, tmp_path, capsys, monkeypatch):
    assert ModelScorer("owner/tiny").config.model.embed_dim == 16
    assert read_model("owner/tiny").params["model"].keys() == shared_params()["model"].keys()
    config = base_config("owner/tiny")
    assert read_params(config.init_from)["model"].keys() == shared_params()["model"].keys()
    assert _model_name(config.init_from) == "owner/tiny"
    written = export_model("owner/tiny", out_dir=tmp_path / "copy")
    assert load_export(written).config.model.embed_dim == 16 and "# Tiny" in (written / "README.md").read_text()
    with pytest.raises(ExportError, match="owner/tiny is on the Hugging Face hub; add --output DIR"):
        export_model("owner/tiny", "pytorch")
    with pytest.raises(FinetuneError, match="owner/tiny has no classification head"):
        read_classifier("owner/tiny")
    with pytest.raises(HubError, match="owner/none is neither a local directory nor a public model"):
        ModelScorer("owner/none")
    monkeypatch.setenv("SLAP_MODEL", f"{hub.url}/owner/tiny")
    for verb in ("evaluate", "score"):
        assert main([verb]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("slap ")]
    assert "there is nothing to evaluate on" in errors[0] and "owner/tiny has no classification head" in errors[1]
