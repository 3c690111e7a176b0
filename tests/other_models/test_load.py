"""Names of models, and what is said if a package or a model is missing. None of this needs PyTorch."""

import json
import subprocess
import sys

import pytest

from slap_jax.checkpoints.model_dir import ExportError
from slap_jax.other_models import load
from slap_jax.other_models.clap import is_clap_folder
from slap_jax.other_models.dual_encoder import DualEncoder, OtherModelError
from slap_jax.other_models.load import load_model
from tests.other_models.fake_encoder import FakeEncoder


@pytest.fixture
def clap_folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clap", "projection_dim": 8}))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "package", "advice"),
    [
        ("clap:laion/clap-htsat-unfused", "torch", "pip install 'slap-jax[clap]'"),
        ("open_clip:CLAP-HTSAT-tiny", "open_clip", "github.com/mlfoundations/open_clip"),
        ("msclap:2023", "msclap", "pip install --no-deps msclap"),
        ("glap:", "glap_model", "pip install glap_model"),
    ],
)
def test_a_missing_package_is_named_with_what_to_install(name, package, advice, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # makes its import fail
    with pytest.raises(OtherModelError, match=f"needs {package}, which ") as caught:
        load_model(name)
    assert advice in str(caught.value)
    assert "\n" not in str(caught.value)


def test_m2d_clap_needs_a_file_in_its_published_folder_and_the_portable_runtime(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "portable_m2d", None)
    with pytest.raises(OtherModelError, match="is not a file"):
        load_model(f"m2d_clap:{tmp_path}/checkpoint.pth")
    folder = tmp_path / "renamed"
    folder.mkdir()
    (folder / "checkpoint.pth").touch()
    with pytest.raises(OtherModelError, match="give it its published name"):
        load_model(f"m2d_clap:{folder}/checkpoint.pth")
    folder = folder.rename(tmp_path / "m2d_clap_vit_base-80x608p16x16-240128")
    with pytest.raises(OtherModelError, match=r"examples/portable_m2d\.py"):
        load_model(f"m2d_clap:{folder}/checkpoint.pth")


def test_a_clap_folder_is_recognised_by_its_config(clap_folder, monkeypatch):
    assert is_clap_folder(clap_folder)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(OtherModelError, match="a ClapModel needs torch"):
        load_model(clap_folder)
    (clap_folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert not is_clap_folder(clap_folder)
    for content in ("{", "[]", ""):
        (clap_folder / "config.json").write_text(content)
        assert not is_clap_folder(clap_folder)
    with pytest.raises(ExportError):
        load_model(clap_folder)


def test_a_folder_whose_name_looks_like_a_family_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "msclap:2023").mkdir()
    with pytest.raises(ExportError, match="msclap:2023"):
        load_model("msclap:2023")


def test_settings_reach_the_encoder_and_those_of_exports_are_refused(monkeypatch, capsys):
    seen = {}

    def encoder(source, **settings):
        print("using 155 parameters")  # as some packages do
        seen.update(settings, source=source)
        return FakeEncoder()

    monkeypatch.setitem(load.FAMILIES, "msclap", encoder)
    model = load_model("msclap:2023@w.pth", device="cpu", compute_dtype=None)
    assert isinstance(model, DualEncoder)
    assert seen == {"source": "2023@w.pth", "device": "cpu"}
    assert capsys.readouterr() == ("", "using 155 parameters\n")  # results on standard output stay valid JSON
    with pytest.raises(OtherModelError, match="compute_dtype='bfloat16' is for exports"):
        load_model("msclap:2023", compute_dtype="bfloat16")


def test_unknown_versions_are_refused(monkeypatch):
    with pytest.raises(OtherModelError, match="msclap has no version '2021'"):
        load_model("msclap:2021")
    with pytest.raises(OtherModelError, match="is not a file"):
        load_model("glap:nowhere.pt")


@pytest.mark.process
def test_reading_an_export_imports_no_package_of_other_families():
    names = ("torch", "transformers", "open_clip", "msclap", "glap_model")
    program = f"import sys, slap_jax.other_models.load; print([name for name in {names} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
