"""Reading the encoded audio that an entry names: a file, a member of a tar, a cell of a table."""

from pathlib import Path

from slap_jax.data.audio import AudioError
from slap_jax.data.collections.entries import ArchiveMember, AudioFile, AudioLocation, TableCell
from slap_jax.data.collections.table_files import TableError, audio_bytes


def read_audio(location: AudioLocation) -> Path | bytes:
    """Returns what `decode_audio` takes: the path of a file, the encoded bytes of anything else.

    Raises:
        AudioError: missing, not readable, or shorter than the collection said.
    """
    try:
        if isinstance(location, ArchiveMember):
            return _member(location)
        if isinstance(location, TableCell):
            return _cell(location)
        with location.path.open("rb"):  # libsndfile would not say why it cannot
            return location.path
    except FileNotFoundError as error:
        raise AudioError(f"{location} is missing; correct the path", "missing_file") from error
    except OSError as error:
        raise AudioError(
            f"{location} cannot be read ({error.strerror or error}); correct its permissions, or copy it again",
            "unreadable_file",
        ) from error


def file_of(location: AudioLocation) -> Path:
    """Returns the file that holds the audio."""
    if isinstance(location, AudioFile):
        return location.path
    return location.archive if isinstance(location, ArchiveMember) else location.table


def _member(location: ArchiveMember) -> bytes:
    with location.archive.open("rb") as file:
        file.seek(location.offset)
        data = file.read(location.length)
    if len(data) < location.length:
        raise AudioError(
            f"{location} is broken off: {len(data)} of {location.length} bytes are there; copy the archive again",
            "truncated_audio",
        )
    return data


def _cell(location: TableCell) -> bytes:
    try:
        data = audio_bytes(location.table, location.column, location.row)
    except TableError as error:
        raise AudioError(f"{location} cannot be read: {error}; copy the table again", "unreadable_file") from error
    if not data:
        raise AudioError(f"{location} holds no audio in column {location.column!r}; leave it out", "empty_audio")
    return data
