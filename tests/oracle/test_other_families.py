"""The adapters of open_clip, msclap, M2D-CLAP and GLAP, with stand-ins that have exactly their published signatures.

Their weights cannot be downloaded in a test. open_clip's own audio models run too where a version with audio is
installed.
"""

import argparse
import sys
import types

import numpy as np
import pytest

from slap_jax.other_models.dual_encoder import DualEncoder, OtherModelError
from slap_jax.other_models.load import load_model

torch = pytest.importorskip("torch")
nn = torch.nn
CPU = torch.device("cpu")


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=samples) * 0.1).astype(np.float32)


def unit(vector) -> np.ndarray:
    vector = np.asarray(vector.detach() if hasattr(vector, "detach") else vector, np.float64)
    return vector / np.linalg.norm(vector, axis=-1, keepdims=True)


class Words:
    """A tokenizer with the call signature of transformers': the ids are lengths of words."""

    def __call__(self, text, max_length=None, padding=False, truncation=False, return_tensors=None):
        rows = [[len(word) for word in one.split()] for one in ([text] if isinstance(text, str) else text)]
        if truncation:
            rows = [row[:max_length] for row in rows]
        if padding == "max_length":
            rows = [row + [0] * (max_length - len(row)) for row in rows]
        if return_tensors == "pt":
            ids = torch.tensor(rows)
            return {"input_ids": ids, "attention_mask": (ids > 0).long(), "token_type_ids": torch.zeros_like(ids)}
        return {"input_ids": rows[0] if isinstance(text, str) else rows}


class Statistics(nn.Module):
    """An encoder of waveforms [b, n] whose vectors depend on the order of the samples and on their number."""

    def __init__(self, embed_dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, embed_dim))

    def forward(self, x):
        ramp = torch.linspace(0, 1, x.shape[-1])
        return torch.stack([x.abs().mean(-1), (x.abs() * ramp).mean(-1), x.std(-1, correction=0)], -1) @ self.weight


# msclap: CLAP(model_fp, version, use_cuda) with clap, tokenizer, token_keys and args ----------------------------------


def msclap_package(version_seen: dict) -> types.ModuleType:
    class AudioEncoder(Statistics):
        def forward(self, x):
            assert x.ndim == 2
            return super().forward(x), torch.zeros(len(x), 527)  # the embedding, and probabilities of classes

    class CaptionEncoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(40, 8)

        def forward(self, x):
            assert set(x) == {"input_ids", "attention_mask"}
            assert x["input_ids"].shape[1] == 9
            return (self.table(x["input_ids"]) * x["attention_mask"][..., None]).sum(1)

    class CLAP:
        def __init__(self, model_fp=None, version="2023", use_cuda=False):
            version_seen.update(model_fp=model_fp, version=version, use_cuda=use_cuda)
            torch.manual_seed(0)
            self.clap = nn.Module()
            self.clap.audio_encoder, self.clap.caption_encoder = AudioEncoder(8), CaptionEncoder()
            self.clap.logit_scale = nn.Parameter(torch.tensor(3.0))
            self.tokenizer, self.token_keys = Words(), ["input_ids", "attention_mask"]
            self.args = argparse.Namespace(text_model="gpt2", text_len=9, sampling_rate=8_000, duration=2, d_proj=8)

    package = types.ModuleType("msclap")
    package.CLAP = CLAP
    return package


def test_msclap(monkeypatch):
    seen: dict = {}
    package = msclap_package(seen)
    monkeypatch.setitem(sys.modules, "msclap", package)
    model = load_model("msclap:2023@weights.pth", device="cpu")
    assert isinstance(model, DualEncoder)
    assert seen == {"model_fp": "weights.pth", "version": "2023", "use_cuda": False}
    assert (model.sample_rate, model.max_seconds, model.embed_dim) == (8_000, 2.0, 8)
    assert model.encoder.scale == pytest.approx(np.exp(3.0))
    reference = package.CLAP().clap
    clip = noise(5_000)  # repeated to 2 s, as CLAPWrapper.load_audio_into_tensor does
    filled = torch.from_numpy(np.concatenate([clip, clip, clip, clip[:1_000]]))[None]
    np.testing.assert_allclose(
        model.embed_audio([(clip, 8_000)])[0], unit(reference.audio_encoder(filled)[0][0]), atol=1e-6
    )
    tokens = Words()("a dog <|endoftext|>", max_length=9, padding="max_length", return_tensors="pt")
    expected = reference.caption_encoder({key: tokens[key] for key in ("input_ids", "attention_mask")})
    np.testing.assert_allclose(model.embed_text(["a dog"])[0], unit(expected[0]), atol=1e-6)
    assert model.encoder.count_tokens("a dog") == 3
    assert model.windows((noise(5 * 8_000), 8_000), seconds=2.0).embeddings.shape == (4, 8)


# GLAP: GLAPInference.from_pretrained(path), encode_audio(audio, audio_length), encode_text(text, device) --------------


