"""`slap data show`: prints, draws and writes as WAV rows of training batches exactly as the model receives them."""

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

from slap_jax.atomic import write_text_atomic
from slap_jax.batch import PADDING_SEGMENT, PackedBatch
from slap_jax.config.defaults import samples_per_column
from slap_jax.data.audio import SAMPLE_RATE
from slap_jax.data.batches.augment import Augmenter
from slap_jax.data.batches.clips import PlannedClip
from slap_jax.data.batches.pipeline import TrainBatches
from slap_jax.data.batches.rows import RowAssembler, open_sources, planned_rows
from slap_jax.data.batches.stream import mixing_weights
from slap_jax.data.log_mel import clip_log_mel
from slap_jax.data.tokenizer import Tokenizer
from slap_jax.drawing.packed_row import PackedRow, row_figure, segment_span
from slap_jax.drawing.theme import PRINT, drawing
from slap_jax.errors import UserError

CLIPS_FILE = "clips.jsonl"
DEFAULT_ROWS = 2
_PRINTED_WIDTH = 110


class ShowError(UserError, ValueError):
    """The requested rows cannot be shown."""


@dataclasses.dataclass(frozen=True)
class ShownClip:
    """A clip of a row.

    Attributes:
        slot: from 1, as in `audio_segment_ids` and the picture.
        source: its name in `config.data.train`.
        record_number: position in the split of the source.
        epoch: number of completed passes over the source.
        planned: record, caption, tokens, crop and lead-in.
        waveform: the lead-in and the crop after augmentation, as the model hears them.
        first_column: its first column in the row.
        text: the caption as the model reads it, decoded from the tokens.
        cut_tokens: number of caption tokens cut by `config.data.max_caption_tokens`.
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
        """Duration in the row, with the lead-in."""
        return len(self.waveform) / SAMPLE_RATE

    @property
    def key(self) -> str:
        """`clip_key` of the batch as eight hexadecimal digits."""
        return f"{self.planned.record.key & 0xFFFFFFFF:08x}"

    @property
    def is_cropped(self) -> bool:
        """Whether the record is longer than the crop."""
        return round(self.planned.record.duration_s * SAMPLE_RATE) > self.planned.samples


@dataclasses.dataclass(frozen=True)
class ShownRow:
    """A row of a global batch.

    Attributes:
        step: training step, from 0.
        row: row of the global batch, from 0.
        batch: this row alone.
        clips: clips in slot order.
    """

    step: int
    row: int
    batch: PackedBatch
    clips: list[ShownClip]


def show(
    config: ConfigDict,
    tokenizer: Tokenizer,
    output: Path,
    rows: int | None = None,
    step: int = 0,
    start: tuple[int, Mapping[str, Any]] | None = None,
    log: Callable[[str], None] = print,
) -> list[ShownRow]:
    """Prints, draws and writes as WAV rows of a training step.

    Args:
        config: the whole config.
        tokenizer: tokenizer of `config.data.tokenizer`.
        output: receives `row<n>.png`, a WAV file per clip, and `clips.jsonl`; files of an earlier call are removed.
        rows: number of rows, the first of the step, and those of later steps if it has too few; None shows the
            `DEFAULT_ROWS` rows of the step with most clips.
        step: training step, from 0.
        start: an earlier step and the data state of its checkpoint, where planning starts.
        log: receives each line.

    Returns:
        The rows.

    Raises:
        RecordsError: a source is not prepared or lacks the split.
        DataMismatchError: `start` belongs to other data or settings.
        ShowError: no rows are requested, the step precedes `start`, or `output` has a `clips.jsonl` of another origin.
        DrawingError: matplotlib is not installed.
    """
    with drawing(PRINT):
        pass  # raises before anything is read if matplotlib is missing
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
    write_text_atomic(output / CLIPS_FILE, "".join(lines))
    log(f"{output}: {len(shown)} pictures, {len(described)} WAV files, {CLIPS_FILE}")
    return shown


def read_rows(
    config: ConfigDict,
    tokenizer: Tokenizer,
    rows: int | None,
    step: int,
    start: tuple[int, Mapping[str, Any]] | None = None,
) -> list[ShownRow]:
    """Reads rows of training; earlier rows are planned but not decoded.

    Args:
        config: the whole config.
        tokenizer: tokenizer of `config.data.tokenizer`.
        rows: number of rows from the first on; None reads the `DEFAULT_ROWS` rows of the step with most clips.
        step: step of the first row, from 0.
        start: an earlier step and the data state of its checkpoint, where planning starts; None starts at step 0.

    Raises:
        DataMismatchError: `start` belongs to other data or settings.
        ShowError: no rows are requested, or the step precedes `start`.
    """
    first = 0 if start is None else start[0]
    if (rows is not None and rows < 1) or step < first:
        count = DEFAULT_ROWS if rows is None else rows
        raise ShowError(
            f"{count} rows of step {step} are requested; expected at least one row, of step {first} or later"
        )
    data, sources = config.data, open_sources(config)
    counts = {name: len(records) for name, records in sources.items()}
    weights = [float(data.train[name].weight) for name in sources]
    fractions = mixing_weights(weights, list(counts.values()), data.temperature)
    plan = planned_rows(config, tokenizer, sources, fractions, range(data.virtual_shards))
    assemble = RowAssembler(config, sources, Augmenter(data.augment))
    try:
        if start is not None:
            plan.set_state(_shard_states(config, tokenizer, start[1]))
        for _ in tqdm(range(step - first), desc="planning", unit=" steps", disable=None, leave=False):
            next(plan)
        shown: list[ShownRow] = []
        while len(shown) < (rows or DEFAULT_ROWS):
            planned = next(plan)
            chosen = _fullest(planned) if rows is None else range(min(rows - len(shown), len(planned)))
            batch = assemble([planned[row] for row in chosen])
            shown += [
                _shown_row(step, row, _row_of(batch, number), planned[row], counts, tokenizer, config.audio)
                for number, row in enumerate(chosen)
            ]
            if rows is None:
                break
            step += 1
    finally:
        plan.close()
    return shown


def _fullest(planned: Sequence[Sequence[PlannedClip]]) -> list[int]:
    """Returns the rows with most clips, which show how clips are packed, in the order of the batch."""
    return sorted(sorted(range(len(planned)), key=lambda row: -len(planned[row]))[:DEFAULT_ROWS])


def _shard_states(config: ConfigDict, tokenizer: Tokenizer, state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the states of the virtual shards, checked against data and settings as when training resumes."""
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
                waveform=batch.waveform[0, begin : begin + clip.lead_in + clip.samples],
                first_column=first,
                text=tokenizer.decode(clip.tokens),
                cut_tokens=tokenizer.length(clip.caption) - len(clip.tokens) if clip.tokens else 0,
            )
        )
    return ShownRow(step, row, batch, clips)


