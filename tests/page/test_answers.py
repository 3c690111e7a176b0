"""The answers of the page without a browser, on a stand-in for a model, and the contents of its picture."""

import base64
import io
import re
from typing import Any

import numpy as np
import pytest
import soundfile

from slap_jax.data.audio import AudioError
from slap_jax.drawing.theme import PRINT, drawing
from slap_jax.inference.long_audio import Scores
from slap_jax.inference.model import SlapModel
from slap_jax.page import answers
from slap_jax.page.answers import PageError, hits_html, moment, search_page, split_lines, timeline_figure
from slap_jax.search.index import SearchError, SearchIndex
from slap_jax.search.search import Hit
from slap_jax.search.update import update_index
from tests.inference.tiny import shared_params, tiny_config, tiny_tokenizer
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
    assert base64.b64decode(re.findall(r"base64,([^\"]+)", page)[0]).startswith(b"\x89PNG")


def test_timeline_shows_the_beginning_of_a_long_recording(model, folder, monkeypatch):
    monkeypatch.setattr(answers, "LONGEST_SHOWN", 2.0)
    page = answers.timeline(model, str(folder / "a" / '<b> & "long".wav'), "tone 1")
    assert "Only the first 2 s of 22 s are shown." in page
    assert max(model.heard) <= 0.16 * RATE and len(model.heard) == 13
    assert "shown" not in answers.timeline(model, str(folder / "low.wav"), "tone 1")


def test_text_is_escaped(model, folder, monkeypatch):
    monkeypatch.setattr(model, "embed_text", lambda texts: np.eye(4, dtype=np.float32)[: len(texts)])
    page = answers.timeline(model, str(folder / "low.wav"), '<img src=x onerror="alert(1)">')
    assert page.count("<img") == 1 and "&lt;img src=x onerror=&quot;alert(1)&quot;&gt;" in page


def test_classify_and_caption(model, folder):
    probabilities = answers.classify(model, str(folder / "low.wav"), "tone 3, tone 0")
    assert list(probabilities) == ["tone 0", "tone 3"] and probabilities["tone 0"] == pytest.approx(1)
    assert answers.caption(model, str(folder / "low.wav"), 2) == "tone 0 again"


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
    ):
        with pytest.raises(PageError, match=message):
            ask()


def test_search(model, folder):
    update_index(model, folder)
    index = SearchIndex(folder)
    page = search_page(model, index, " tone 2 ", None, False, 2)
    assert page.count("<li") == 2 and "<b>" not in page
    assert 'title="a/&lt;b&gt; &amp; &quot;long&quot;.wav"' in page and "0:15.0 – 0:22.0" in page and "100%" in page
    (best, rate), second = sounds(page)
    assert rate == RATE and len(best) == 7 * RATE and len(second[0]) == 10 * RATE
    np.testing.assert_allclose(best, np.concatenate([tone(1, 12), tone(2, 10)])[15 * RATE :], atol=2 / 32_768)

    page = search_page(model, index, "", str(folder / "low.wav"), True, 1)
    assert page.count("<li") == 1 and ">low.wav<" in page
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
    page = search_page(model, index, "tone 0", None, False, 2)
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


def scores(columns: int, texts: int, seconds: float) -> Scores:
    start = 0.16 * np.arange(columns)
    values = np.random.default_rng(0).normal(size=(columns, texts)).astype(np.float32)
    return Scores(start, np.minimum(start + 0.16, seconds), values)


def draw(log_mel: np.ndarray, seconds: float, given: Scores, texts: list[str]) -> Any:
    with drawing(PRINT):
        figure = timeline_figure(log_mel, seconds, given, texts)
        figure.canvas.draw()
    return figure


def test_sound_and_lines_share_their_seconds():
    given = scores(columns=7, texts=2, seconds=1.0)
    figure = draw(np.random.default_rng(1).normal(size=(7 * 16, 64)), 1.0, given, ["a dog barks", "x" * 50])
    above, below = figure.axes
    assert above.get_xlim() == below.get_xlim() == (0, 1.0)
    assert above.images[0].get_extent() == [0, pytest.approx(1.12), 0, 64]  # frames cover whole columns
    for number, line in enumerate(below.patches):
        values, edges, _ = line.get_data()
        assert values.tolist() == given.scores[:, number].tolist()
        assert edges.tolist() == pytest.approx([0, 0.16, 0.32, 0.48, 0.64, 0.8, 0.96, 1.0])
    labels = [text.get_text() for text in below.get_legend().get_texts()]
    assert labels == ["a dog barks", "x" * 33 + "…"]
    assert len({line.get_edgecolor() for line in below.patches}) == 2


def test_a_click_in_a_long_recording_is_seen():
    log_mel = np.full((9_000, 64), -23.0)
    log_mel[4_321, 10] = 2.0
    figure = draw(log_mel, 90.0, scores(563, 1, 90.0), ["a click"])
    picture = figure.axes[0].images[0].get_array()
    assert picture.shape[1] <= 2_000 and picture.max() == 2.0
    place = np.unravel_index(picture.argmax(), picture.shape)
    assert place[0] == 10 and place[1] / picture.shape[1] == pytest.approx(4_321 / 9_000, abs=2e-3)


def test_a_clip_of_one_column():
    figure = draw(np.zeros((16, 64)), 0.1, scores(1, 1, 0.1), ["short"])
    assert figure.axes[1].get_xlim() == (0, 0.1) and len(figure.axes[1].patches) == 1


@pytest.mark.compile
def test_a_silent_recording_is_refused_as_in_python_and_by_the_commands(tmp_path):
    """By the model itself, so that every question gets the same answer."""
    tokenizer = tiny_tokenizer(tmp_path / "words.model")
    model = SlapModel(tiny_config(), shared_params(), tokenizer)
    silent = str(tmp_path / "silent.wav")
    soundfile.write(silent, np.zeros(RATE), RATE)
    for ask in (
        lambda: answers.classify(model, silent, "dog, cat"),
        lambda: answers.caption(model, silent),
        lambda: answers.timeline(model, silent, "rain"),
        lambda: model.embed_audio(silent),
    ):
        with pytest.raises(AudioError, match=f"^{re.escape(silent)} is silent: .*leave it out$"):
            ask()
