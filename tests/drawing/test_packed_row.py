import io

import numpy as np
import pytest

from slap_jax.config.defaults import default_config
from slap_jax.data.packing import Clip, pack_rows
from slap_jax.drawing.packed_row import SLOT_COLOURS, PackedRow, row_figure, segment_span, slot_colour, slot_ink, spread
from slap_jax.drawing.theme import PRINT, drawing

AUDIO = default_config().audio

# Machado, Oliveira, Fernandes, "A physiologically-based model for simulation of color vision
# deficiency" (2009), severity 1.
COLOUR_VISIONS = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def linear(colour: str) -> np.ndarray:
    """Returns linear sRGB of "#rrggbb"."""
    part = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)


def luminance(colour: str) -> float:
    return float(linear(colour) @ [0.2126, 0.7152, 0.0722])


def lab(rgb: np.ndarray) -> np.ndarray:
    """Returns CIE L*a*b* (D65) of linear sRGB."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    ratio = to_xyz @ np.clip(rgb, 0, 1) / [0.9505, 1.0, 1.089]
    x, y, z = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", COLOUR_VISIONS)
def test_colours_of_neighbouring_slots_differ_for_every_colour_vision(vision):
    slots = range(len(SLOT_COLOURS) + 2)
    seen = np.stack([lab(np.asarray(COLOUR_VISIONS[vision]) @ linear(slot_colour(slot))) for slot in slots])
    assert np.linalg.norm(seen[1:] - seen[:-1], axis=1).min() > 30  # a just noticeable difference is about 2
    assert np.linalg.norm(seen[2:] - seen[:-2], axis=1).min() > 20


def test_numbers_are_readable_on_their_colours():
    for slot in range(len(SLOT_COLOURS)):
        light, dark = sorted((luminance(slot_colour(slot)), luminance(slot_ink(slot))), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 4.5  # WCAG 2, level AA


def test_labels_move_apart_no_further_than_needed():
    assert spread([1.0, 5.0, 9.0], 2.0) == [1.0, 5.0, 9.0]
    assert spread([4.0, 4.0, 4.0, 20.0], 2.0) == [2.0, 4.0, 6.0, 20.0]
    moved = spread([0.0, 0.1, 1.0, 1.1, 7.0], 1.0)
    assert np.diff(moved).min() >= 1.0 - 1e-9 and np.mean(moved[:4]) == pytest.approx(0.55)


def test_spans():
    segments = np.array([1, 1, 2, 2, 2, 0])
    assert [segment_span(segments, slot) for slot in range(3)] == [(0, 2), (2, 5), (0, 0)]


def drawn_texts(captions: list[str], clips: int, with_captions: bool = True) -> list[str]:
    """Draws a row of short clips, renders it, and returns all texts in it."""
    tiny = [Clip(np.full(2_000, 9_000, np.int16), [1, 5, 2], key) for key in range(clips)]
    batch, _ = pack_rows(tiny, 128, 64, 300, 2_560)
    row = PackedRow(batch, captions, np.zeros((128 * 16, 64), np.float32), AUDIO)
    with drawing(PRINT):
        figure = row_figure(row, PRINT, with_captions)
        figure.savefig(io.BytesIO())  # every text is laid out here
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_every_slot_is_numbered_however_narrow():
    texts = drawn_texts([f"caption {i}" for i in range(40)], 40)
    numbers = [text for text in texts if text.strip().isdigit()]
    assert sorted(int(number) for number in numbers) == sorted(list(range(1, 41)) * 3)
    assert {f"caption {i}" for i in range(40)} <= set(texts)


def test_any_caption_can_be_written():
    price = r"it costs $5, then $\frac{ and 6$"
    texts = drawn_texts([price, "word " * 500, ""], 3)
    assert price in texts and "(no caption)" in texts
    assert [text.endswith(" …") for text in texts if text.startswith("word")] == [False, False, True]
    assert not set(drawn_texts([price], 1, with_captions=False)) & {price}
