"""The page in Gradio: the sound on the left, a tab for each question on the right."""

import atexit
import functools
import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slap_jax.errors import UserError
from slap_jax.inference.model import SlapModel
from slap_jax.other_models.dual_encoder import DualEncoder
from slap_jax.other_models.load import load_model
from slap_jax.page import answers
from slap_jax.page.answers import PageError
from slap_jax.search.index import SearchIndex
from slap_jax.search.search import Hit

CSS = """
.gradio-container > main { max-width: 1240px !important; margin: 0 auto !important; }
.slap-timeline audio { width: 100%; height: 38px; margin-bottom: 6px; }
.slap-picture { position: relative; }
.slap-picture img { width: 100%; height: auto; }
.slap-area { position: absolute; cursor: crosshair; }
.slap-cursor { position: absolute; top: 0; bottom: 0; left: 0; border-left: 1.5px solid #d2452d; }
.slap-narrow, .slap-picture img.slap-dark, .dark .slap-picture img.slap-light { display: none; }
.dark .slap-picture img.slap-dark { display: block; }
.slap-hits { list-style: none; margin: 0; padding: 0; }
.slap-hit { display: flex; align-items: center; gap: 14px; padding: 10px 2px;
  border-bottom: 1px solid var(--border-color-primary); }
.slap-rank { flex: 0 0 1.6em; text-align: right; color: var(--body-text-color-subdued);
  font-variant-numeric: tabular-nums; }
.slap-what { flex: 1 1 auto; min-width: 0; display: grid; grid-template-columns: 1fr auto auto; gap: 2px 12px;
  align-items: center; }
.slap-name { grid-column: 1 / -1; font-weight: 600; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.slap-when, .slap-number { color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; font-size: 90%; }
.slap-score { width: 110px; height: 6px; border-radius: 3px; background: var(--border-color-primary); }
.slap-score i { display: block; height: 100%; border-radius: 3px; background: #2b6a99; }
.slap-hit audio { flex: 0 0 300px; max-width: 45%; height: 36px; }
.slap-none { color: var(--body-text-color-subdued); }
@media (max-width: 720px) {
  .slap-hit { flex-wrap: wrap; } .slap-hit audio { flex: 1 1 100%; max-width: 100%; }
  .slap-wide { display: none !important; } .slap-narrow { display: block !important; }
  .tab-container button { padding: 0 9px !important; }
}
"""
_MESSAGE_SECONDS = 10


def build_page(model: SlapModel | DualEncoder, name: str, index: SearchIndex | None = None, card: str = "") -> Any:
    """Builds the page.

    Args:
        model: Model that answers.
        name: Name of the model, for the title.
        index: Index of the folder to search; None for a page without search.
        card: Card of the model in Markdown; "" for none.

    Returns:
        `gradio.Blocks`, for `launch`.

    Raises:
        PageError: gradio is not installed.
    """
    gr = gradio()
    with gr.Blocks(title=f"SLAP: {name}", analytics_enabled=False, fill_width=True) as page:
        gr.Markdown(f"# What does it sound like?\n{answers.describe(model, name)}")
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=300):
                audio = gr.Audio(
                    sources=["upload", "microphone"],
                    type="filepath",
                    label="Sound",
                    elem_id="sound",
                    buttons=["download"],  # no button that uploads to other machines
                )
                about = gr.Markdown(
                    "Record a sound, drop a file, or try an example. Then ask a question.", elem_id="about"
                )
                if paths := answers.examples(index):
                    names = [Path(path).stem[:40] for path in paths]
                    gr.Examples(
                        paths, audio, label="Examples from the folder", example_labels=names, cache_examples=False
                    )
            with gr.Column(scale=5, min_width=300), gr.Tabs() as tabs:
                with gr.Tab("Over time", id="time"):
                    texts = gr.Textbox(
                        lines=3,
                        label="Texts, one per line",
                        placeholder="a dog barks\nrain falls\nsomeone speaks",
                        elem_id="texts",
                    )
                    ask = gr.Button("Compare each moment", variant="primary", elem_id="ask_timeline")
                    answer = gr.HTML(elem_id="timeline", min_height=40)
                    about_the_sound = [answer]
                    _answer(ask, functools.partial(answers.timeline, model), [audio, texts], answer, "timeline")
                with gr.Tab("Classify", id="classify"):
                    labels = gr.Textbox(
                        label="Labels, separated by commas", placeholder="dog, rain, engine, speech", elem_id="labels"
                    )
                    ask = gr.Button("Classify", variant="primary", elem_id="ask_classify")
                    answer = gr.Label(num_top_classes=8, label="Of these labels", elem_id="classes")
                    about_the_sound.append(answer)
                    _answer(ask, functools.partial(answers.classify, model), [audio, labels], answer, "classify")
                if model.can_caption:
                    with gr.Tab("Caption", id="caption"):
                        beam = gr.Slider(1, 8, 1, step=1, label="Beam width", elem_id="beam")
                        ask = gr.Button("Describe", variant="primary", elem_id="ask_caption")
                        answer = gr.Textbox(label="Caption", elem_id="caption", interactive=False)
                        about_the_sound.append(answer)
                        _answer(ask, functools.partial(answers.caption, model), [audio, beam], answer, "caption")
                with gr.Tab("Search", id="search"):
                    _search_tab(gr, model, index, audio, tabs)
        if card:
            with gr.Accordion("The model's card", open=False):
                gr.Markdown(card)
        # Answers about the sound before would be taken for answers about this one.
        audio.change(lambda: [None] * len(about_the_sound), None, about_the_sound, api_name=False)
        _answer(None, functools.partial(answers.heard, model), [audio], about, "heard", also=audio.change)
    return page


