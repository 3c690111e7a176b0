"""The same model in PyTorch, as its users would write it, and the audio tower of ClapModel (transformers).

The PyTorch model takes padded int16 samples and tokens. It uses fused projections (queries, keys and values; both
halves of the gated MLP), `scaled_dot_product_attention` with boolean masks, the RMS norm of PyTorch, and fused AdamW.
Local layers compute all scores and mask those outside the band.
"""

import math
from collections.abc import Callable, Sequence

import librosa
import numpy as np
import torch
from mixed_clips import COLUMN_SAMPLES, SAMPLE_RATE, Batches, MixedClip
from ml_collections import ConfigDict
from torch import Tensor, nn
from torch.nn import functional

Calls = list[tuple[Callable[[], object], float]]
CLAP_SECONDS, CLAP_RATE, CLAP_BATCH = 10, 48_000, 8


class RMSNorm(nn.RMSNorm):
    """RMS norm of PyTorch with our epsilon."""

    def __init__(self, width: int):
        super().__init__(width, eps=1e-6)


class GatedMLP(nn.Module):
    """SwiGLU MLP."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the MLP to each token."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(functional.silu(gate) * up)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Applies a rotary embedding to the pairs (i, i + d / 2) of the last axis."""
    cosine, sine = rotation
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


class Block(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = RMSNorm(width), RMSNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.mlp = GatedMLP(width, hidden)

    def forward(self, x: Tensor, mask: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """Returns the residual stream after this layer."""
        batch, length, width = x.shape
        projected = self.query_key_value(self.attention_norm(x)).view(batch, length, 3, self.heads, -1)
        query, key, value = projected.permute(2, 0, 3, 1, 4).unbind(0)
        query, key = rotate(query, rotation), rotate(key, rotation)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.mlp_norm(x))


class Pooling(nn.Module):
    """Attention pooling with one probe."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.heads = heads
        self.probe = nn.Parameter(torch.randn(width) * width**-0.5)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.norm = RMSNorm(width)
        self.mlp = GatedMLP(width, hidden)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Returns a vector for each clip."""
        batch, length, width = tokens.shape
        query = self.query(self.probe).view(1, self.heads, 1, -1).expand(batch, -1, -1, -1)
        key, value = self.key_value(tokens).view(batch, length, 2, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        pooled = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask).reshape(batch, width)
        pooled = self.out(pooled)
        return pooled + self.mlp(self.norm(pooled))


class Tower(nn.Module):
    """Layers, norm, pooling and projection to unit vectors."""

    def __init__(self, tower: ConfigDict, embed_dim: int):
        super().__init__()
        sizes = (tower.width, tower.heads, tower.mlp_width)
        self.blocks = nn.ModuleList(Block(*sizes) for _ in range(tower.layers))
        self.norm, self.pooling = RMSNorm(tower.width), Pooling(*sizes)
        self.projection = nn.Linear(tower.width, embed_dim, bias=False)
        self.period, self.window = tower.get("locals_per_global", 0) + 1, tower.local_window

    def forward(self, x: Tensor, lengths: Tensor, angles: Tensor) -> Tensor:
        """Returns a unit vector for each clip; `angles` are the rotary angles of the positions."""
        rotation = angles.cos(), angles.sin()
        position = torch.arange(x.shape[1])
        mask = (position[None] < lengths[:, None])[:, None, None]
        if self.period > 1:
            distance = (position[:, None] - position[None]).abs()
            # A padding query attends to itself, so that no softmax has all keys masked.
            local_mask = (mask & (distance <= self.window)) | (distance == 0)
        for number, block in enumerate(self.blocks, start=1):
            x = block(x, mask if number % self.period == 0 else local_mask, rotation)
        return functional.normalize(self.projection(self.pooling(self.norm(x), mask)), dim=-1)


class DualEncoder(nn.Module):
    """Both towers, with the sizes of one of our configs."""

    def __init__(self, config: ConfigDict):
        super().__init__()
        self.audio_config, model = config.audio, config.model
        audio, text = model.audio_encoder, model.text_encoder
        self.patches = self.audio_config.mels // self.audio_config.mels_per_patch
        self.patch_values = self.audio_config.frames_per_column * self.audio_config.mels_per_patch
        self.head_dims = audio.width // audio.heads, text.width // text.heads
        self.bases = audio.rope_base_time, audio.rope_base_frequency, text.rope_base
        self.patch_embedding = nn.Linear(self.patch_values, audio.width, bias=False)
        self.audio_tower, self.text_tower = Tower(audio, model.embed_dim), Tower(text, model.embed_dim)
        self.embedding = nn.Embedding(model.vocab_size, text.width)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        bank = librosa.filters.mel(
            sr=self.audio_config.sample_rate, n_fft=self.audio_config.n_fft, n_mels=self.audio_config.mels
        )
        self.register_buffer("bank", torch.from_numpy(bank).T.contiguous())
        self.register_buffer("window", torch.hann_window(self.audio_config.window_length))

    @torch.no_grad()
    def log_mel_patches(self, waveform: Tensor) -> Tensor:
        """Computes log-mel patches [B, L, P] from int16 samples [B, S]."""
        audio = self.audio_config
        sizes = (audio.n_fft, audio.hop_length, audio.window_length)
        spectrum = torch.stft(waveform * 2.0**-15, *sizes, self.window, pad_mode="constant", return_complex=True)
        power = (spectrum.real.square() + spectrum.imag.square()).transpose(1, 2)
        mel = torch.log(torch.clamp(power[:, : waveform.shape[1] // audio.hop_length] @ self.bank, min=audio.log_floor))
        mel = ((mel - audio.mean) / audio.std).unflatten(1, (-1, audio.frames_per_column))
        return mel.unflatten(3, (self.patches, -1)).transpose(2, 3).reshape(len(mel), -1, self.patch_values)

    def audio(self, waveform: Tensor, columns: Tensor) -> Tensor:
        """Returns unit vectors of padded clips."""
        x = self.patch_embedding(self.log_mel_patches(waveform))
        pairs = torch.arange(self.head_dims[0] // 4) / (self.head_dims[0] // 4)
        position = torch.arange(x.shape[1])[:, None]
        time = (position // self.patches) * self.bases[0] ** -pairs
        frequency = (position % self.patches) * self.bases[1] ** -pairs
        return self.audio_tower(x, columns * self.patches, torch.cat([time, frequency], dim=-1))

    def text(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Returns unit vectors of padded captions."""
        pairs = torch.arange(self.head_dims[1] // 2) / (self.head_dims[1] // 2)
        angles = torch.arange(tokens.shape[1])[:, None] * self.bases[2] ** -pairs
        return self.text_tower(self.embedding(tokens), lengths, angles)


def padded(clips: Sequence[MixedClip]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns samples, numbers of columns, tokens and numbers of tokens, padded to the longest clip and caption."""
    columns, words = [clip.columns for clip in clips], [len(clip.tokens) for clip in clips]
    waveform = np.zeros((len(clips), max(columns) * COLUMN_SAMPLES), np.int16)
    tokens = np.zeros((len(clips), max(words)), np.int64)
    for row, clip in enumerate(clips):
        waveform[row, : len(clip.waveform)], tokens[row, : len(clip.tokens)] = clip.waveform, clip.tokens
    return torch.from_numpy(waveform), torch.tensor(columns), torch.from_numpy(tokens), torch.tensor(words)


def torch_calls(task: str, config: ConfigDict, batches: Batches, threads: int) -> Calls:
    """Returns for each batch a call that trains on it or embeds its audio, and its seconds of audio."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model, settings = DualEncoder(config), config.optimizer
    optimizer = torch.optim.AdamW(
        model.parameters(), settings.learning_rate, (settings.b1, settings.b2), settings.eps, settings.weight_decay,
        fused=True,
    )  # fmt: skip

    def train(waveform: Tensor, columns: Tensor, tokens: Tensor, words: Tensor) -> float:
        logits = model.log_scale.exp().clamp(max=100.0) * (model.audio(waveform, columns) @ model.text(tokens, words).T)
        own = torch.arange(len(logits))
        loss = (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm, foreach=True)
        optimizer.step()
        return loss.item()

    @torch.inference_mode()
    def embed(waveform: Tensor, columns: Tensor, tokens: Tensor, words: Tensor) -> Tensor:
        return model.audio(waveform, columns)

    call = train if task == "train" else embed
    arrays = [padded(clips) for clips in batches]
    return [
        (lambda batch=batch: call(*batch), sum(clip.seconds for clip in clips))
        for batch, clips in zip(arrays, batches, strict=True)
    ]


def clap_calls(batches: Batches, threads: int) -> Calls:
    """Returns calls of ClapModel's audio tower (default sizes, random weights) on precomputed log-mels of 10 s.

    Longer clips are cut, so at most 10 s of each clip count.
    """
    from transformers import ClapAudioConfig, ClapAudioModelWithProjection

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = ClapAudioModelWithProjection(ClapAudioConfig()).eval()
    frames = CLAP_SECONDS * CLAP_RATE // 480 + 1

    @torch.inference_mode()
    def embed(features: Tensor) -> Tensor:
        return model(input_features=features).audio_embeds

    calls: Calls = []
    for clips in batches:
        features = torch.randn(len(clips), 1, frames, 64)
        used = sum(min(len(clip.waveform) / SAMPLE_RATE, CLAP_SECONDS) for clip in clips)
        calls.append((lambda features=features: embed(features), used))
    return calls


def clap_of_files(threads: int) -> tuple[Callable[[Sequence[str]], np.ndarray], int]:
    """Returns a function that embeds audio files with the same audio tower, and its number of parameters.

    Files are resampled to 48 kHz. The feature extractor of transformers computes the log-mels.
    """
    import soundfile
    import soxr
    from transformers import ClapAudioConfig, ClapAudioModelWithProjection, ClapFeatureExtractor

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = ClapAudioModelWithProjection(ClapAudioConfig()).eval()
    extract = ClapFeatureExtractor(frequency_min=50, frequency_max=14_000, truncation="rand_trunc")

    def read(path: str) -> np.ndarray:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        return soxr.resample(samples.mean(axis=1), rate, CLAP_RATE, quality="HQ")

    @torch.inference_mode()
    def embed(paths: Sequence[str]) -> np.ndarray:
        vectors = []
        for start in range(0, len(paths), CLAP_BATCH):
            clips = [read(path) for path in paths[start : start + CLAP_BATCH]]
            features = extract(clips, sampling_rate=CLAP_RATE, return_tensors="pt")
            vectors.append(model(input_features=features["input_features"]).audio_embeds.numpy())
        return np.concatenate(vectors)

    return embed, sum(part.numel() for part in model.parameters())
