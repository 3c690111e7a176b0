from pathlib import Path

from slap_jax.data.datasets.docs_page import datasets_page

PAGE = Path(__file__).parents[3] / "docs" / "datasets.md"


def test_the_page_is_generated_from_the_classes():
    message = "run `python -m slap_jax.data.datasets.docs_page > docs/datasets.md`"
    assert PAGE.read_text(encoding="utf-8") == datasets_page(), message
