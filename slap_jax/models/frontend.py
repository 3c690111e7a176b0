"""The audio front end on the device: packed samples to log-mel patches, and SpecAugment.

    frame_t = window * samples around hop_length t
    mel_t   = log(max(filters |DFT(frame_t)|^2, log_floor))

The frames of each clip equal librosa's of that clip alone.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Shaped
from ml_collections import ConfigDict

from slap_jax.config.mel_filters import hann_window, mel_filter_bank
from slap_jax.parallel.sharding import target_platform

INT16_SCALE = 2.0**-15


@functools.cache
def windowed_dft(window_length: int, n_fft: int) -> np.ndarray:
    """Returns the DFT of a windowed frame as a matrix, float32 [window_length, n_fft + 2]: real parts, then imaginary.

    The samples under the window are taken as the start of the n_fft frame, which changes the phases only.
    """
    angle = 2.0 * np.pi * np.outer(np.arange(window_length), np.arange(n_fft // 2 + 1)) / n_fft
    matrix = np.concatenate([np.cos(angle), -np.sin(angle)], axis=1)
    return (hann_window(window_length)[:, None] * matrix).astype(np.float32)


def _columns_with_context(
    samples: Float[Array, "R C s"], segment_ids: Int[Array, "R C"], left: int, right: int
) -> Float[Array, "R C n"]:
    """Adds the `left` samples before and the `right` samples after each column, with zeros in place of other clips."""
    same = (segment_ids[:, 1:] == segment_ids[:, :-1])[..., None]
    edge = ((0, 0), (1, 0), (0, 0))
    before = jnp.pad(jnp.where(same, samples[:, :-1, samples.shape[2] - left :], 0.0), edge)
    after = jnp.pad(jnp.where(same, samples[:, 1:, :right], 0.0), (edge[0], (0, 1), edge[2]))
    return jnp.concatenate([before, samples, after], axis=2)


def _frames(
    samples: Float[Array, "R C s"], segment_ids: Int[Array, "R C"], audio: ConfigDict
) -> Float[Array, "R C 16 w"]:
    """Builds overlapping frames from slices of whole hops, without a gather and without a mask per frame."""
    hop, width = audio.hop_length, audio.window_length
    # librosa centres the n_fft frame on its sample, and the window in the frame.
    left = audio.n_fft // 2 - (audio.n_fft - width) // 2
    hops = -(-width // hop)
    right = max(0, (hops - 1) * hop - left)
    padded = _columns_with_context(samples, segment_ids, left, right)
    count = audio.frames_per_column
    padded = padded[:, :, : (count + hops - 1) * hop].reshape(*segment_ids.shape, count + hops - 1, hop)
    pieces = [padded[:, :, i : i + count] for i in range(hops)]
    pieces[-1] = pieces[-1][..., : width - (hops - 1) * hop]
    return jnp.concatenate(pieces, axis=-1)


def log_mel(
    waveform: Shaped[Array, "R S"], audio_segment_ids: Int[Array, "R C"], audio: ConfigDict
) -> Float[Array, "R C 16 mels"]:
    """Computes the natural log-mel power spectrogram of packed rows.

    Frame t of a clip is centred on its sample `hop_length * t`, and samples of other clips count as zero. The frames
    equal `log(max(librosa.feature.melspectrogram(clip, center=True, pad_mode="constant"), floor))` of each clip alone.

    Args:
        waveform: 16 kHz samples, int16 or float32 in [-1, 1].
        audio_segment_ids: segment of each column.
        audio: `config.audio`.

    Returns:
        fp32 values, 16 frames per column.
    """
    samples = waveform.astype(jnp.float32)
    if jnp.issubdtype(waveform.dtype, jnp.integer):
        samples = samples * INT16_SCALE
    else:
        # Attention gives other clips a weight of zero, but 0 * NaN is NaN: one bad sample would spoil all clips of the
        # row. Data preparation rejects such clips; this line protects inference and other callers that pass floats.
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
    """Returns `(mel - mean) / std` with the constants of the data, `config.audio.mean` and `config.audio.std`."""
    return (mel - audio.mean) / audio.std


def patches(mel: Float[Array, "R C 16 mels"], audio: ConfigDict) -> Float[Array, "R L P"]:
    """Splits each column into F patches along frequency; token `column * F + f` holds mels `16 f .. 16 f + 15`.

    The `frames_per_column * mels_per_patch` values of a patch are ordered by time, then frequency.
    """
    rows, columns, frames, mels = mel.shape
    freq_patches = mels // audio.mels_per_patch
    split = mel.reshape(rows, columns, frames, freq_patches, audio.mels_per_patch)
    return jnp.swapaxes(split, 2, 3).reshape(rows, columns * freq_patches, frames * audio.mels_per_patch)


def spec_augment(
    keys: Key[Array, " R"],
    mel: Float[Array, "R C 16 mels"],
    audio_segment_ids: Int[Array, "R C"],
    audio_positions: Int[Array, "R C"],
    slots: int,
    settings: ConfigDict,
) -> Float[Array, "R C 16 mels"]:
    """SpecAugment (Park et al. 2019): sets spans of frames and of mel bins of each clip to zero.

    Zero is the mean of a normalised log-mel.

    Args:
        keys: random key of each row; the masks of slot k depend on the key of its row and on k only.
        mel: normalised log-mel.
        audio_segment_ids: segment of each column; padding does not change.
        audio_positions: index of each column in its clip.
        slots: K.
        settings: `config.spec_augment`: `time_masks` spans of at most `time_fraction` of the clip's frames, and
            `frequency_masks` spans of at most `frequency_bins` mel bins.
    """
    rows, _, frames_per_column, mels = mel.shape
    time_keys, frequency_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    member = audio_segment_ids[:, None] == jnp.arange(1, slots + 1)[:, None]  # [R, K, C]
    frames = jnp.sum(member, axis=-1, dtype=jnp.int32) * frames_per_column
    length = jnp.broadcast_to(frames[..., None].astype(jnp.float32), (rows, slots, settings.time_masks))
    time_spans = jax.vmap(_sample_spans)(time_keys, length, jnp.floor(length * settings.time_fraction))
    bins = jnp.full((rows, slots, settings.frequency_masks), float(mels))
    frequency_spans = jax.vmap(_sample_spans)(frequency_keys, bins, jnp.minimum(bins, settings.frequency_bins))

    slot = jnp.maximum(audio_segment_ids - 1, 0)[..., None]

    def in_spans(spans: tuple[Array, Array], index: Array) -> Bool[Array, "R C n"]:
        start, end = (jnp.take_along_axis(edge, slot, axis=1)[:, :, None] for edge in spans)  # [R, C, 1, masks]
        return jnp.any((index[..., None] >= start) & (index[..., None] < end), axis=-1)

    frame = audio_positions[..., None] * frames_per_column + jnp.arange(frames_per_column)
    masked = in_spans(time_spans, frame)[..., None]
    masked |= in_spans(frequency_spans, jnp.arange(mels)[None, None])[:, :, None]
    return jnp.where(masked & (audio_segment_ids > 0)[..., None, None], 0.0, mel)


def _sample_spans(key: jax.Array, length: Array, longest: Array) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Samples spans [start, end) of 0 to `longest` whole cells within [0, length)."""
    width_key, start_key = jax.random.split(key)
    width = jnp.floor(jax.random.uniform(width_key, length.shape) * (longest + 1.0))
    start = jnp.floor(jax.random.uniform(start_key, length.shape) * (length - width + 1.0))
    return start, start + width
