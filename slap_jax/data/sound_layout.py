"""Finds out from a few bytes whether a sound file is as long as its header states, and how to read all of it if not."""

from slap_jax.data.chunk_layout import chunk_layout
from slap_jax.data.flac_layout import flac_layout
from slap_jax.data.mp3_layout import mp3_layout, tags_end
from slap_jax.data.ogg_layout import ogg_layout
from slap_jax.data.sound_bytes import Layout, SoundBytes


def sound_layout(data: SoundBytes) -> Layout | None:
    """Returns the layout of a sound file, or None if its format is another, or it is damaged at its beginning."""
    start = tags_end(data)
    magic = data.read(start, 4)
    if magic == b"fLaC":
        return flac_layout(data, start)
    if magic == b"OggS":
        return ogg_layout(data, start)
    if (layout := chunk_layout(data, start)) is not None:
        return layout
    if start > 0 or magic[:1] == b"\xff":
        return mp3_layout(data, start)
    return None
