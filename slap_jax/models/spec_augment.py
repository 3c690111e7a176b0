"""SpecAugment on packed rows (Park et al. 2019): time and frequency masks, drawn for each clip, on the device."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key
from ml_collections import ConfigDict


def _spans(key: jax.Array, length: Array, longest: Array) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Draws the first and the end index of spans of 0..longest whole cells that lie inside 0..length."""
    width_key, start_key = jax.random.split(key)
    width = jnp.floor(jax.random.uniform(width_key, length.shape) * (longest + 1.0))
    start = jnp.floor(jax.random.uniform(start_key, length.shape) * (length - width + 1.0))
    return start, start + width


def spec_augment(
    keys: Key[Array, " R"],
    mel: Float[Array, "R C 16 mels"],
    audio_segments: Int[Array, "R C"],
    audio_columns: Int[Array, "R C"],
    slots: int,
    settings: ConfigDict,
) -> Float[Array, "R C 16 mels"]:
    """Sets a few spans of frames and of mel bins of each clip to zero, the mean of a normalised log-mel.

    Args:
        keys: of each row; the masks of slot k depend on its row's key and k alone.
        mel: normalised log-mel.
        audio_segments: owner of each column; padding is left as it is.
        audio_columns: index of each column inside its clip.
        slots: K.
        settings: `config.spec_augment`: `time_masks` spans of at most `time_fraction` of the clip's frames,
            `frequency_masks` spans of at most `frequency_bins` mel bins.
    """
    rows, _, frames_per_column, mels = mel.shape
    time_keys, frequency_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    member = audio_segments[:, None] == jnp.arange(1, slots + 1)[:, None]  # [R, K, C]
    frames = jnp.sum(member, axis=-1, dtype=jnp.int32) * frames_per_column
    length = jnp.broadcast_to(frames[..., None].astype(jnp.float32), (rows, slots, settings.time_masks))
    time_spans = jax.vmap(_spans)(time_keys, length, jnp.floor(length * settings.time_fraction))
    bins = jnp.full((rows, slots, settings.frequency_masks), float(mels))
    frequency_spans = jax.vmap(_spans)(frequency_keys, bins, jnp.minimum(bins, settings.frequency_bins))

    owner = jnp.maximum(audio_segments - 1, 0)[..., None]

    def covered(spans: tuple[Array, Array], index: Array) -> Bool[Array, "R C n"]:
        start, end = (jnp.take_along_axis(edge, owner, axis=1)[:, :, None] for edge in spans)  # [R, C, 1, masks]
        return jnp.any((index[..., None] >= start) & (index[..., None] < end), axis=-1)

    frame = audio_columns[..., None] * frames_per_column + jnp.arange(frames_per_column)
    hidden = covered(time_spans, frame)[..., None] | covered(frequency_spans, jnp.arange(mels)[None, None])[:, :, None]
    return jnp.where(hidden & (audio_segments > 0)[..., None, None], 0.0, mel)
