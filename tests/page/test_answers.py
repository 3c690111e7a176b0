"""The answers of the page without a browser, on a stand-in for a model, and the contents of its picture."""

import base64
import csv
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from slap_jax.data.audio import AudioError
from slap_jax.other_models.dual_encoder import DualEncoder
from slap_jax.page import answers
from slap_jax.page.answers import PageError, hits_html, moment, save_hit, search_page, split_lines
from slap_jax.search.index import SearchError, SearchIndex
from slap_jax.search.search import Hit
from slap_jax.search.update import update_index
from tests.search.fake_model import RATE, FakeModel, tone, write


@pytest.fixture
def model() -> Any:
    return FakeModel()


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "low.wav", tone(0, 1))
    write(tmp_path / "a" / '<b> & "long".wav', tone(1, 12), tone(2, 10))
    return tmp_path


def sounds(page: str) -> list[tuple[np.ndarray, int]]:
    return [
        soundfile.read(io.BytesIO(base64.b64decode(data)))
        for data in re.findall(r'src="data:audio/flac;base64,([^"]+)"', page)
    ]


def test_split_lines():
    assert split_lines(" a dog  barks,rain;\n\nrain\nspeech ") == ["a dog barks", "rain", "speech"]
    assert split_lines("") == split_lines(" ,\n") == []


def test_timeline(model, folder):
    page = answers.timeline(model, str(folder / "a" / '<b> & "long".wav'), "tone 1\ntone 2")
    assert re.search(r"Highest: tone 1 at \d+\.\d s \(1\.00\), tone 2 at 1\d\.\d s \(1\.00\)\.</p>", page)
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(set(pictures)) == 4  # wide and narrow, light and dark
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in pictures)
    (table,) = re.findall(r'href="data:text/csv;base64,([^"]+)"', page)
    rows = list(csv.reader(io.StringIO(base64.b64decode(table).decode())))
    assert rows[0] == ["start", "end", "tone 1", "tone 2"] and len(rows) == 1 + len(np.arange(0, 22, 0.16))
    assert [float(value) for value in rows[1]] == pytest.approx([0, 0.16, 1, 0], abs=1e-3)


def test_timeline_shows_the_beginning_of_a_long_recording(model, folder, monkeypatch):
    monkeypatch.setattr(answers, "LONGEST_SHOWN", 2.0)
    page = answers.timeline(model, str(folder / "a" / '<b> & "long".wav'), "tone 1")
    assert "Only the first 2 s of 22 s are shown." in page
    assert max(model.heard) <= 0.16 * RATE and len(model.heard) == 13
    assert "shown" not in answers.timeline(model, str(folder / "low.wav"), "tone 1")


def test_text_is_escaped(model, folder, monkeypatch):
    monkeypatch.setattr(model, "embed_text", lambda texts: np.eye(4, dtype=np.float32)[: len(texts)])
    page = answers.timeline(model, str(folder / "low.wav"), '<img src=x onerror="alert(1)">')
    assert page.count("<img") == 4 and "&lt;img src=x onerror=&quot;alert(1)&quot;&gt;" in page


def test_classify_and_caption(model, folder):
    probabilities = answers.classify(model, str(folder / "low.wav"), "tone 3, tone 0")
    assert list(probabilities) == ["tone 0", "tone 3"] and probabilities["tone 0"] == pytest.approx(1)
    assert answers.caption(model, str(folder / "low.wav"), 2) == "tone 0 again"


def test_a_recording_is_checked_when_it_is_given(model, folder):
    """Silence and files that are not audio are refused at once, in the words of the commands, without a path."""
    assert answers.heard(model, None) == ""
    assert answers.heard(model, str(folder / "low.wav")) == "1.0 s. Now ask a question."
    write(folder / "silent.wav", np.zeros(RATE, np.float32))
    (folder / "note.wav").write_text("no audio")
    for ask in (
        lambda path: answers.heard(model, path),
        lambda path: answers.classify(model, path, "tone 1, tone 2"),
        lambda path: answers.caption(model, path),
        lambda path: answers.timeline(model, path, "tone 1"),
    ):
        with pytest.raises(AudioError, match=r"^silent\.wav is silent: .*; leave it out"):
            ask(str(folder / "silent.wav"))
        with pytest.raises(AudioError, match="is not readable as audio"):
            ask(str(folder / "note.wav"))


def test_the_page_says_what_the_model_is(model, folder, tmp_path):
    line = answers.describe(model, "toy")
    assert line == (
        "Model `toy` (fake00000001): embeds sound at 16,000 Hz as 4 numbers, "
        "up to 30 s at once and longer recordings in windows; describes sounds in words."
    )
    assert answers.model_card(tmp_path) == ""
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n\n# A toy\n---\n")
    assert answers.model_card(tmp_path) == "# A toy\n---"
    assert answers.examples(None) == []
    update_index(model, folder)
    names = [Path(path).name for path in answers.examples(SearchIndex(folder))]
    assert names == ['<b> & "long".wav', "low.wav"]


