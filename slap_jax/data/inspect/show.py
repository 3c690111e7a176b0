"""`slap data show`: rows of the next training batches, to look at and to listen to, as the model gets them."""

import dataclasses
import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from jaxtyping import Float, Int16
from ml_collections import ConfigDict
from tqdm import tqdm

from slap_jax.batch import PADDING_SEGMENT, PackedBatch
from slap_jax.config.defaults import samples_per_column
from slap_jax.data.audio import SAMPLE_RATE
from slap_jax.data.batches.augment import Augmenter
from slap_jax.data.batches.clips import PlannedClip
from slap_jax.data.batches.pipeline import TrainBatches
from slap_jax.data.batches.rows import RowAssembler, open_sources, planned_rows
from slap_jax.data.batches.stream import mixing_weights
from slap_jax.data.inspect.measure import log_mel
from slap_jax.data.tokenizer import Tokenizer
from slap_jax.drawing.packed_row import PackedRow, row_figure, segment_span
from slap_jax.drawing.theme import PRINT, drawing
from slap_jax.errors import UserError

CLIPS_FILE = "clips.jsonl"
_PRINTED_WIDTH = 110


class ShowError(UserError, ValueError):
    """Rows that cannot be shown; the message says what to ask for."""


@dataclasses.dataclass(frozen=True)
class ShownClip:
    """A clip of a row.

    Attributes:
        slot: counted from 1, as `audio_segment_ids` and the picture do.
        source: its name in `config.data.train`.
        record_number: of the record in the source's split.
        epoch: how often the source was gone through before.
        planned: record, caption, tokens and part.
        waveform: what the model hears: the part, augmented.
        first_column: of the row.
        text: the caption as the model reads it.
        cut_tokens: of the caption, that `config.data.max_caption_tokens` left no room for.
    """

    slot: int
    source: str
    record_number: int
    epoch: int
    planned: PlannedClip
    waveform: Int16[np.ndarray, " n"]
    first_column: int
    text: str
    cut_tokens: int

    @property
    def seconds(self) -> float:
        """Duration in the row."""
        return len(self.waveform) / SAMPLE_RATE

    @property
    def key(self) -> str:
        """The key of the recording, `clip_key` of the batch, as eight hexadecimal digits."""
        return f"{self.planned.record.key & 0xFFFFFFFF:08x}"

    @property
    def is_cropped(self) -> bool:
        """Whether the record is longer than what is taken of it."""
        return round(self.planned.record.duration_s * SAMPLE_RATE) > len(self.waveform)


@dataclasses.dataclass(frozen=True)
class ShownRow:
    """A row of a global batch.

    Attributes:
        step: of training, from 0.
        row: of the global batch, from 0.
        batch: that row alone.
        clips: in slot order.
    """

    step: int
    row: int
    batch: PackedBatch
    clips: list[ShownClip]


def show(
    config: ConfigDict,
    tokenizer: Tokenizer,
    output: Path,
    rows: int = 2,
    step: int = 0,
    start: tuple[int, Mapping[str, Any]] | None = None,
    log: Callable[[str], None] = print,
) -> list[ShownRow]:
    """Prints, draws and writes as WAV the first rows of a training step, and of the steps after it as needed.

    Args:
        config: the whole config.
        tokenizer: of `config.data.tokenizer`.
        output: receives `row<n>.png`, a WAV of each clip, and `clips.jsonl`; what an earlier call wrote there goes.
        rows: how many.
        step: of training, from 0.
        start: an earlier step, and the data state of that step's checkpoint, to plan from.
        log: receives each line.

    Returns:
        What was shown.

    Raises:
        RecordsError: a source is not prepared or lacks the split.
        DataMismatchError: `start` belongs to other data or settings.
        ShowError: no rows are asked for, the step lies before `start`, or `output` holds another `clips.jsonl`.
        DrawingError: matplotlib is not installed.
    """
    with drawing(PRINT):
        pass  # a missing matplotlib is an error before anything is read
    output.mkdir(parents=True, exist_ok=True)
    _remove_earlier(output)
    shown = read_rows(config, tokenizer, rows, step, start)
    described = []
    for number, row in enumerate(shown):
        files = [_wav_name(number, clip) for clip in row.clips]
        for line in row_lines(row):
            log(line)
        for clip, file in zip(row.clips, files, strict=True):
            soundfile.write(output / file, clip.waveform, SAMPLE_RATE, subtype="PCM_16")
            place = {"file": file, "picture": f"row{number}.png", "step": row.step, "row": row.row}
            described.append({**place, **describe_clip(clip)})
        save_picture(row, config.audio, output / f"row{number}.png")
    lines = (json.dumps(clip, ensure_ascii=False) + "\n" for clip in described)
    (output / CLIPS_FILE).write_text("".join(lines), encoding="utf-8")
    log(f"{output}: a picture of each row, {len(described)} WAV files, {CLIPS_FILE}")
    return shown


