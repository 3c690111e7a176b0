"""Measures a model: its embeddings of the probes, its front end, its vocabulary and its weights.

The probes are sounds and texts that never change, so that the outputs of models can be compared across machines.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict, FrozenConfigDict

from slap_jax.checkpoints.model_dir import Export, check_shapes
from slap_jax.config.defaults import samples_per_column
from slap_jax.data.packing import clip_columns
from slap_jax.data.tokenizer import load_tokenizer
from slap_jax.inference.embedder import Embedder
from slap_jax.inference.protocol import EmbeddingModel
from slap_jax.models.frontend import log_mel
from slap_jax.params import flatten

SECONDS = 1.5
SILENCE = "silence"
TEXTS = (
    "a dog barks",
    "rain falls on a roof",
    "a man speaks",
    "a piano plays a melody",
    "an engine idles",
    "birds sing in a tree",
)


@dataclasses.dataclass(frozen=True)
class ProbeEmbeddings:
    """What can be measured of a model of any family.

    Attributes:
        sounds: Embedding of each probe sound.
        texts: Embedding of each probe text.
    """

    sounds: Mapping[str, Float[np.ndarray, " E"]]
    texts: Mapping[str, Float[np.ndarray, " E"]]


@dataclasses.dataclass(frozen=True)
class Measurements(ProbeEmbeddings):
    """What is measured of our own models.

    Attributes:
        log_mel: Mean and standard deviation of each probe's log-mel, before normalisation.
        normalised: Mean and standard deviation of the normalised log-mel, the input of the audio tower, over all probes
            except silence.
        unknown: Fraction of the tokens of the probe texts that are unknown to the vocabulary.
        same_tokens: Number of pairs of probe texts that have the same tokens.
        bad_weights: Names of the weights that are not finite.
        zero_weights: Names of the matrices that are zero everywhere.
        scale: Learned factor of the cosine similarity (inverse temperature), before it is clamped to `max_scale`.
        max_scale: Setting `objectives.contrastive.max_scale`.
    """

    log_mel: Mapping[str, tuple[float, float]]
    normalised: tuple[float, float]
    unknown: float
    same_tokens: int
    bad_weights: tuple[str, ...]
    zero_weights: tuple[str, ...]
    scale: float
    max_scale: float


def measure_model(export: Export, embedder: Embedder | None = None) -> Measurements:
    """Embeds the probes and inspects the weights.

    Args:
        export: The model.
        embedder: An embedder of its config, whose compiled programs are used; None makes one.

    Raises:
        ExportError: The parameters do not have the shapes that the config describes.
    """
    tokenizer = load_tokenizer(export.tokenizer_path)
    sounds = probe_sounds(export.config.audio.sample_rate)
    tokens = [tuple(tokenizer.encode(line, export.config.data.max_caption_tokens)) for line in TEXTS]
    embedder = Embedder(export.config) if embedder is None else embedder
    check_shapes(export.params["model"], embedder.abstract_params(), "model")
    audio = embedder.audio(export.params["model"], list(sounds.values()))
    text = embedder.text(export.params["model"], tokens)

    pieces = [token for line in tokens for token in line[1:-1]]
    mels = dict(zip(sounds, probe_log_mel(list(sounds.values()), export.config.audio), strict=True))
    inputs = np.concatenate([mel for name, mel in mels.items() if name != SILENCE])
    inputs = (inputs - export.config.audio.mean) / export.config.audio.std
    weights = flatten(export.params)
    matrices = {name: value for name, value in weights.items() if name.rsplit("/", 1)[-1] in ("kernel", "table")}
    log_scale = float(weights.get("objectives/contrastive/log_scale", np.log(1 / 0.07)))
    return Measurements(
        sounds=dict(zip(sounds, audio, strict=True)),
        texts=dict(zip(TEXTS, text, strict=True)),
        log_mel={name: (float(mel.mean()), float(mel.std())) for name, mel in mels.items()},
        normalised=(float(inputs.mean()), float(inputs.std())),
        unknown=pieces.count(tokenizer.unk) / max(1, len(pieces)),
        same_tokens=sum(a == b for i, a in enumerate(tokens) for b in tokens[:i]),
        bad_weights=tuple(name for name, value in weights.items() if not np.isfinite(value).all()),
        zero_weights=tuple(name for name, value in matrices.items() if not np.any(value)),
        scale=float(np.exp(log_scale)),
        max_scale=float(export.config.objectives.contrastive.max_scale),
    )


def measure_other_model(model: EmbeddingModel) -> ProbeEmbeddings:
    """Embeds the probes with a model of any family, except silence, which some models refuse."""
    sounds = {name: samples for name, samples in probe_sounds(model.sample_rate).items() if name != SILENCE}
    audio = model.embed_audio([(samples, model.sample_rate) for samples in sounds.values()])
    return ProbeEmbeddings(
        sounds=dict(zip(sounds, audio, strict=True)),
        texts=dict(zip(TEXTS, model.embed_text(TEXTS), strict=True)),
    )


def probe_log_mel(sounds: Sequence[Float[np.ndarray, " n"]], audio: ConfigDict) -> Float[np.ndarray, "R frames mels"]:
    """Returns the log-mel of sounds of equal length before normalisation, from the front end of the models."""
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
    """Returns the largest distance between two vectors."""
    matrix = np.stack(list(vectors.values()))
    return float(np.linalg.norm(matrix[:, None] - matrix[None], axis=-1).max())


def modality_gap(measured: ProbeEmbeddings) -> float:
    """Returns the distance between the mean audio and the mean text vector (Liang et al. 2022, arXiv 2203.02053)."""
    means = [np.mean(list(vectors.values()), axis=0) for vectors in (measured.sounds, measured.texts)]
    return float(np.linalg.norm(means[0] - means[1]))


def probe_sounds(sample_rate: int) -> dict[str, Float[np.ndarray, " n"]]:
    """Returns sounds of 1.5 s by name, float32 in [-0.5, 0.5]."""
    count = round(SECONDS * sample_rate)
    time = np.arange(count) / sample_rate
    # The stream of RandomState is frozen; that of default_rng may change between NumPy versions.
    white = np.random.RandomState(0).standard_normal(count)
    clicks = np.zeros(count)
    clicks[:: max(1, sample_rate // 8)] = 0.5
    sounds = {
        "noise": 0.1 * white,
        "tone": 0.2 * np.sin(2 * np.pi * 440.0 * time),
        "chirp": 0.2 * np.sin(2 * np.pi * (100.0 * time + 0.5 * 2_400.0 * time**2)),  # 100 Hz to 3.7 kHz
        "clicks": clicks,
        "speech_like": _speech_like(time, white),
        SILENCE: np.zeros(count),
    }
    return {name: np.clip(samples, -0.5, 0.5).astype(np.float32) for name, samples in sounds.items()}


def _speech_like(time: Float[np.ndarray, " n"], white: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Returns voiced syllables, two per second, with the formants of a vowel, and hiss between them."""
    pitch = 2 * np.pi * (120.0 * time + 2.0 * np.sin(2 * np.pi * 1.5 * time))
    voice = np.zeros_like(time)
    for harmonic in range(1, 25):
        frequency = 120.0 * harmonic
        strength = sum(np.exp(-(((frequency - peak) / 150.0) ** 2)) for peak in (500.0, 1_500.0, 2_500.0))
        voice += (0.05 + strength) / harmonic * np.sin(harmonic * pitch)
    syllables = np.clip(np.sin(2 * np.pi * 2.0 * time), 0.0, 1.0)
    pauses = np.clip(-np.sin(2 * np.pi * 2.0 * time), 0.0, 1.0)
    return 0.15 * syllables * voice + 0.02 * pauses * np.diff(white, prepend=0.0)