def test_a_model_of_another_family_is_compared_window_by_window(folder):
    encoder = ToneEncoder()
    page = answers.timeline(DualEncoder(encoder), str(folder / "a" / '<b> & "long".wav'), "tone 1\ntone 2")
    (table,) = re.findall(r'href="data:text/csv;base64,([^"]+)"', page)
    rows = np.array(list(csv.reader(io.StringIO(base64.b64decode(table).decode())))[1:], float)
    assert rows[0, 0] == 0 and rows[-1, 1] == 22 and np.array_equal(rows[1:, 0], rows[:-1, 1])
    change = rows[np.argmax(rows[:, 3] > rows[:, 2]), 0]
    assert change == pytest.approx(12, abs=0.6)


class ToneEncoder:
    """The stand-in as a model of another family."""

    family, source, sample_rate, max_seconds, embed_dim, max_tokens, scale, model_id = (
        "Tone",
        "",
        RATE,
        10.0,
        4,
        9,
        1.0,
        "t",
    )

    def audio_vectors(self, waveforms):
        return FakeModel().embed_audio([(waveform, RATE) for waveform in waveforms])

    def text_vectors(self, texts):
        return FakeModel().embed_text(texts)

    def count_tokens(self, text):
        return len(text.split())


def test_missing_inputs_are_errors(model):
    """Each question names what is missing."""
    for ask, message in (
        (lambda: answers.timeline(model, "x.wav", " \n"), "there are 0 texts; type 1 to 8"),
        (lambda: answers.timeline(model, "x.wav", "a,b,c,d,e,f,g,h,i"), "there are 9 texts"),
        (lambda: answers.timeline(model, None, "tone 1"), "there is no sound yet"),
        (lambda: answers.classify(model, "x.wav", "dog"), "at least two labels"),
        (lambda: answers.classify(model, None, "dog, cat"), "there is no sound yet"),
        (lambda: answers.caption(model, None), "there is no sound yet"),
        (lambda: search_page(model, None, "dog", None, False, 5), "no folder to search"),
        (lambda: save_hit([], 1, RATE, Path()), "there are 0 hits; search first"),
    ):
        with pytest.raises(PageError, match=message):
            ask()


def test_search(model, folder, tmp_path):
    update_index(model, folder)
    index = SearchIndex(folder)
    page, _ = search_page(model, index, " tone 2 ", None, False, 2)
    assert page.count("<li") == 2 and "<b>" not in page
    assert 'title="a/&lt;b&gt; &amp; &quot;long&quot;.wav"' in page and "0:15.0 – 0:22.0" in page and "100%" in page
    (best, rate), second = sounds(page)
    assert rate == RATE and len(best) == 7 * RATE and len(second[0]) == 10 * RATE
    np.testing.assert_allclose(best, np.concatenate([tone(1, 12), tone(2, 10)])[15 * RATE :], atol=2 / 32_768)

    page, hits = search_page(model, index, "", str(folder / "low.wav"), True, 1)
    assert page.count("<li") == 1 and ">low.wav<" in page
    saved = save_hit(hits, 1, RATE, tmp_path)
    assert saved.endswith("low at 0.0 s.flac")
    np.testing.assert_allclose(soundfile.read(saved)[0], tone(0, 1), atol=2 / 32_768)
    with pytest.raises(PageError, match="there are 1 hits"):
        save_hit(hits, 2, RATE, tmp_path)
    with pytest.raises(PageError, match="type a text to search for, or tick"):
        search_page(model, index, " ", str(folder / "low.wav"), False, 1)
    with pytest.raises(PageError, match="there is no sound yet"):
        search_page(model, index, "tone 1", None, True, 1)
    other: Any = FakeModel("another00001")
    with pytest.raises(SearchError, match="made with model"):
        search_page(other, index, "tone 1", None, False, 1)


def test_a_hit_of_a_deleted_file(model, folder):
    update_index(model, folder)
    index = SearchIndex(folder)
    (folder / "low.wav").unlink()
    page, _ = search_page(model, index, "tone 0", None, False, 2)
    assert "low.wav is missing" in page and page.count("<audio") == 1
    assert "Nothing is indexed" in hits_html([], folder, RATE)


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_moments_are_cut_at_their_seconds(tmp_path, rate):
    ramp = np.linspace(-0.5, 0.5, 10 * rate, dtype=np.float32)
    soundfile.write(tmp_path / "ramp.flac", np.stack([ramp, ramp], axis=1), rate)
    cut = moment(Hit(str(tmp_path / "ramp.flac"), 2.5, 4.0, 1.0), RATE)
    assert len(cut) == 24_000
    np.testing.assert_allclose(cut[100:-100], np.linspace(-0.25, -0.1, 24_000)[100:-100], atol=1e-3)
    with pytest.raises(AudioError, match="missing"):
        moment(Hit(str(tmp_path / "gone.wav"), 0, 1, 1.0), RATE)
