import dataclasses
import json
import re
import sys

import matplotlib.image
import numpy as np
import pytest
import soundfile

from slap_jax.batch import PackedBatch
from slap_jax.config.defaults import source
from slap_jax.data.batches.pipeline import DataMismatchError, TrainBatches
from slap_jax.data.inspect.show import CLIPS_FILE, DEFAULT_ROWS, ShowError, read_rows, row_lines, row_log_mel, show
from slap_jax.data.log_mel import clip_log_mel
from slap_jax.data.records import clip_key, open_split
from slap_jax.drawing.theme import DrawingError
from tests.data.tiny_data import tiny_config, tiny_dataset

FIELDS = [field.name for field in dataclasses.fields(PackedBatch)]


@pytest.fixture(scope="module")
def config(dataset, tokenizer, tmp_path_factory):
    """Returns a mixture of two sources in which clips are cropped and captions are cut."""
    config = tiny_config(dataset, tokenizer, max_seconds=0.6, max_caption_tokens=7, packing_bins=2)
    other = tiny_dataset(tmp_path_factory.mktemp("other"), 5, 2, "other")
    config.data.train.other = source(str(other), "train")
    return config


@pytest.fixture(scope="module")
def shown(config, tokenizer, tmp_path_factory):
    """Returns three rows of step 2, what was printed, and the folder."""
    output, lines = tmp_path_factory.mktemp("shown"), []
    rows = show(config, tokenizer, output, rows=3, step=2, log=lines.append)
    return rows, "\n".join(lines), output


def listed(output):
    return [json.loads(line) for line in (output / CLIPS_FILE).read_text(encoding="utf-8").split("\n") if line]


def test_rows_are_those_of_training(config, tokenizer):
    train = TrainBatches(config, tokenizer)
    batches = [next(train) for _ in range(4)]
    train.close()
    rows = read_rows(config, tokenizer, rows=10, step=2)
    assert [(row.step, row.row) for row in rows] == [(2, i) for i in range(8)] + [(3, 0), (3, 1)]
    for row in rows:
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(row.batch, name)[0], getattr(batches[row.step], name)[row.row])


def test_rows_after_a_checkpoint_are_those_of_training(config, tokenizer):
    train = TrainBatches(config, tokenizer)
    batches = [next(train) for _ in range(3)]
    state = json.loads(json.dumps(train.get_state()))
    batches += [next(train) for _ in range(2)]
    train.close()
    for row in read_rows(config, tokenizer, rows=3, step=4, start=(3, state)):
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(row.batch, name)[0], getattr(batches[4], name)[row.row])
    with pytest.raises(ShowError, match="of step 3 or later"):
        read_rows(config, tokenizer, rows=1, step=2, start=(3, state))
    other = config.copy_and_resolve_references()
    other.seed = 5
    with pytest.raises(DataMismatchError, match="seed"):
        read_rows(other, tokenizer, rows=1, step=3, start=(3, state))


def test_written_sounds_equal_the_stored_ones_bit_for_bit(shown, config):
    _, _, output = shown
    stored = {
        (name, record.id): record.waveform()
        for name in ("tiny", "other")
        for record in open_split(config.data.train[name].path, "train")
    }
    clips = listed(output)
    assert len(clips) > 6 and {clip["source"] for clip in clips} == {"tiny", "other"}
    for clip in clips:
        samples, rate = soundfile.read(output / clip["file"], dtype="int16")
        whole = stored[clip["source"], clip["id"]]
        start = round(16_000 * clip["start_s"])
        assert rate == 16_000 and len(samples) == min(len(whole), 9_600) == round(16_000 * clip["seconds"])
        np.testing.assert_array_equal(samples, whole[start : start + len(samples)])
    assert any(clip["start_s"] > 0 for clip in clips) and any(clip["start_s"] == 0 for clip in clips)


def test_list_of_clips_says_where_each_comes_from(shown, config, tokenizer):
    rows, _, output = shown
    clips = iter(listed(output))
    for number, row in enumerate(rows):
        for slot in range(int(row.batch.clip_valid.sum())):
            clip = next(clips)
            assert clip["file"] == f"row{number}_slot{slot + 1:02d}_{clip['key']}.wav"
            assert (clip["step"], clip["row"], clip["slot"]) == (2, number, slot + 1)
            assert int(clip["key"], 16) == int(row.batch.clip_key[0, slot]) & 0xFFFFFFFF
            assert int(clip["key"], 16) == clip_key(clip["record_source"], clip["id"]) & 0xFFFFFFFF
            assert clip["source"] == list(config.data.train)[row.batch.clip_source[0, slot]]
            record = open_split(config.data.train[clip["source"]].path, "train")[clip["record_number"]]
            assert record.id == clip["id"] and clip["caption"] in record.captions
            assert clip["first_column"] == np.flatnonzero(row.batch.audio_segment_ids[0] == slot + 1)[0]
            whole = tokenizer.encode(clip["caption"], 1_000)
            assert clip["cut_tokens"] == max(0, len(whole) - 7)
            assert clip["tokens"] == (whole if len(whole) <= 7 else [*whole[:6], whole[-1]])
    assert next(clips, None) is None


def test_an_epoch_has_every_clip_of_its_source_once(config, tokenizer):
    clips = [clip for row in read_rows(config, tokenizer, rows=64, step=0) for clip in row.clips]
    for name, count in (("tiny", 24), ("other", 5)):
        epochs: dict[int, list[int]] = {}
        for clip in clips:
            if clip.source == name:
                epochs.setdefault(clip.epoch, []).append(clip.record_number)
        assert all(len(set(numbers)) == len(numbers) <= count for numbers in epochs.values())
        assert min(epochs) == 0 and any(sorted(numbers) == list(range(count)) for numbers in epochs.values())


