"""The front end and the layers of all towers, in PyTorch."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


def mel_bank(sample_rate: int, n_fft: int, mels: int, f_min: float, f_max: float) -> np.ndarray:
    """Returns triangular filters [n_fft / 2 + 1, mels] of unit area, evenly spaced on Slaney's mel scale.

    The scale (Slaney's Auditory Toolbox) is linear up to 1 kHz = 15 mel, then logarithmic with 27 mel per factor 6.4.
    """

    def to_mel(hertz: float) -> float:
        return hertz * 3 / 200 if hertz < 1_000 else 15 + 27 * math.log(hertz / 1_000) / math.log(6.4)

    mel = np.linspace(to_mel(f_min), to_mel(f_max), mels + 2)
    edges = np.where(mel < 15, mel * 200 / 3, 1_000 * 6.4 ** ((mel - 15) / 27))
    low, peak, high = edges[:-2], edges[1:-1], edges[2:]
    hertz = np.arange(n_fft // 2 + 1)[:, None] * sample_rate / n_fft
    rising, falling = (hertz - low) / (peak - low), (high - hertz) / (high - peak)
    return (np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)).astype(np.float32)


class LogMel(nn.Module):
    """Computes normalised log-mel patches of samples; frames are centred, with silence before and after a clip."""

    def __init__(self, audio: dict[str, Any]):
        super().__init__()
        self.audio = audio
        n_fft, width = audio["n_fft"], audio["window_length"]
        angle = 2 * np.pi * np.outer(np.arange(n_fft // 2 + 1), np.arange(width)) / n_fft
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(width) / width)
        waves = np.concatenate([np.cos(angle), -np.sin(angle)]) * window
        self.register_buffer("waves", torch.from_numpy(waves.astype(np.float32))[:, None])
        bank = mel_bank(audio["sample_rate"], n_fft, audio["mels"], audio["f_min"], audio["f_max"])
        self.register_buffer("bank", torch.from_numpy(bank))

    def forward(self, waveform: Tensor) -> Tensor:
        """Returns float32 patches [B, L, frames x mels of a patch] of samples [B, whole columns]."""
        audio, device = self.audio, waveform.device.type
        if torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return self(waveform)
        n_fft, width, hop = audio["n_fft"], audio["window_length"], audio["hop_length"]
        before = n_fft // 2 - (n_fft - width) // 2
        samples = functional.pad(waveform.float()[:, None], (before, max(0, width - hop - before)))
        parts = functional.conv1d(samples, self.waves.float(), stride=hop).square()
        frames = waveform.shape[1] // hop
        real, imaginary = parts[:, :, :frames].chunk(2, dim=1)
        mel = (real + imaginary).transpose(1, 2) @ self.bank.float()
        mel = (mel.clamp_min(audio["log_floor"]).log() - audio["mean"]) / audio["std"]
        time, height = audio["frames_per_column"], audio["mels_per_patch"]
        patches = mel.unflatten(2, (-1, height)).unflatten(1, (-1, time)).transpose(2, 3)  # [B, C, F, frames, mels]
        return patches.flatten(3).flatten(1, 2)


class RMSNorm(nn.Module):
    """Root-mean-square norm with a learned scale, in float32."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Returns `weight * x / sqrt(mean(x^2) + 1e-6)`."""
        wide = x.float()
        inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)
        return (wide * inverse * self.weight.float()).to(x.dtype)


class LayerNorm(nn.Module):
    """Layer norm with a learned scale and no bias, in float32."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Returns `weight * (x - mean(x)) / sqrt(variance(x) + 1e-5)`."""
        return functional.layer_norm(x.float(), x.shape[-1:], self.weight.float(), None, 1e-5).to(x.dtype)


class GatedMLP(nn.Module):
    """`down(silu(gate(x)) * up(x))`, or with GELU."""

    def __init__(self, width: int, hidden: int, gelu: bool = False):
        super().__init__()
        self.activation = functional.gelu if gelu else functional.silu
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Returns [..., width] of [..., width]."""
        return self.down(self.activation(self.gate(x)) * self.up(x))


def rope_angles(positions: Tensor, pairs: int, base: float) -> Tensor:
    """Returns the rotary angles [..., pairs] at positions [...]: position * base^(-pair / pairs)."""
    frequencies = [base ** (-pair / pairs) for pair in range(pairs)]
    return positions[..., None].float() * torch.tensor(frequencies, dtype=torch.float32, device=positions.device)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotates dimensions i and i + d / 2 of heads [B, H, N, d] by angles [N, d / 2]."""
    cosine, sine = angles.cos(), angles.sin()
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1).to(x.dtype)


