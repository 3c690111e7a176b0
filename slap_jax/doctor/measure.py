"""What a model makes of the probes: the numbers that the findings are drawn from."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict, FrozenConfigDict

from slap_jax.config import samples_per_column
from slap_jax.data.packing import clip_columns
from slap_jax.data.tokenizer import load_tokenizer
from slap_jax.doctor.probes import SILENCE, TEXTS, probe_sounds
from slap_jax.export.safetensors import Export, check_shapes
from slap_jax.inference.embedder import Embedder
from slap_jax.models.frontend import log_mel
from slap_jax.paths import flatten


@dataclasses.dataclass(frozen=True)
class Measures:
    """Everything about a model that is looked at.

    Attributes:
        sounds: embedding of each probe sound.
        texts: embedding of each probe text.
        log_mel: mean and standard deviation of each probe's log-mel, before normalisation.
        normalised: mean and standard deviation of the normalised log-mel of all probes but silence: what the audio
            tower sees.
        unknown: share of the probe texts' tokens that the vocabulary cannot spell.
        same_tokens: pairs of different probe texts that become the same tokens.
        bad_weights: names of the weights that are not finite.
        zero_weights: names of the matrices that are zero everywhere.
        scale: that cosine similarity is multiplied with, as learned, before `max_scale`.
        max_scale: of the config.
    """

    sounds: Mapping[str, Float[np.ndarray, " E"]]
    texts: Mapping[str, Float[np.ndarray, " E"]]
    log_mel: Mapping[str, tuple[float, float]]
    normalised: tuple[float, float]
    unknown: float
    same_tokens: int
    bad_weights: tuple[str, ...]
    zero_weights: tuple[str, ...]
    scale: float
    max_scale: float


def measure(export: Export) -> Measures:
    """Embeds the probes, and looks at the weights.

    Raises:
        ExportError: the parameters are not those that the config describes.
    """
    tokenizer = load_tokenizer(export.tokenizer_path)
    sounds = probe_sounds(export.config.audio.sample_rate)
    tokens = [tuple(tokenizer.encode(line, export.config.data.max_caption_tokens)) for line in TEXTS]
    embedder = Embedder(export.config)
    check_shapes(export.params["model"], embedder.abstract_params(), "model")
    audio = embedder.audio(export.params["model"], list(sounds.values()))
    text = embedder.text(export.params["model"], tokens)

    pieces = [token for line in tokens for token in line[1:-1]]
    mels = dict(zip(sounds, probe_log_mel(list(sounds.values()), export.config.audio), strict=True))
    heard = np.concatenate([mel for name, mel in mels.items() if name != SILENCE])
    heard = (heard - export.config.audio.mean) / export.config.audio.std
    weights = flatten(export.params)
    matrices = {name: value for name, value in weights.items() if name.rsplit("/", 1)[-1] in ("kernel", "table")}
    log_scale = float(weights.get("objectives/contrastive/log_scale", np.log(1 / 0.07)))
    return Measures(
        sounds=dict(zip(sounds, audio, strict=True)),
        texts=dict(zip(TEXTS, text, strict=True)),
        log_mel={name: (float(mel.mean()), float(mel.std())) for name, mel in mels.items()},
        normalised=(float(heard.mean()), float(heard.std())),
        unknown=pieces.count(tokenizer.unk) / max(1, len(pieces)),
        same_tokens=sum(a == b for i, a in enumerate(tokens) for b in tokens[:i]),
        bad_weights=tuple(name for name, value in weights.items() if not np.isfinite(value).all()),
        zero_weights=tuple(name for name, value in matrices.items() if not np.any(value)),
        scale=float(np.exp(log_scale)),
        max_scale=float(export.config.objectives.contrastive.max_scale),
    )


def probe_log_mel(sounds: Sequence[Float[np.ndarray, " n"]], audio: ConfigDict) -> Float[np.ndarray, "R frames mels"]:
    """Returns the log-mel, not normalised, of sounds of one length, by the front end of the models."""
    settings, per_column = FrozenConfigDict(audio), samples_per_column(audio)
    columns = clip_columns(len(sounds[0]), per_column)
    rows = np.zeros((len(sounds), columns * per_column), np.float32)
    rows[:, : len(sounds[0])] = sounds
    segments = np.ones((len(sounds), columns), np.int32)
    mel = jax.jit(lambda rows, segments: log_mel(rows, segments, settings))(rows, segments)
    return np.asarray(mel).reshape(len(sounds), -1, audio.mels)


def mean_cosine(vectors: Mapping[str, Float[np.ndarray, " E"]]) -> float:
    """Returns the mean cosine over all pairs of different probes."""
    matrix = np.stack(list(vectors.values()))
    cosine = matrix @ matrix.T
    return float(cosine[np.triu_indices(len(matrix), 1)].mean())


def largest_distance(vectors: Mapping[str, Float[np.ndarray, " E"]]) -> float:
    """Returns the largest distance between two of the vectors."""
    matrix = np.stack(list(vectors.values()))
    return float(np.linalg.norm(matrix[:, None] - matrix[None], axis=-1).max())


def modality_gap(measures: Measures) -> float:
    """Returns the distance between the mean audio and the mean text vector (Liang et al. 2022, arXiv 2203.02053)."""
    means = [np.mean(list(vectors.values()), axis=0) for vectors in (measures.sounds, measures.texts)]
    return float(np.linalg.norm(means[0] - means[1]))
