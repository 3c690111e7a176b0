"""The card of a Hugging Face folder: how transformers uses it, with the data and metrics of the card of the export."""

import re
from importlib.metadata import version
from pathlib import Path

from slap_jax.atomic import write_text_atomic
from slap_jax.checkpoints.model_dir import TOKENIZER, Export

_TEMPLATE = Path(__file__).with_name("templates") / "huggingface_card.md"
_KEPT = ("Training data", "Metrics", "Licence")  # sections that hold for the folder too


def write_huggingface_card(export: Export, export_card: Path, path: Path) -> None:
    """Writes the card of a Hugging Face folder.

    Args:
        export: the model.
        export_card: card of the export, which may be missing; its metadata and its sections about training data,
            metrics and licence are taken over.
        path: the card to write.

    Raises:
        ExportError: the metadata at the head of the export's card cannot be parsed.
    """
    from huggingface_hub import ModelCard, ModelCardData

    from slap_jax.export.model_card import read_card

    objectives = export.params.get("objectives", {})
    compared = "contrastive" in objectives
    data, text = ModelCardData(license="unknown"), ""
    if export_card.is_file():
        card = read_card(export_card)
        data, text = card.data, card.text
    data.library_name = "transformers"
    data.pipeline_tag = "zero-shot-audio-classification" if compared else "feature-extraction"
    data.tags = ["audio", "audio-text-retrieval", data.pipeline_tag]
    card = ModelCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        version=version("slap-jax"),
        rate=export.config.audio.sample_rate,
        captions="captioning" in objectives,
        compared=compared,
        tokenizer_package="sentencepiece" if export.tokenizer_path.name == TOKENIZER else "tokenizers",
        max_seconds=export.config.data.get("max_seconds"),
        sections=_sections(text),
    )
    write_text_atomic(path, str(card))


def _sections(text: str) -> str:
    """Returns the sections of a card that the folder keeps, with their headings."""
    parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    kept = [part.strip() for part in parts if part.partition("\n")[0].removeprefix("## ").strip() in _KEPT]
    return "\n\n".join(kept)