def test_cut_clips_and_captions_are_printed(shown):
    rows, printed, _ = shown
    clips = [clip for row in rows for clip in row.clips]
    for clip in clips:
        assert clip.planned.record.id in printed and clip.key in printed
    cut = [clip for clip in clips if clip.cut_tokens]
    assert cut and printed.count("[cut: ") == len(cut)
    cropped = [clip for clip in clips if clip.planned.record.duration_s > 0.6]
    assert cropped and printed.count(" s, from ") == len(cropped)
    columns = int((rows[0].batch.audio_segment_ids > 0).sum())
    assert f"step 2, row 0: {columns} of 16 columns ({100 * columns / 16:.1f} %)" in printed


def test_pictures_show_the_rows(shown, config):
    rows, _, output = shown
    assert sorted(path.name for path in output.glob("*.png")) == ["row0.png", "row1.png", "row2.png"]
    for number in range(3):
        picture = matplotlib.image.imread(output / f"row{number}.png")[..., :3]
        assert picture.shape[1] > 1_000 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 50
    mel = row_log_mel(rows[0], config.audio)
    frames = 16 * int(np.sum(rows[0].batch.audio_segment_ids == 1))
    np.testing.assert_array_equal(mel[:frames], clip_log_mel(rows[0].clips[0].waveform, config.audio))
    unused = 16 * int(np.sum(rows[0].batch.audio_segment_ids > 0))
    assert mel.shape == (16 * 16, 64) and (mel[unused:] == np.float32(np.log(1e-5))).all()


def test_a_second_call_removes_the_files_of_the_first(config, tokenizer, tmp_path):
    (tmp_path / "mine.wav").write_bytes(b"kept")
    show(config, tokenizer, tmp_path, rows=2, log=lambda line: None)
    first = {path.name for path in tmp_path.iterdir()}
    show(config, tokenizer, tmp_path, rows=1, step=1, log=lambda line: None)
    second = {path.name for path in tmp_path.iterdir()}
    assert second == {"mine.wav", CLIPS_FILE, "row0.png", *(clip["file"] for clip in listed(tmp_path))} != first


def test_a_foreign_file_is_not_overwritten(config, tokenizer, tmp_path):
    manifest = '{"path": "dog.wav", "caption": "a dog"}\n'
    (tmp_path / CLIPS_FILE).write_text(manifest)
    with pytest.raises(ShowError, match="another folder"):
        show(config, tokenizer, tmp_path, log=lambda line: None)
    assert (tmp_path / CLIPS_FILE).read_text() == manifest and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("rows", "step"), [(0, 0), (1, -1)])
def test_impossible_rows(config, tokenizer, tmp_path, rows, step):
    with pytest.raises(ShowError, match="expected at least one row, of step 0 or later"):
        show(config, tokenizer, tmp_path, rows, step)


def test_missing_matplotlib_names_the_extra_before_anything_is_read(config, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(DrawingError, match=r"slap_jax\[demo\]"):
        show(config, tokenizer, tmp_path / "shown")
    assert not (tmp_path / "shown").exists()


def test_long_captions_are_broken_into_lines(config, tokenizer):
    row = read_rows(config, tokenizer, rows=1, step=0)[0]
    long = dataclasses.replace(row.clips[0], text="word " * 100, cut_tokens=3)
    lines = row_lines(dataclasses.replace(row, clips=[long]))
    assert max(map(len, lines)) <= 140 and len(lines) > 6 and "[cut: 3 of " in lines[-2]


def test_the_rows_with_most_clips_are_shown_unless_a_number_is_given(dataset, tokenizer):
    config = tiny_config(dataset, tokenizer, packing_bins=2)  # clips of 0.1 to 2.56 s
    batch = read_rows(config, tokenizer, config.data.rows, 0)
    counts = [len(row.clips) for row in batch]
    assert len(set(counts)) > 1
    shown = read_rows(config, tokenizer, None, 0)
    assert [row.row for row in shown] == sorted(row.row for row in shown) and len(shown) == DEFAULT_ROWS == 2
    assert sorted(len(row.clips) for row in shown) == sorted(counts)[-2:]
    for row in shown:  # exactly as training sees them
        np.testing.assert_array_equal(row.batch.waveform, batch[row.row].batch.waveform)
        np.testing.assert_array_equal(row.batch.text_tokens, batch[row.row].batch.text_tokens)
        assert [clip.key for clip in row.clips] == [clip.key for clip in batch[row.row].clips]


def test_a_lead_in_is_part_of_the_shown_sound(config, tokenizer, tmp_path):
    late = config.copy_and_resolve_references()
    late.data.max_seconds = 2.56
    late.data.augment.lead_in_seconds = 1.0
    lines = []
    rows = show(late, tokenizer, tmp_path, rows=8, log=lines.append)
    clips = [clip for row in rows for clip in row.clips]
    assert sum(clip.planned.lead_in > 0 for clip in clips) >= 5
    for clip, written in zip(clips, listed(tmp_path), strict=True):
        whole = clip.planned.record.waveform()[clip.planned.start :][: clip.planned.samples]
        np.testing.assert_array_equal(clip.waveform[clip.planned.lead_in :], whole)
        assert not clip.waveform[: clip.planned.lead_in].any()
        assert (
            written["lead_in_s"] == clip.planned.lead_in / 16_000 and written["seconds"] == len(clip.waveform) / 16_000
        )
        assert clip.is_cropped == (len(clip.planned.record.waveform()) > 40_960)
    assert re.search(r" s, the first [01]\.\d\d s silent  ", "\n".join(lines))
