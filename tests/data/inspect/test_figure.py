import sys

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from slap_jax.config.defaults import default_config, source
from slap_jax.data.inspect.figure import save_figure
from slap_jax.data.inspect.measure import measure_mixture
from slap_jax.data.preparation.prepare import prepare_records
from slap_jax.data.records import make_record
from slap_jax.drawing.theme import DrawingError
from tests.data.tiny_data import tiny_config, tiny_dataset, tone


def panels_of(path) -> list[np.ndarray]:
    """Divides a picture into its 3 x 4 panels."""
    picture = matplotlib.image.imread(path)[..., :3]
    return [panel for line in np.array_split(picture, 3) for panel in np.array_split(line, 4, axis=1)]


def test_every_panel_shows_something(dataset, tokenizer, tmp_path):
    config = tiny_config(dataset, tokenizer)
    config.data.train.other = source(str(tiny_dataset(tmp_path / "other", 6, 2, "other")), "train")
    save_figure(measure_mixture(config, tokenizer), tmp_path / "stats.png")
    for panel in panels_of(tmp_path / "stats.png"):
        assert (panel.min(axis=-1) < 0.9).mean() > 0.005


def test_odd_data_are_drawn(tmp_path):
    odd = "$ is no formula, $\\frac{"
    records = [
        make_record("one", np.ones(1, np.int16), ["word " * 2_000], labels=(odd,), licence=odd),
        make_record("silent", np.zeros(160, np.int16), ["a"]),
        make_record("clipped", tone(2.0, amplitude=3.0), ["b c"], caption_source="x" * 500),
    ]
    prepare_records({"train": (3, records)}, tmp_path, {"odd": 1}, log=lambda line: None)
    config = default_config()
    config.data.train.odd = source(str(tmp_path), "train")
    config.data.update(columns=32, slots=8, packing_bins=4)  # small rows: a quick forecast
    save_figure(measure_mixture(config), tmp_path / "stats.png")
    assert len(panels_of(tmp_path / "stats.png")) == 12


def test_a_panel_keeps_its_title_and_counts_what_it_leaves_out(tmp_path, monkeypatch):
    labels = tuple(f"kind={number}" for number in range(20))
    prepare_records(
        {"train": (1, [make_record("one", tone(0.5), ["a"], labels=labels)])}, tmp_path, {}, log=lambda line: None
    )
    config = default_config()
    config.data.train.one = source(str(tmp_path), "train")
    config.data.update(columns=32, slots=8, packing_bins=4)
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: figures.append(figure))
    save_figure(measure_mixture(config), tmp_path / "stats.png")
    titles = [axes.get_title(loc="left") for axes in figures[0].axes]
    assert "Labels; 8 more" in titles and "Durations" in titles


def test_missing_matplotlib_names_the_extra(dataset, tokenizer, tmp_path, monkeypatch):
    statistics = measure_mixture(tiny_config(dataset, tokenizer), clips=2)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(DrawingError, match=r"slap_jax\[demo\]"):
        save_figure(statistics, tmp_path / "stats.png")
    assert not (tmp_path / "stats.png").exists()