def row_title(row: ShownRow) -> str:
    """Describes in one line how full a row is."""
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
    """Formats a row as text: how full it is, and the origin, crop and caption of each clip."""
    lines = [row_title(row)]
    for clip in row.clips:
        lines.append(
            f"{clip.slot:4} {clip.seconds:6.2f} s{_crop_text(clip)}  {clip.source}, epoch {clip.epoch}, "
            f"key {clip.key}: {clip.planned.record.id}"
        )
        cut = f" [cut: {clip.cut_tokens} of {clip.cut_tokens + len(clip.planned.tokens)} tokens]"
        cut = cut if clip.cut_tokens else ""
        lines += textwrap.wrap(clip.text + cut, _PRINTED_WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return [*lines, ""]


def _crop_text(clip: ShownClip) -> str:
    if clip.is_cropped:
        return f" of {clip.planned.record.duration_s:.2f} s, from {clip.planned.start / SAMPLE_RATE:.2f} s"
    if clip.planned.lead_in:
        return f", the first {clip.planned.lead_in / SAMPLE_RATE:.2f} s silent"
    return ""


def describe_clip(clip: ShownClip) -> dict[str, Any]:
    """Returns everything about a clip except its samples as JSON values."""
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
        "lead_in_s": clip.planned.lead_in / SAMPLE_RATE,
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
    """Draws a row as PNG: waveform, log-mel, segments of columns and text tokens, captions.

    Raises:
        DrawingError: matplotlib is not installed.
    """
    captions = []
    for clip in row.clips:
        cut = " …" if clip.cut_tokens else ""
        captions.append(f"{clip.text}{cut} ({clip.seconds:.2f} s{_crop_text(clip)}; {clip.source})")
    drawn = PackedRow(row.batch, captions, row_log_mel(row, audio), audio)
    with drawing(PRINT):
        row_figure(drawn, PRINT, with_captions=True, title=row_title(row)).savefig(path, dpi=130)


def row_log_mel(row: ShownRow, audio: ConfigDict) -> Float[np.ndarray, "frames mels"]:
    """Computes the log-mel of a row clip by clip, as the model does; padding has the floor."""
    frames = audio.frames_per_column
    columns = row.batch.audio_segment_ids.shape[1]
    mel = np.full((columns * frames, audio.mels), np.log(audio.log_floor), np.float32)
    for clip in row.clips:
        part = clip_log_mel(clip.waveform, audio)
        mel[clip.first_column * frames : clip.first_column * frames + len(part)] = part
    return mel


def _wav_name(row: int, clip: ShownClip) -> str:
    return f"row{row}_slot{clip.slot:02d}_{clip.key}.wav"


def _remove_earlier(output: Path) -> None:
    """Removes the files that an earlier call listed, so that no picture or sound of other rows remains."""
    listed = output / CLIPS_FILE
    if not listed.is_file():
        return
    try:
        clips = [json.loads(line) for line in listed.read_text(encoding="utf-8").split("\n") if line]
        names = {Path(clip[kind]).name for clip in clips for kind in ("file", "picture")}
    except (ValueError, KeyError, TypeError):
        raise ShowError(
            f"{listed} was not written by `slap data show`, which would overwrite it; choose another folder"
        ) from None
    for name in names:
        (output / name).unlink(missing_ok=True)
    listed.unlink()
