"""The towers, the pooling and the caption decoder, in PyTorch."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from slap_jax.export.pytorch.layers import GatedMLP, LayerNorm, RMSNorm, Transformer, rope_angles


class AudioEncoder(nn.Module):
    """Computes dense features of log-mel patches."""

    def __init__(self, tower: dict[str, Any], audio: dict[str, Any]):
        super().__init__()
        self.tower, self.freq_patches = tower, audio["mels"] // audio["mels_per_patch"]
        values = audio["frames_per_column"] * audio["mels_per_patch"]
        self.patch_embedding = nn.Linear(values, tower["width"], bias=False)
        self.transformer = Transformer(tower)

    def forward(self, patches: Tensor, valid: Tensor) -> Tensor:
        """Returns features [B, L, W]; token `column * F + f` is the patch of frequency band f."""
        pairs = self.tower["width"] // self.tower["heads"] // 4
        positions = torch.arange(patches.shape[1], device=patches.device)
        time = rope_angles(positions // self.freq_patches, pairs, self.tower["rope_base_time"])
        frequency = rope_angles(positions % self.freq_patches, pairs, self.tower["rope_base_frequency"])
        embedded = self.patch_embedding(patches.to(self.patch_embedding.weight.dtype))
        return self.transformer(embedded, torch.cat([time, frequency], dim=-1), valid)


class TextEncoder(nn.Module):
    """Computes features of text tokens: slap_jax's own tower, or ModernBERT, which also normalises its embeddings."""

    def __init__(self, tower: dict[str, Any], vocab_size: int):
        super().__init__()
        self.tower = tower
        self.embedding = nn.Embedding(vocab_size, tower["width"])
        self.embedding_norm = LayerNorm(tower["width"]) if tower.get("kind") == "modernbert" else nn.Identity()
        self.transformer = Transformer(tower)

    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """Returns features [B, T, W]."""
        tower = self.tower
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        bases = tower["rope_base"], tower.get("rope_base_local") or tower["rope_base"]
        angles, local_angles = (rope_angles(positions, tower["width"] // tower["heads"] // 2, base) for base in bases)
        return self.transformer(self.embedding_norm(self.embedding(tokens)), angles, valid, local_angles)


class AttentionPooling(nn.Module):
    """One learned query attends to all features of a clip; a gated MLP follows."""

    def __init__(self, tower: dict[str, Any]):
        super().__init__()
        width, self.heads = tower["width"], tower["heads"]
        self.probe = nn.Parameter(torch.zeros(width))
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.norm = RMSNorm(width)
        self.mlp = GatedMLP(width, tower["mlp_width"])

    def forward(self, features: Tensor, valid: Tensor) -> Tensor:
        """Returns one vector [B, W] per clip."""

        def split(x: Tensor) -> Tensor:
            return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

        query = split(self.query(self.probe).expand(features.shape[0], 1, -1))
        key, value = split(self.key(features)), split(self.value(features))
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=valid[:, None, None])
        pooled = self.out(mixed.transpose(1, 2).flatten(2)[:, 0])
        return pooled + self.mlp(self.norm(pooled))


class CaptionDecoder(nn.Module):
    """Generates a caption from the dense features of a clip; the output layer is tied to the token embedding."""

    def __init__(self, tower: dict[str, Any], vocab_size: int, memory_width: int):
        super().__init__()
        self.tower = tower
        self.embedding = nn.Embedding(vocab_size, tower["width"])
        self.memory_projection = nn.Linear(memory_width, tower["width"], bias=False)
        self.transformer = Transformer(tower, cross=True)

    def next_scores(self, features: Tensor, valid: Tensor, tokens: Tensor) -> Tensor:
        """Returns the logits [B, vocab_size] of the token after tokens [B, T], which begin with the start token.

        It keeps no state between calls, which suits exported programs; `greedy` is faster.
        """
        projected = self.memory_projection(features)
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        angles = rope_angles(positions, self.tower["width"] // self.tower["heads"] // 2, self.tower["rope_base"])
        x = self.embedding(tokens)
        for layer in self.transformer.layers:
            memory = layer.cross_attention.keys_values(projected)
            x, _ = layer.decode(x, angles, None, memory, valid[:, None, None], mask=positions[:, None] >= positions)
        return self.transformer.norm(x)[:, -1] @ self.embedding.weight.T

    @torch.no_grad()
    def greedy(self, features: Tensor, valid: Tensor, max_tokens: int, special: tuple[int, int, int]) -> Tensor:
        """Returns greedily decoded token ids [B, N], N <= max_tokens; `special`: padding, start and end ids."""
        pad, start, end = special
        projected = self.memory_projection(features)
        layers = list(self.transformer.layers)
        memories = [layer.cross_attention.keys_values(projected) for layer in layers]
        past: list[tuple[Tensor, Tensor] | None] = [None] * len(layers)
        newest = torch.full((len(features),), start, device=features.device)
        done = torch.zeros_like(newest, dtype=torch.bool)
        written = []
        pairs = self.tower["width"] // self.tower["heads"] // 2
        while len(written) < max_tokens and not bool(done.all()):
            angles = rope_angles(torch.tensor([len(written)], device=features.device), pairs, self.tower["rope_base"])
            x = self.embedding(newest)[:, None]
            for i, layer in enumerate(layers):
                x, past[i] = layer.decode(x, angles, past[i], memories[i], valid[:, None, None])
            logits = self.transformer.norm(x)[:, 0] @ self.embedding.weight.T
            newest = torch.where(done, pad, logits.argmax(-1))
            done = done | (newest == end)
            written.append(newest)
        return torch.stack(written, dim=1)
