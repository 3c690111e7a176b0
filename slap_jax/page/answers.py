"""The answers of the page, as functions of a model and the user's input. Nothing here depends on the browser."""

import base64
import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
from jaxtyping import Float

from slap_jax.config import default_config
from slap_jax.data.audio import AudioError, encode_flac, to_int16
from slap_jax.data.log_mel import clip_log_mel
from slap_jax.errors import UserError
from slap_jax.inference.audio_input import DecodedFile, SilenceCheck, load_audio, silence_error
from slap_jax.inference.long_audio import Scores
from slap_jax.page.timeline import timeline_html
from slap_jax.search.search import Hit, search

if TYPE_CHECKING:
    from slap_jax.inference.model import SlapModel
    from slap_jax.other_models.dual_encoder import DualEncoder
    from slap_jax.search.index import SearchIndex

LONGEST_SHOWN = 300.0  # seconds; a longer picture would be a blur
MOST_TEXTS = 8  # lines that remain distinguishable
_WINDOW_SECONDS, _HOP_SECONDS = 2.0, 0.5  # over time, for a model without features over time
_LARGEST_EXAMPLE = 2_000_000  # bytes


class PageError(UserError, ValueError):
    """A missing input or package, or a port that is in use."""


def split_lines(text: str) -> list[str]:
    """Splits typed text at newlines and commas, and drops empty parts and repetitions."""
    parts = [" ".join(part.split()) for part in re.split(r"[,;\n]", text or "")]
    return list(dict.fromkeys(part for part in parts if part))


def describe(model: "SlapModel | DualEncoder", name: str) -> str:
    """Returns what the model is, in a line of Markdown."""
    captions = "describes sounds in words" if model.can_caption else "has no caption decoder"
    return (
        f"Model `{name}` ({model.model_id}): embeds sound at {model.sample_rate:,} Hz as {model.embed_dim} numbers, "
        f"up to {model.max_seconds:g} s at once and longer recordings in windows; {captions}."
    )


def model_card(folder: Path) -> str:
    """Returns the card of an exported model as Markdown, or "" if there is none."""
    card = next((path for path in (folder / "README.md", folder / "export" / "README.md") if path.is_file()), None)
    if card is None:
        return ""
    text = card.read_text(encoding="utf-8")
    return re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL).strip()


