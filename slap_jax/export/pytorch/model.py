"""The whole model in PyTorch, and loading its weights from an export."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from slap_jax.export.pytorch.layers import LogMel
from slap_jax.export.pytorch.towers import AttentionPooling, AudioEncoder, CaptionDecoder, TextEncoder

FORMAT_VERSIONS = (1, 2)
# Prefixes of the parameters to load; heads of other objectives are ignored.
PREFIXES = ("model/", "objectives/captioning/", "objectives/contrastive/")
UNUSED = ("model/audio_encoder/mask_token", "objectives/contrastive/bias")  # needed in training only


class Slap(nn.Module):
    """Audio and text towers with pooling and projection into one space, and an optional caption decoder.

    Attributes:
        config: the `config` of the export: `audio`, `model`, `data`, `objectives`.
        tokenizer_path: the tokenizer file; set by `load`.
    """

    def __init__(self, config: dict[str, Any], captions: bool = True):
        super().__init__()
        model, audio = config["model"], config["audio"]
        kind = model["text_encoder"].get("kind", "scratch")
        if kind not in ("scratch", "modernbert"):
            raise ValueError(f"config.model.text_encoder.kind is {kind!r}; expected 'scratch' or 'modernbert'")
        self.config = config
        # The ids of padding, start and end; older exports do not store them and use those of `slap tokenizer`.
        self.pad, self.bos, self.eos = (model.get(f"{name}_id", id) for id, name in enumerate(("pad", "bos", "eos")))
        self.per_column = audio["hop_length"] * audio["frames_per_column"]
        self.tokenizer_path: Path | None = None
        audio_tower, text_tower = model["audio_encoder"], model["text_encoder"]
        self.log_mel = LogMel(audio)
        self.audio_encoder = AudioEncoder(audio_tower, audio)
        self.audio_pooling = AttentionPooling(audio_tower)
        self.audio_projection = nn.Linear(audio_tower["width"], model["embed_dim"], bias=False)
        self.text_encoder = TextEncoder(text_tower, model["vocab_size"])
        self.text_pooling = AttentionPooling(text_tower)
        self.text_projection = nn.Linear(text_tower["width"], model["embed_dim"], bias=False)
        self.decoder = None
        if captions:
            self.decoder = CaptionDecoder(model["caption_decoder"], model["vocab_size"], audio_tower["width"])
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def audio_features(self, waveform: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns dense features [B, L, W] before pooling, and which of them [B, L] belong to the clip.

        Args:
            waveform: [B, S] mono samples at `config["audio"]["sample_rate"]`, full scale 1; non-finite
                samples count as zero.
            lengths: [B] samples of each clip, at least 1; later samples are ignored. None: S for all clips.

        Raises:
            ValueError: the waveform has another shape, or is not floating-point.
        """
        if waveform.ndim != 2 or waveform.shape[1] == 0 or not waveform.is_floating_point():
            raise ValueError(
                f"waveform is {waveform.dtype} of shape {list(waveform.shape)}; expected float [clips, samples], at "
                f"least one sample, mono at {self.config['audio']['sample_rate']} Hz, full scale 1"
            )
        if lengths is None:
            lengths = torch.full_like(waveform[:, 0], waveform.shape[1], dtype=torch.int64)
        waveform = functional.pad(waveform, (0, -waveform.shape[1] % self.per_column))
        inside = torch.arange(waveform.shape[1], device=waveform.device) < lengths[:, None]
        waveform = torch.where(inside & waveform.isfinite(), waveform, 0.0)
        patches = self.log_mel(waveform)
        positions = torch.arange(patches.shape[1], device=waveform.device) // self.audio_encoder.freq_patches
        valid = positions * self.per_column < lengths[:, None]
        return self.audio_encoder(patches, valid), valid

    def embed_audio(self, waveform: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Returns unit vectors [B, E]; arguments as in `audio_features`."""
        return self.pool_audio(*self.audio_features(waveform, lengths))

    def pool_audio(self, features: Tensor, valid: Tensor) -> Tensor:
        """Returns unit vectors [B, E] of the two results of `audio_features`."""
        pooled = self.audio_pooling(features, valid)
        return functional.normalize(self.audio_projection(pooled).float(), dim=-1, eps=1e-6)

    def embed_text(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Returns unit vectors [B, E] of token ids [B, T], `BOS ... EOS` and padding; lengths [B] in tokens."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
        valid = torch.ones_like(tokens, dtype=torch.bool) if lengths is None else positions < lengths[:, None]
        pooled = self.text_pooling(self.text_encoder(tokens, valid), valid)
        return functional.normalize(self.text_projection(pooled).float(), dim=-1, eps=1e-6)

    def forward(
        self,
        waveform: Tensor,
        lengths: Tensor | None,
        tokens: Tensor,
        token_lengths: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Returns the embeddings of clips and of texts."""
        return self.embed_audio(waveform, lengths), self.embed_text(tokens, token_lengths)

    def scale(self) -> Tensor:
        """Returns the factor on cosine similarities; a softmax over labels then gives probabilities."""
        return self.log_scale.exp().clamp_max(self.config["objectives"]["contrastive"]["max_scale"])

    def caption(self, waveform: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Returns the token ids [B, N] of a caption for each clip, padded after EOS; see `decode_text`."""
        if self.decoder is None:
            raise ValueError("this model was exported without a caption decoder: it was trained without captioning")
        special, max_tokens = (self.pad, self.bos, self.eos), self.config["data"]["max_caption_tokens"]
        return self.decoder.greedy(*self.audio_features(waveform, lengths), max_tokens, special)

    def tokenize(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Returns token ids [B, T] and lengths [B] for `embed_text`."""
        if isinstance(texts, str):
            raise ValueError("expected a list of texts, found one string: write [text]")
        max_tokens, encode = self.config["data"]["max_caption_tokens"], self._tokenizer()[0]
        ids = [[self.bos, *encode(text)[: max_tokens - 2], self.eos] for text in texts]
        lengths = [len(line) for line in ids]
        rows = [line + [self.pad] * (max(lengths) - len(line)) for line in ids]
        device = self.log_scale.device
        return torch.tensor(rows, device=device), torch.tensor(lengths, device=device)

    def decode_text(self, ids: Tensor) -> list[str]:
        """Returns the texts of token ids [B, N]."""
        _, decode, size = self._tokenizer()
        special = (self.pad, self.bos, self.eos)
        return [decode([i for i in row if i not in special and i < size]) for row in ids.tolist()]

    def _tokenizer(self) -> tuple[Callable[[str], list[int]], Callable[[list[int]], str], int]:
        """Returns two functions, text to ids and ids to text, and the number of ids."""
        if self.tokenizer_path is None:
            raise ValueError("set tokenizer_path to the export's tokenizer.model or tokenizer.json")
        path = os.fspath(self.tokenizer_path)
        if path.endswith(".json"):
            try:
                from tokenizers import Tokenizer
            except ImportError as error:
                raise ImportError(f"reading {path} needs the package tokenizers: pip install tokenizers") from error
            tokenizer = Tokenizer.from_file(path)
            tokenizer.no_truncation()
            tokenizer.no_padding()
            tokenizer.encode_special_tokens = True  # a literal "[SEP]" in a text does not end it
            size = max(tokenizer.get_vocab().values()) + 1
            return (
                lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
                lambda ids: tokenizer.decode(ids).strip(),
                size,
            )
        try:
            from sentencepiece import SentencePieceProcessor
        except ImportError as error:
            raise ImportError(f"reading {path} needs the package sentencepiece: pip install sentencepiece") from error
        pieces = SentencePieceProcessor(model_file=path)
        return pieces.encode, pieces.decode, pieces.vocab_size()


def torch_state_dict(tensors: dict[str, Tensor], towers: dict[str, dict[str, Any]]) -> dict[str, Tensor]:
    """Converts the tensors of `model.safetensors` to a `state_dict` of `Slap`.

    An export stacks the layers as [repetitions, ...]: a repetition is a group of local layers and the next global
    layer, and ModernBERT's first layer is separate. Matrices are stored as [inputs, outputs].

    Args:
        tensors: as stored.
        towers: `config["model"]`.
    """
    state = {}
    for name, value in tensors.items():
        prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), None)
        if prefix is None or name in UNUSED:
            continue
        *path, kind = name.removeprefix(prefix).split("/")
        if kind == "kernel":
            value = value.transpose(-1, -2)
        kind = {"kernel": "weight", "scale": "weight", "table": "weight"}.get(kind, kind)
        at = next((path.index(part) for part in ("blocks", "first") if part in path), None)
        if at is None:
            state[".".join([*path, kind])] = value
            continue
        tower = towers["caption_decoder" if path[0] == "decoder" else path[0]]
        if path[at] == "first":  # TOWER, transformer, first, ...
            state[".".join([*path[:at], "layers.0", *path[at + 1 :], kind])] = value
            continue
        # TOWER, transformer, blocks, layers, local_0 or global, ...
        period, start = tower.get("locals_per_global", 0) + 1, int(tower.get("kind") == "modernbert")
        within = period - 1 if path[at + 2] == "global" else int(path[at + 2].removeprefix("local_"))
        for repetition, part in enumerate(value):
            number = str(start + repetition * period + within)
            state[".".join([*path[:at], "layers", number, *path[at + 3 :], kind])] = part
    return state


def load(directory: str | os.PathLike[str]) -> Slap:
    """Loads a directory that `slap export` wrote: in evaluation mode, on the CPU, in float32.

    Raises:
        ValueError: the format is another one, or the weights do not match the config.
    """
    directory = Path(directory)
    description = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    if description.get("format") != "slap_jax" or description.get("format_version") not in FORMAT_VERSIONS:
        raise ValueError(
            f"{directory}/config.json has format {description.get('format')!r} version "
            f"{description.get('format_version')!r}; this file reads 'slap_jax' versions {FORMAT_VERSIONS}: write both "
            "again with `slap export RUN_DIR --format pytorch`"
        )
    config = description["config"]
    state = torch_state_dict(load_file(directory / "model.safetensors"), config["model"])
    model = Slap(config, captions=any(name.startswith("decoder.") for name in state))
    missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.startswith("log_mel.") and name != "log_scale"]
    if missing or unexpected:
        raise ValueError(f"{directory}/model.safetensors: missing {missing[:3]}, unexpected {unexpected[:3]}")
    model.tokenizer_path = directory / description.get("tokenizer", "tokenizer.model")
    return model.eval()
