"""Packed samples to log-mel patches, on the device; each clip's frames equal librosa's of that clip alone.

SpecAugment on packed rows (Park et al. 2019): time and frequency masks, drawn for each clip, on the device.
"""

import functools

import jax
import jax.numpy as jnp
import librosa
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Shaped
from ml_collections import ConfigDict

from slap_jax.parallel.sharding import target_platform

INT16_SCALE = 2.0**-15


@functools.cache
def mel_filter_bank(sample_rate: int, n_fft: int, mels: int, f_min: float, f_max: float) -> np.ndarray:
    """Returns librosa's Slaney-style filters, float32 [n_fft / 2 + 1, mels]."""
    bank = librosa.filters.mel(sr=sample_rate, n_fft=n_fft, n_mels=mels, fmin=f_min, fmax=f_max)
    return np.ascontiguousarray(bank.T, dtype=np.float32)


@functools.cache
def hann_window(length: int) -> np.ndarray:
    """Returns the periodic Hann window, float64 [length]."""
    return 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(length) / length)


@functools.cache
def windowed_dft(window_length: int, n_fft: int) -> np.ndarray:
    """Returns the DFT of a windowed frame as a matrix, float32 [window_length, n_fft + 2]: real parts, then imaginary.

    The frame is the part of an n_fft frame under the window; where it starts changes phases only.
    """
    angle = 2.0 * np.pi * np.outer(np.arange(window_length), np.arange(n_fft // 2 + 1)) / n_fft
    matrix = np.concatenate([np.cos(angle), -np.sin(angle)], axis=1)
    return (hann_window(window_length)[:, None] * matrix).astype(np.float32)


def _columns_with_context(
    samples: Float[Array, "R C s"], segments: Int[Array, "R C"], left: int, right: int
) -> Float[Array, "R C n"]:
    """Puts `left` samples before and `right` after each column; a neighbour of another clip counts as silence."""
    same = (segments[:, 1:] == segments[:, :-1])[..., None]
    edge = ((0, 0), (1, 0), (0, 0))
    before = jnp.pad(jnp.where(same, samples[:, :-1, samples.shape[2] - left :], 0.0), edge)
    after = jnp.pad(jnp.where(same, samples[:, 1:, :right], 0.0), (edge[0], (0, 1), edge[2]))
    return jnp.concatenate([before, samples, after], axis=2)


def _frames(samples: Float[Array, "R C s"], segments: Int[Array, "R C"], audio: ConfigDict) -> Float[Array, "R C 16 w"]:
    """Cuts overlapping frames by slices of whole hops: no gather, no mask for each frame."""
    hop, width = audio.hop_length, audio.window_length
    # librosa centres an n_fft frame on its sample and the window in the frame.
    left = audio.n_fft // 2 - (audio.n_fft - width) // 2
    hops = -(-width // hop)
    right = max(0, (hops - 1) * hop - left)
    padded = _columns_with_context(samples, segments, left, right)
    count = audio.frames_per_column
    padded = padded[:, :, : (count + hops - 1) * hop].reshape(*segments.shape, count + hops - 1, hop)
    pieces = [padded[:, :, i : i + count] for i in range(hops)]
    pieces[-1] = pieces[-1][..., : width - (hops - 1) * hop]
    return jnp.concatenate(pieces, axis=-1)


def log_mel(
    waveform: Shaped[Array, "R S"], audio_segment_ids: Int[Array, "R C"], audio: ConfigDict
) -> Float[Array, "R C 16 mels"]:
    """Computes the natural log-mel power spectrogram of packed rows.

    Frame t of a clip is centred on its sample `hop_length * t`; samples of other clips count as zero, so the frames
    equal `log(max(librosa.feature.melspectrogram(clip, center=True, pad_mode="constant"), floor))` of each clip alone.

    Args:
        waveform: 16 kHz samples, int16 or float32 in [-1, 1].
        audio_segment_ids: owner of each column.
        audio: `config.audio`.

    Returns:
        fp32 values, 16 frames in each column.
    """
    samples = waveform.astype(jnp.float32)
    if jnp.issubdtype(waveform.dtype, jnp.integer):
        samples = samples * INT16_SCALE
    else:
        # Attention hides other clips by weights of zero, and 0 * NaN is NaN: a clip with one bad sample would spoil all
        # of its row. The data path rejects such clips; this guards inference and everything else that feeds floats.
        samples = jnp.where(jnp.isfinite(samples), samples, 0.0)
    samples = samples.reshape(*audio_segment_ids.shape, -1)
    frames = _frames(samples, audio_segment_ids, audio)
    dft = audio.dft
    if dft == "auto":
        dft = "rfft" if target_platform() == "cpu" else "matmul"
    if dft == "rfft":
        spectrum = jnp.fft.rfft(frames * hann_window(audio.window_length).astype(np.float32), n=audio.n_fft)
        power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    else:
        parts = jnp.matmul(frames, windowed_dft(audio.window_length, audio.n_fft), precision="highest")
        real, imaginary = jnp.split(jnp.square(parts), 2, axis=-1)
        power = real + imaginary
    bank = mel_filter_bank(audio.sample_rate, audio.n_fft, audio.mels, audio.f_min, audio.f_max)
    mel = jnp.matmul(power, bank, precision="highest")
    return jnp.log(jnp.maximum(mel, audio.log_floor))


def normalise(mel: Float[Array, "R C 16 mels"], audio: ConfigDict) -> Float[Array, "R C 16 mels"]:
    """Shifts and scales the log-mel by the data set's constants, `config.audio.mean` and `.std`."""
    return (mel - audio.mean) / audio.std


def patches(mel: Float[Array, "R C 16 mels"], audio: ConfigDict) -> Float[Array, "R L P"]:
    """Cuts each column into F patches along frequency; token `column * F + f` holds mels `16 f .. 16 f + 15`.

    Within a patch of `frames_per_column * mels_per_patch` values, time is the slower axis.
    """
    rows, columns, frames, mels = mel.shape
    count = mels // audio.mels_per_patch
    split = mel.reshape(rows, columns, frames, count, audio.mels_per_patch)
    return jnp.swapaxes(split, 2, 3).reshape(rows, columns * count, frames * audio.mels_per_patch)


def _spans(key: jax.Array, length: Array, longest: Array) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Draws the first and the end index of spans of 0..longest whole cells that lie inside 0..length."""
    width_key, start_key = jax.random.split(key)
    width = jnp.floor(jax.random.uniform(width_key, length.shape) * (longest + 1.0))
    start = jnp.floor(jax.random.uniform(start_key, length.shape) * (length - width + 1.0))
    return start, start + width


def spec_augment(
    keys: Key[Array, " R"],
    mel: Float[Array, "R C 16 mels"],
    audio_segment_ids: Int[Array, "R C"],
    audio_positions: Int[Array, "R C"],
    slots: int,
    settings: ConfigDict,
) -> Float[Array, "R C 16 mels"]:
    """Sets a few spans of frames and of mel bins of each clip to zero, the mean of a normalised log-mel.

    Args:
        keys: of each row; the masks of slot k depend on its row's key and k alone.
        mel: normalised log-mel.
        audio_segment_ids: owner of each column; padding is left as it is.
        audio_positions: index of each column inside its clip.
        slots: K.
        settings: `config.spec_augment`: `time_masks` spans of at most `time_fraction` of the clip's frames,
            `frequency_masks` spans of at most `frequency_bins` mel bins.
    """
    rows, _, frames_per_column, mels = mel.shape
    time_keys, frequency_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    member = audio_segment_ids[:, None] == jnp.arange(1, slots + 1)[:, None]  # [R, K, C]
    frames = jnp.sum(member, axis=-1, dtype=jnp.int32) * frames_per_column
    length = jnp.broadcast_to(frames[..., None].astype(jnp.float32), (rows, slots, settings.time_masks))
    time_spans = jax.vmap(_spans)(time_keys, length, jnp.floor(length * settings.time_fraction))
    bins = jnp.full((rows, slots, settings.frequency_masks), float(mels))
    frequency_spans = jax.vmap(_spans)(frequency_keys, bins, jnp.minimum(bins, settings.frequency_bins))

    owner = jnp.maximum(audio_segment_ids - 1, 0)[..., None]

    def covered(spans: tuple[Array, Array], index: Array) -> Bool[Array, "R C n"]:
        start, end = (jnp.take_along_axis(edge, owner, axis=1)[:, :, None] for edge in spans)  # [R, C, 1, masks]
        return jnp.any((index[..., None] >= start) & (index[..., None] < end), axis=-1)

    frame = audio_positions[..., None] * frames_per_column + jnp.arange(frames_per_column)
    hidden = covered(time_spans, frame)[..., None] | covered(frequency_spans, jnp.arange(mels)[None, None])[:, :, None]
    return jnp.where(hidden & (audio_segment_ids > 0)[..., None, None], 0.0, mel)