def read_rows(
    config: ConfigDict,
    tokenizer: Tokenizer,
    rows: int,
    step: int,
    start: tuple[int, Mapping[str, Any]] | None = None,
) -> list[ShownRow]:
    """Reads rows of training; those that are not shown are planned, but not decoded.

    Args:
        config: the whole config.
        tokenizer: of `config.data.tokenizer`.
        rows: how many.
        step: to which the first row belongs, from 0.
        start: an earlier step, and the data state of that step's checkpoint, to plan from; else it is from step 0.

    Raises:
        DataMismatchError: `start` belongs to other data or settings.
        ShowError: no rows are asked for, or the step lies before `start`.
    """
    first = 0 if start is None else start[0]
    if rows < 1 or step < first:
        raise ShowError(f"{rows} rows of step {step} are asked for; ask for one row or more, of step {first} or later")
    data, sources = config.data, open_sources(config)
    counts = {name: len(records) for name, records in sources.items()}
    weights = [float(data.train[name].weight) for name in sources]
    shares = mixing_weights(weights, list(counts.values()), data.temperature)
    plan = planned_rows(config, tokenizer, sources, shares, range(data.virtual_shards))
    assemble = RowAssembler(config, sources, Augmenter(data.augment))
    try:
        if start is not None:
            plan.set_state(_fitting_state(config, tokenizer, start[1]))
        for _ in tqdm(range(step - first), desc="planning", unit=" steps", disable=None, leave=False):
            next(plan)
        shown: list[ShownRow] = []
        while len(shown) < rows:
            planned = next(plan)[: rows - len(shown)]
            batch = assemble(planned)
            shown += [
                _shown_row(step, row, _row_of(batch, row), clips, counts, tokenizer, config.audio)
                for row, clips in enumerate(planned)
            ]
            step += 1
    finally:
        plan.close()
    return shown