def gradio() -> Any:
    """Imports gradio.

    Raises:
        PageError: It is not installed.
    """
    try:
        return importlib.import_module("gradio")
    except ImportError:
        raise PageError("the page needs gradio, which is missing: pip install 'slap-jax[page]'") from None


def _search_tab(gr: Any, model: SlapModel | DualEncoder, index: SearchIndex | None, audio: Any, tabs: Any) -> None:
    if index is None:
        gr.Markdown("There is no folder to search. Run `slap index DIR`, then start the page with `--folder DIR`.")
        return
    gr.Markdown(f"{len(index)} files of `{index.root.resolve().name}`")
    text = gr.Textbox(label="Describe the sound you want", placeholder="a dog barks in the distance", elem_id="query")
    with gr.Row(equal_height=True):
        alike = gr.Checkbox(label="Search with my sound", elem_id="alike")
        k = gr.Slider(1, 20, 5, step=1, label="Hits", elem_id="k")
    ask = gr.Button("Search", variant="primary", elem_id="ask_search")
    answer = gr.HTML(elem_id="hits", min_height=40)
    hits = gr.State([])
    search = functools.partial(answers.search_page, model, index)
    _answer(ask, search, [text, audio, alike, k], [answer, hits], "search", also=text.submit)
    with gr.Row(equal_height=True):
        number = gr.Number(1, label="Number of a hit", precision=0, minimum=1, elem_id="hit")
        take = gr.Button("Ask about this hit", elem_id="take_hit")
    folder = Path(tempfile.mkdtemp(prefix="slap_hits_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)

    def take_hit(listed: list[Hit], which: int) -> tuple[str, Any]:
        return answers.save_hit(listed, which, model.sample_rate, folder), gr.Tabs(selected="time")

    _answer(take, take_hit, [hits, number], [audio, tabs], "take_hit")


def _answer(
    button: Any, function: Callable[..., Any], inputs: list[Any], output: Any, name: str, also: Any = None
) -> None:
    """Connects a question to its answer. Errors meant for the user appear in the page, for a while."""
    gr = gradio()

    def answer(*values: Any) -> Any:
        try:
            return function(*values)
        except Exception as error:
            if not isinstance(error, UserError):
                raise
            message = str(error)
            for uploaded in (value for value in values if isinstance(value, str) and os.path.isabs(value)):
                message = message.replace(uploaded, os.path.basename(uploaded))  # hide Gradio's temporary folder
            raise gr.Error(message, duration=_MESSAGE_SECONDS, title="Not possible", print_exception=False) from error

    events = [event for event in (None if button is None else button.click, also) if event is not None]
    for number, event in enumerate(events):
        # One question at a time, so that JAX compiles each new length once.
        event(
            answer,
            inputs,
            output,
            api_name=name if number == 0 else f"{name}_on_enter",
            concurrency_limit=1,
            concurrency_id="model",
        )


def serve(
    model: str,
    folder: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    browser: bool = False,
    device: str | None = None,
) -> None:
    """Serves the page until it is interrupted.

    Args:
        model: Export or run, or a model of another family.
        folder: Folder to search, indexed with the same model.
        host: Address to listen on; the default is reachable from this machine only.
        port: Port to listen on.
        browser: Whether to open a browser.
        device: Device to run on, such as "cpu" or "gpu:1"; None for JAX's default.

    Raises:
        PageError: gradio is not installed, or the port is in use.
        SearchError: The folder has no index, or another model made it.
        ExportError, OtherModelError: The model cannot be read.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # must be set before the import
    gradio()
    index = None if folder is None else SearchIndex(folder)
    loaded = load_model(model, device=device)
    if index is not None:
        index.check_model(loaded.model_id, loaded.embed_dim)
    page = build_page(loaded, Path(model).resolve().name, index, answers.model_card(Path(model)))
    try:
        launch(page, host, port, inbrowser=browser)
    except OSError:  # Gradio's message names its own settings
        raise PageError(f"cannot listen on {host}: port {port} is in use; choose another one with --port") from None
    print(f"listening at http://{host}:{port}; stop with Ctrl+C", file=sys.stderr, flush=True)
    page.block_thread()


def launch(page: Any, host: str, port: int, inbrowser: bool = False) -> None:
    """Starts the server and returns. The page loads nothing from other machines and sends nothing to them."""
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