def examples(index: "SearchIndex | None", most: int = 3) -> list[str]:
    """Returns paths of short recordings of the indexed folder, spread over its list of files."""
    if index is None:
        return []
    paths = [index.root / name for name in sorted(index.files)]
    spread = [paths[number * len(paths) // most] for number in range(most)] if len(paths) >= most else paths
    return [str(path) for path in spread if path.is_file() and path.stat().st_size < _LARGEST_EXAMPLE]


def heard(model: "SlapModel | DualEncoder", audio: str | None) -> str:
    """Returns a line about a recording that has just been given, so that a bad file is refused at once.

    Raises:
        AudioError: The recording cannot be read, or is silent.
    """
    if not audio:
        return ""
    recording = _read(model, audio)
    return f"{len(recording.samples) / recording.sample_rate:.1f} s. Now ask a question."


def timeline(model: "SlapModel | DualEncoder", audio: str | None, texts: str) -> str:
    """Returns HTML that shows the log-mel of a recording above its similarity with texts over time.

    A model of another family has no features over time. Its windows of 2 s are compared instead, every half second.

    Args:
        model: Model to ask.
        audio: Path of the recording.
        texts: One to 8 texts, separated by newlines or commas.

    Raises:
        PageError: There is no recording, no text or too many texts.
        AudioError: The recording cannot be read, or is silent.
        DrawingError: matplotlib is not installed.
    """
    lines = split_lines(texts)
    if not 1 <= len(lines) <= MOST_TEXTS:
        raise PageError(f"there are {len(lines)} texts; type 1 to {MOST_TEXTS}, one per line or separated by commas")
    settings = default_config().audio
    whole = _with_sound(_given(audio), settings.sample_rate)
    waveform = whole[: round(LONGEST_SHOWN * settings.sample_rate)]
    recording = DecodedFile(Path(_given(audio)).name, waveform, settings.sample_rate)
    scores = _scores_over_time(model, recording, lines)
    best = scores.scores.argmax(axis=0)
    moments = ", ".join(
        f"{text} at {scores.start[column]:.1f} s ({scores.scores[column, number]:.2f})"
        for number, (text, column) in enumerate(zip(lines, best, strict=True))
    )
    seconds = len(waveform) / settings.sample_rate
    total = len(whole) / settings.sample_rate
    cut = f" Only the first {seconds:.0f} s of {total:.0f} s are shown." if len(waveform) < len(whole) else ""
    log_mel = clip_log_mel(to_int16(waveform), settings)
    return timeline_html(waveform, settings.sample_rate, log_mel, settings, scores, lines, f"Highest: {moments}.{cut}")


def _scores_over_time(model: "SlapModel | DualEncoder", recording: DecodedFile, texts: list[str]) -> Scores:
    clip = (recording.samples, recording.sample_rate)
    if hasattr(model, "encoder"):  # of another family
        windows = model.windows(clip, seconds=_WINDOW_SECONDS, hop=_HOP_SECONDS)
        scores = model.similarity(windows.embeddings, model.embed_text(texts))
        middle = (windows.start + windows.end) / 2
        edges = np.concatenate([windows.start[:1], (middle[:-1] + middle[1:]) / 2, windows.end[-1:]])
        return Scores(edges[:-1], edges[1:], scores)
    return model.scores(clip, texts, allow_silence=True)  # of the part that is shown


def classify(model: "SlapModel | DualEncoder", audio: str | None, labels: str) -> dict[str, float]:
    """Returns the probability of each label.

    Args:
        model: Model to ask.
        audio: Path of the recording.
        labels: At least two labels, separated by newlines or commas.

    Raises:
        PageError: There is no recording, or fewer than two labels.
        AudioError: The recording cannot be read, or is silent.
    """
    names = split_lines(labels)
    if len(names) < 2:
        raise PageError("type at least two labels, one per line or separated by commas")
    return model.classify([_read(model, audio)], names)[0]


def caption(model: "SlapModel | DualEncoder", audio: str | None, beam: int = 1) -> str:
    """Returns a caption of a recording.

    Raises:
        PageError: There is no recording.
        AudioError: The recording cannot be read, or is silent.
        ExportError: The model has no caption decoder.
    """
    return model.caption([_read(model, audio)], beam=int(beam))[0]


def search_page(
    model: "SlapModel | DualEncoder", index: "SearchIndex | None", text: str, audio: str | None, alike: bool, k: int
) -> tuple[str, list[Hit]]:
    """Searches the folder and returns the hits as HTML, with a player for each, and as a list.

    Args:
        model: Model that made the index.
        index: Index of the folder; None if the page has none.
        text: Text to search for; may be empty if `alike`.
        audio: Path of the recording.
        alike: Search for the recording as well.
        k: Largest number of hits.

    Raises:
        PageError: There is no folder, or neither a text nor a recording to search for.
        SearchError: Another model made the index.
    """
    if index is None:
        raise PageError(
            "there is no folder to search: run `slap index DIR`, then start the page with `slap demo --folder DIR`"
        )
    text = " ".join((text or "").split())
    if not text and not alike:
        raise PageError("type a text to search for, or tick the box to search with your sound")
    hits = search(model, index, text or None, _read(model, audio) if alike else None, int(k))
    return hits_html(hits, index.root, model.sample_rate), hits


def save_hit(hits: Sequence[Hit], number: int, rate: int, folder: Path) -> str:
    """Writes the moment of a hit to a file, for the next question about it.

    Args:
        hits: Hits of the latest search.
        number: Number of the hit, from 1.
        rate: Sample rate of the file in Hz.
        folder: Folder to write to.

    Returns:
        The path of the file.

    Raises:
        PageError: There is no such hit.
        AudioError: The file of the hit can no longer be read.
    """
    if not 1 <= number <= len(hits):
        raise PageError(f"there are {len(hits)} hits; search first, then choose one by its number")
    hit = hits[int(number) - 1]
    path = folder / f"{Path(hit.path).stem} at {hit.start:.1f} s.flac"
    path.write_bytes(encode_flac(to_int16(moment(hit, rate)), rate))
    return str(path)


def hits_html(hits: Sequence[Hit], root: Path, rate: int) -> str:
    """Returns hits as an HTML list: rank, file, time, score and a player of the moment.

    Args:
        hits: Hits, the best first.
        root: Folder of the recordings; names are relative to it.
        rate: Sample rate of the players in Hz.
    """
    if not hits:
        return '<p class="slap-none">Nothing is indexed.</p>'
    rows = []
    for rank, hit in enumerate(hits, 1):
        name = html.escape(Path(hit.path).relative_to(root).as_posix(), quote=True)
        # The cosine of sound with text is small even for a good match, so bars are relative to the best hit.
        width = 100 * max(hit.score, 0) / max(hits[0].score, 1e-6)
        rows.append(
            f'<li class="slap-hit"><span class="slap-rank">{rank}</span>'
            f'<div class="slap-what"><span class="slap-name" title="{name}">{name}</span>'
            f'<span class="slap-when">{_clock(hit.start)} – {_clock(hit.end)}</span>'
            f'<span class="slap-score"><i style="width:{width:.0f}%"></i></span>'
            f'<span class="slap-number">{hit.score:.3f}</span></div>{_player(hit, rate, name)}</li>'
        )
    return f'<ol class="slap-hits">{"".join(rows)}</ol>'


def moment(hit: Hit, rate: int) -> Float[np.ndarray, " n"]:
    """Reads the moment of a hit, and only that part of the file if its format allows seeking.

    Raises:
        AudioError: The file can no longer be read.
    """
    try:
        with soundfile.SoundFile(hit.path) as file:
            file.seek(min(round(hit.start * file.samplerate), max(file.frames - 1, 0)))
            samples = file.read(round((hit.end - hit.start) * file.samplerate), dtype="float32", always_2d=True)
            return load_audio((samples, file.samplerate), rate, name=hit.path)
    except (soundfile.SoundFileError, RuntimeError):
        return load_audio(hit.path, rate)[round(hit.start * rate) : round(hit.end * rate)]


def _player(hit: Hit, rate: int, name: str) -> str:
    try:
        sound = base64.b64encode(encode_flac(to_int16(moment(hit, rate)), rate)).decode()
    except AudioError as error:
        return f'<span class="slap-none">{html.escape(str(error))}</span>'
    return f'<audio controls preload="metadata" aria-label="{name}" src="data:audio/flac;base64,{sound}"></audio>'


def _given(audio: str | None) -> str:
    if not audio:
        raise PageError("there is no sound yet: record one, or drop a file")
    return audio


def _read(model: "SlapModel | DualEncoder", audio: str | None) -> DecodedFile:
    """Decodes the recording; messages of the model then name the file, not its number in a list."""
    path = _given(audio)
    return DecodedFile(Path(path).name, _with_sound(path, model.sample_rate), model.sample_rate)


def _with_sound(path: str, rate: int) -> Float[np.ndarray, " n"]:
    samples = load_audio(path, rate)
    check = SilenceCheck()
    check.hear(samples)
    if check.silent:
        raise silence_error(Path(path).name)
    return samples


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"