def glap_package() -> tuple[types.ModuleType, types.ModuleType]:
    class GLAPInference(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.model_impl = nn.Module()
            self.model_impl.embed_size = 8
            self.model_impl.audio_encoder = nn.Module()
            self.model_impl.audio_encoder.model = types.SimpleNamespace(target_length=101)
            self.model_impl.audio_proj = Statistics(8)
            encoder = types.SimpleNamespace(create_encoder=lambda lang: lambda text: [1, *map(len, text.split()), 2])
            self.model_impl.text_encoder = nn.Module()
            self.model_impl.text_encoder.tokenizer = encoder

        @classmethod
        def from_pretrained(cls, pretrained_url):
            assert pretrained_url.endswith("glap.pt")
            return cls()

        def encode_audio(self, audio, audio_length=None):
            return nn.functional.normalize(self.model_impl.audio_proj(audio), dim=-1)

        def encode_text(self, text, device=CPU, *, source_lang="eng_Latn"):
            assert isinstance(text, list)
            rows = torch.tensor([[len(one), one.count("a"), 1.0] for one in text], device=device)
            return nn.functional.normalize(rows @ self.model_impl.audio_proj.weight, dim=-1)

    package, models = types.ModuleType("glap_model"), types.ModuleType("glap_model.models")
    models.GLAPInference = GLAPInference
    package.models, package.glap_inference = models, GLAPInference
    return package, models


def test_glap(monkeypatch, tmp_path):
    package, models = glap_package()
    monkeypatch.setitem(sys.modules, "glap_model", package)
    monkeypatch.setitem(sys.modules, "glap_model.models", models)
    (tmp_path / "glap.pt").touch()
    model = load_model(f"glap:{tmp_path}/glap.pt", device="cpu")
    assert (model.sample_rate, model.embed_dim, model.max_seconds) == (16_000, 8, 1.0)  # 100 hops of 10 ms
    reference = models.GLAPInference()
    clips = [noise(16_000), noise(3_000, 1)]  # of different lengths, which the encoder has no masks for
    expected = [unit(reference.encode_audio(torch.from_numpy(clip)[None])[0]) for clip in clips]
    np.testing.assert_allclose(model.embed_audio([(clip, 16_000) for clip in clips]), expected, atol=1e-6)
    texts = ["a dog barks", "rain"]
    np.testing.assert_allclose(model.embed_text(texts), unit(reference.encode_text(texts)), atol=1e-6)
    assert model.encoder.count_tokens("a dog") == 4
    assert load_model("glap:").model_id == model.model_id


# M2D-CLAP: PortableM2D(weight_file, flat_features=), encode_clap_audio(batch), encode_clap_text(batch, truncate) ------


def portable_m2d(has_projection: bool = True) -> types.ModuleType:
    class PortableM2D(nn.Module):
        def __init__(self, weight_file, num_classes=None, freeze_embed=False, flat_features=None):
            super().__init__()
            assert flat_features is True
            torch.manual_seed(0)
            self.cfg = types.SimpleNamespace(sample_rate=16_000, hop_size=160, window_size=400)
            self.cfg.input_size, self.cfg.patch_size = [80, 101], [16, 16]
            self.backbone = nn.Module()
            if has_projection:
                self.backbone.audio_proj = Statistics(8)

        def get_clap_text_encoder(self):
            self.text_encoder = nn.Module()
            self.text_encoder.tokenizer = Words()

        def encode_clap_audio(self, batch_audio):
            assert batch_audio.shape[1] >= self.cfg.window_size
            return self.backbone.audio_proj(batch_audio)

        def encode_clap_text(self, batch_text, truncate=False):
            assert truncate and isinstance(batch_text, list)
            rows = torch.tensor([[len(one), one.count("a"), 1.0] for one in batch_text])
            return (rows @ self.backbone.audio_proj.weight).detach().cpu().to(torch.float)

    module = types.ModuleType("portable_m2d")
    module.PortableM2D = PortableM2D
    return module


def test_m2d_clap(monkeypatch, tmp_path):
    module = portable_m2d()
    monkeypatch.setitem(sys.modules, "portable_m2d", module)
    folder = tmp_path / "m2d_clap_vit_base-80x101p16x16-test"
    folder.mkdir()
    (folder / "checkpoint.pth").touch()
    model = load_model(f"m2d_clap:{folder}/checkpoint.pth", device="cpu")
    assert (model.sample_rate, model.embed_dim, model.max_seconds) == (16_000, 8, 1.0)
    reference = module.PortableM2D("", flat_features=True)
    clips = [noise(16_000), noise(5_000, 1), noise(10, 2)]
    expected = [unit(reference.encode_clap_audio(torch.from_numpy(clip)[None])[0]) for clip in clips[:2]]
    found = model.embed_audio([(clip, 16_000) for clip in clips])
    np.testing.assert_allclose(found[:2], expected, atol=1e-6)
    assert np.isfinite(found[2]).all()  # shorter than a frame
    np.testing.assert_allclose(
        model.embed_text(["a dog", "rain"]), unit(reference.encode_clap_text(["a dog", "rain"], True)), atol=1e-6
    )
    monkeypatch.setitem(sys.modules, "portable_m2d", portable_m2d(has_projection=False))
    with pytest.raises(OtherModelError, match="it is an M2D checkpoint"):
        load_model(f"m2d_clap:{folder}/checkpoint.pth")


# open_clip: its audio models, or a stand-in where the installed version has none --------------------------------------


def open_clip_package() -> types.ModuleType:
    class Clap(nn.Module):
        context_length = 7

        def __init__(self):
            super().__init__()
            self.audio, self.tower = nn.Module(), Statistics(8)
            self.audio.cfg = types.SimpleNamespace(model_type="HTSAT", clip_samples=480_000, sample_rate=48_000)
            self.logit_scale = nn.Parameter(torch.tensor(2.0))

        def encode_audio(self, audio, normalize=False):
            assert audio["waveform"].shape == (1, 480_000) and audio["longer"].shape == (1,)
            return nn.functional.normalize(self.tower(audio["waveform"]), dim=-1)

        def encode_text(self, text, normalize=False):
            return nn.functional.normalize(text[:, :3].float() @ self.tower.weight, dim=-1)

    def transform(audio_data):
        waveform, rate = audio_data
        assert (waveform.ndim, rate) == (2, 48_000)
        return {"waveform": nn.functional.pad(waveform[0], (0, 480_000 - waveform.shape[1])), "longer": False}

    def create_model_and_transforms(model_name, pretrained=None):
        model = Clap()
        if pretrained is not None:
            model.load_state_dict(torch.load(pretrained))
        return model, transform, transform

    class Tokenizer:
        def encode(self, text):
            return [len(word) for word in text.split()]

        def __call__(self, texts):
            return torch.tensor([(self.encode(text) + 7 * [0])[:7] for text in texts])

    package = types.ModuleType("open_clip")
    configs = {"CLAP-HTSAT-tiny": {"embed_dim": 8, "audio_cfg": {}}, "ViT-B-32": {"embed_dim": 8, "vision_cfg": {}}}
    package.__version__ = "99"
    package.get_model_config, package.list_models = configs.get, lambda: list(configs)
    package.list_pretrained_tags_by_model = lambda model: []
    package.create_model_and_transforms, package.get_tokenizer = create_model_and_transforms, lambda name: Tokenizer()
    return package


def audio_names(open_clip) -> list[str]:
    return [name for name in open_clip.list_models() if "audio_cfg" in open_clip.get_model_config(name)]


@pytest.fixture
def open_clip(monkeypatch):
    try:
        import open_clip
    except ImportError:
        open_clip = None
    if open_clip is None or not audio_names(open_clip):
        open_clip = open_clip_package()
        monkeypatch.setitem(sys.modules, "open_clip", open_clip)
    return open_clip


def test_open_clip_gives_the_vectors_of_its_own_transform(open_clip, tmp_path):
    """With random weights in a file. HTSAT reads clips filled to 10 s, NaFlexClap clips of any length."""
    for name in {"CLAP-HTSAT-tiny", "naflexclap_test"} & set(audio_names(open_clip)):
        torch.manual_seed(0)
        reference, _, transform = open_clip.create_model_and_transforms(name)
        reference.eval()
        torch.save(reference.state_dict(), tmp_path / "weights.pt")
        model = load_model(f"open_clip:{name}@{tmp_path}/weights.pt", device="cpu")
        assert isinstance(model, DualEncoder)
        assert (model.sample_rate, model.max_seconds) == (48_000, 10.0)
        transform = transform(max_seq_len=None) if "naflex" in name else transform
        clips = [noise(480_000), noise(70_001, 1), noise(600, 2)]
        expected = []
        for clip in clips:
            inputs = transform((torch.from_numpy(clip)[None], 48_000))
            batch = {key: torch.as_tensor(value)[None] for key, value in inputs.items()}
            with torch.inference_mode():
                expected.append(reference.encode_audio(batch, normalize=True)[0].numpy())
        np.testing.assert_allclose(model.embed_audio([(clip, 48_000) for clip in clips]), expected, atol=1e-5)
        texts = ["a dog barks", "rain on a tin roof"]
        with torch.inference_mode():
            text = reference.encode_text(open_clip.get_tokenizer(name)(texts), normalize=True).numpy()
        np.testing.assert_allclose(model.embed_text(texts), text, atol=1e-5)
        assert model.encoder.count_tokens("a dog") == 4  # with start and end
        assert model.encoder.scale == pytest.approx(float(reference.logit_scale.exp().detach()))


def test_open_clip_refuses_other_models_and_missing_weights(open_clip):
    with pytest.raises(OtherModelError, match="has no audio model 'ViT-B-32'; choose of CLAP"):
        load_model("open_clip:ViT-B-32")
    with pytest.raises(OtherModelError, match=r"names no weights: write open_clip:CLAP-HTSAT-tiny@FILE"):
        load_model("open_clip:CLAP-HTSAT-tiny@nowhere.pt")


def test_a_version_of_open_clip_without_audio_models(monkeypatch):
    package = open_clip_package()
    package.list_models = lambda: ["ViT-B-32"]
    monkeypatch.setitem(sys.modules, "open_clip", package)
    with pytest.raises(OtherModelError, match="open_clip 99 has no audio models: pip install"):
        load_model("open_clip:CLAP-HTSAT-tiny")