class Attention(nn.Module):
    """Multi-head attention to the tokens themselves or to a memory."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.heads = heads

    def split(self, x: Tensor) -> Tensor:
        """Reshapes [B, N, W] to heads [B, H, N, d]."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def keys_values(self, x: Tensor, angles: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns keys and values [B, H, N, d]."""
        key, value = self.split(self.key(x)), self.split(self.value(x))
        return (key if angles is None else rotate(key, angles)), value

    def forward(
        self, x: Tensor, keys_values: tuple[Tensor, Tensor], angles: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        """Attends to `keys_values` where `mask` (broadcast to [B, H, N, M]) is True."""
        query = self.split(self.query(x))
        query = query if angles is None else rotate(query, angles)
        mixed = functional.scaled_dot_product_attention(query, *keys_values, attn_mask=mask)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """One pre-norm layer: self-attention, cross-attention (in a decoder), gated MLP."""

    def __init__(self, tower: dict[str, Any], window: int | None, cross: bool, normed: bool):
        super().__init__()
        width, heads, modernbert = tower["width"], tower["heads"], tower.get("kind") == "modernbert"
        norm = LayerNorm if modernbert else RMSNorm
        self.window = window
        self.attention_norm = norm(width) if normed else nn.Identity()
        self.attention = Attention(width, heads)
        if cross:
            self.cross_norm = norm(width)
            self.cross_attention = Attention(width, heads)
        self.mlp_norm = norm(width)
        self.mlp = GatedMLP(width, tower["mlp_width"], gelu=modernbert)

    def forward(self, x: Tensor, angles: Tensor, mask: Tensor) -> Tensor:
        """Applies the layer in an encoder."""
        normed = self.attention_norm(x)
        x = x + self.attention(normed, self.attention.keys_values(normed, angles), angles, mask)
        return x + self.mlp(self.mlp_norm(x))

    def decode(
        self,
        x: Tensor,
        angles: Tensor,
        past: tuple[Tensor, Tensor] | None,
        memory: tuple[Tensor, Tensor],
        memory_mask: Tensor,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Applies the layer in a decoder to one token, or to several with a causal `mask`.

        Args:
            x: embedded tokens [B, T, W].
            angles: rotary angles of the tokens.
            past: keys and values of the previous tokens.
            memory: keys and values of the cross-attention.
            memory_mask: False for padding in the memory.
            mask: mask of the self-attention.

        Returns:
            Features [B, T, W], and keys and values of all tokens so far.
        """
        normed = self.attention_norm(x)
        present = self.attention.keys_values(normed, angles)
        if past is not None:
            present = (torch.cat([past[0], present[0]], dim=2), torch.cat([past[1], present[1]], dim=2))
        x = x + self.attention(normed, present, angles, mask)
        x = x + self.cross_attention(self.cross_norm(x), memory, None, memory_mask)
        return x + self.mlp(self.mlp_norm(x)), present


class Transformer(nn.Module):
    """A stack of layers and a norm. A global layer follows each group of local ones; ModernBERT starts with one."""

    def __init__(self, tower: dict[str, Any], cross: bool = False):
        super().__init__()
        period, modernbert = tower.get("locals_per_global", 0) + 1, tower.get("kind") == "modernbert"
        layers = []
        for number in range(tower["layers"]):
            is_global = (number if modernbert else number + 1) % period == 0
            window = None if is_global else tower["local_window"]
            # ModernBERT normalises its embeddings, so its first attention has no norm.
            layers.append(Block(tower, window, cross, normed=not (modernbert and number == 0)))
        self.layers = nn.ModuleList(layers)
        self.norm = LayerNorm(tower["width"]) if modernbert else RMSNorm(tower["width"])

    def forward(self, x: Tensor, angles: Tensor, valid: Tensor, local_angles: Tensor | None = None) -> Tensor:
        """Returns features [B, N, W].

        Args:
            x: embedded tokens.
            angles: rotary angles of the tokens, [N, d / 2].
            valid: [B, N], False for padding; only padding attends to padding.
            local_angles: rotary angles of the local layers; None for the same angles.
        """
        global_mask = valid[:, None, :, None] == valid[:, None, None, :]  # [B, 1, N, N]
        positions = torch.arange(x.shape[1], device=x.device)
        local_mask = global_mask & ((positions[:, None] - positions[None]).abs() <= self._window())
        for layer in self.layers:
            if layer.window is None:
                x = layer(x, angles, global_mask)
            else:
                x = layer(x, angles if local_angles is None else local_angles, local_mask)
        return self.norm(x)

    def _window(self) -> int:
        return max((layer.window for layer in self.layers if layer.window is not None), default=0)
