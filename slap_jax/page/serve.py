"""Starts the page."""

import os
import sys
from pathlib import Path
from typing import Any

import slap_jax
from slap_jax.page.answers import PageError
from slap_jax.page.build import CSS, build_page, gradio
from slap_jax.search.reader import SearchIndex


def serve(
    model: str, folder: Path | None = None, host: str = "127.0.0.1", port: int = 7860, browser: bool = False
) -> None:
    """Serves the page until it is interrupted.

    Args:
        model: export directory.
        folder: to search, indexed with the same model.
        host: address to listen at; the usual one is reached from this machine only.
        port: to listen at.
        browser: open it.

    Raises:
        PageError: gradio is not installed, or the port is taken.
        SearchError: the folder has no index, or one of another model.
        ExportError: the model cannot be read.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before the import: nothing is sent anywhere
    gradio()
    index = None if folder is None else SearchIndex(folder)
    loaded = slap_jax.load(model)
    if index is not None:
        index.check_model(loaded.model_id, loaded.embed_dim)
    page = build_page(loaded, Path(model).resolve().name, index)
    try:
        launch(page, host, port, inbrowser=browser)
    except OSError as error:
        raise PageError(f"cannot listen at {host}, port {port} ({error}); choose another with --port") from error
    print(f"listening at http://{host}:{port}; stop with Ctrl+C", file=sys.stderr, flush=True)
    page.block_thread()


def launch(page: Any, host: str, port: int, inbrowser: bool = False) -> None:
    """Starts listening and returns; nothing of the page comes from other machines, and nothing goes there."""
    gr = gradio()
    theme = gr.themes.Soft(
        primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        inbrowser=inbrowser,
        prevent_thread_lock=True,
        quiet=True,
        ssr_mode=False,
        footer_links=[],
        theme=theme,
        css=CSS,
    )
