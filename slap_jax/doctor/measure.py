"""What a model makes of the probes: the numbers that the findings are drawn from.

Sounds and texts that are the same everywhere and for ever, to compare what models make of them.
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
from slap_jax.models.frontend import log_mel
from slap_jax.params import flatten


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


def probe_sounds(sample_rate: int) -> dict[str, Float[np.ndarray, " n"]]:
    """Returns sounds of 1.5 s by name, float32 of full scale 1, none louder than 0.5."""
    count = round(SECONDS * sample_rate)
    time = np.arange(count) / sample_rate
    # This generator's numbers are fixed for ever; those of default_rng may change with NumPy.
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
    """Voiced syllables, four a second, whose harmonics have the peaks of a vowel, with hissing between them."""
    pitch = 2 * np.pi * (120.0 * time + 2.0 * np.sin(2 * np.pi * 1.5 * time))
    voice = np.zeros_like(time)
    for harmonic in range(1, 25):
        frequency = 120.0 * harmonic
        strength = sum(np.exp(-(((frequency - peak) / 150.0) ** 2)) for peak in (500.0, 1_500.0, 2_500.0))
        voice += (0.05 + strength) / harmonic * np.sin(harmonic * pitch)
    syllables = np.clip(np.sin(2 * np.pi * 2.0 * time), 0.0, 1.0)
    pauses = np.clip(-np.sin(2 * np.pi * 2.0 * time), 0.0, 1.0)
    return 0.15 * syllables * voice + 0.02 * pauses * np.diff(white, prepend=0.0)