def _fitting_state(config: ConfigDict, tokenizer: Tokenizer, state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the states of the shards, if they are of these data and settings: as training would resume from them."""
    batches = TrainBatches(config, tokenizer)
    try:
        batches.set_state(state)
        return batches.get_state()["states"]
    finally:
        batches.close()


def _row_of(batch: PackedBatch, row: int) -> PackedBatch:
    fields = dataclasses.fields(PackedBatch)
    return PackedBatch(**{field.name: getattr(batch, field.name)[row : row + 1] for field in fields})


def _shown_row(
    step: int,
    row: int,
    batch: PackedBatch,
    planned: Sequence[PlannedClip],
    counts: dict[str, int],
    tokenizer: Tokenizer,
    audio: ConfigDict,
) -> ShownRow:
    names, clips = list(counts), []
    for slot, clip in enumerate(planned):
        first, _ = segment_span(batch.audio_segment_ids[0], slot)
        begin = first * samples_per_column(audio)
        name = names[clip.reference.source]
        clips.append(
            ShownClip(
                slot=slot + 1,
                source=name,
                record_number=clip.reference.record,
                epoch=clip.reference.position // counts[name],
                planned=clip,
                waveform=batch.waveform[0, begin : begin + clip.samples],
                first_column=first,
                text=tokenizer.decode(clip.tokens),
                cut_tokens=tokenizer.length(clip.caption) - len(clip.tokens) if clip.tokens else 0,
            )
        )
    return ShownRow(step, row, batch, clips)


def row_title(row: ShownRow) -> str:
    """Says in one line how full a row is."""
    columns, tokens, slots = (np.asarray(field[0]) for field in _fields(row.batch))
    used = int((columns != PADDING_SEGMENT).sum())
    seconds = sum(clip.seconds for clip in row.clips)
    return (
        f"step {row.step}, row {row.row}: {used} of {len(columns)} columns ({100 * used / len(columns):.1f} %), "
        f"{seconds:.1f} s, {len(row.clips)} of {len(slots)} slots, "
        f"{int((tokens != PADDING_SEGMENT).sum())} of {len(tokens)} text tokens"
    )


def _fields(batch: PackedBatch) -> tuple[Any, Any, Any]:
    return batch.audio_segment_ids, batch.text_segment_ids, batch.clip_valid


def row_lines(row: ShownRow) -> list[str]:
    """Returns a row as text: how full it is, and of each clip where it comes from, what is cut, and its caption."""
    lines = [row_title(row)]
    for clip in row.clips:
        lines.append(
            f"{clip.slot:4} {clip.seconds:6.2f} s{_crop_words(clip)}  {clip.source}, epoch {clip.epoch}, "
            f"key {clip.key}: {clip.planned.record.id}"
        )
        cut = f" [cut: {clip.cut_tokens} of {clip.cut_tokens + len(clip.planned.tokens)} tokens]"
        cut = cut if clip.cut_tokens else ""
        lines += textwrap.wrap(clip.text + cut, _PRINTED_WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return [*lines, ""]


def _crop_words(clip: ShownClip) -> str:
    if not clip.is_cropped:
        return ""
    return f" of {clip.planned.record.duration_s:.2f} s, from {clip.planned.start / SAMPLE_RATE:.2f} s"


def describe_clip(clip: ShownClip) -> dict[str, Any]:
    """Returns a clip as JSON values: all that is known of it but its samples."""
    record = clip.planned.record
    return {
        "slot": clip.slot,
        "source": clip.source,
        "record_number": clip.record_number,
        "epoch": clip.epoch,
        "id": record.id,
        "key": clip.key,
        "first_column": clip.first_column,
        "seconds": clip.seconds,
        "start_s": clip.planned.start / SAMPLE_RATE,
        "record_seconds": round(record.duration_s, 4),
        "text": clip.text,
        "caption": clip.planned.caption,
        "tokens": [int(token) for token in clip.planned.tokens],
        "cut_tokens": clip.cut_tokens,
        "captions": list(record.captions),
        "labels": list(record.labels),
        "record_source": record.source,
        "licence": record.licence,
    }


def save_picture(row: ShownRow, audio: ConfigDict, path: Path) -> None:
    """Draws a row as PNG: waveform, log-mel, owners of columns and of text tokens, captions.

    Raises:
        DrawingError: matplotlib is not installed.
    """
    captions = []
    for clip in row.clips:
        cut = " …" if clip.cut_tokens else ""
        captions.append(f"{clip.text}{cut} ({clip.seconds:.2f} s{_crop_words(clip)}; {clip.source})")
    drawn = PackedRow(row.batch, captions, row_log_mel(row, audio), audio)
    with drawing(PRINT):
        row_figure(drawn, PRINT, with_captions=True, title=row_title(row)).savefig(path, dpi=130)


def row_log_mel(row: ShownRow, audio: ConfigDict) -> Float[np.ndarray, "frames mels"]:
    """Computes the log-mel of a row: of each clip alone, as the model does; the floor where there is none."""
    frames = audio.frames_per_column
    columns = row.batch.audio_segment_ids.shape[1]
    mel = np.full((columns * frames, audio.mels), np.log(audio.log_floor), np.float32)
    for clip in row.clips:
        part = log_mel(clip.waveform, audio)
        mel[clip.first_column * frames : clip.first_column * frames + len(part)] = part
    return mel


def _wav_name(row: int, clip: ShownClip) -> str:
    return f"row{row}_slot{clip.slot:02d}_{clip.key}.wav"


def _remove_earlier(output: Path) -> None:
    """Removes what an earlier call wrote, by its own list: pictures and sounds of other rows would be misleading."""
    listed = output / CLIPS_FILE
    if not listed.is_file():
        return
    try:
        clips = [json.loads(line) for line in listed.read_text(encoding="utf-8").split("\n") if line]
        names = {Path(clip[kind]).name for clip in clips for kind in ("file", "picture")}
    except (ValueError, KeyError, TypeError):
        raise ShowError(
            f"{listed} is there and was not written by `slap data show`, which would overwrite it; give another folder"
        ) from None
    for name in names:
        (output / name).unlink(missing_ok=True)
    listed.unlink()
