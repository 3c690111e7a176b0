"""The sections of the report page as HTML, in reading order."""

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from slap_jax.drawing.packed_row import row_figure, slot_colour, slot_ink
from slap_jax.drawing.theme import PRINT, drawing
from slap_jax.report import figures as curves
from slap_jax.report import figures as packed_row
from slap_jax.report import media, tables
from slap_jax.report.examples import EmbeddedSet, Query, retrieval_examples, similarity_matrix
from slap_jax.report.figures import ExampleRow
from slap_jax.report.media import PAGE, to_svg
from slap_jax.report.record import RunRecord

CONTENTS = (
    ("results", "Results"),
    ("listen", "Listen"),
    ("captions", "Captions"),
    ("similarity", "Similarity"),
    ("training", "Training"),
    ("packing", "A packed row"),
    ("files", "Files and settings"),
)
LABEL_LENGTH = 52


def _section(name: str, title: str, content: str) -> str:
    return f'<section id="{name}"><h2>{escape(title)}</h2>{content}</section>'


def _shorten(text: str, length: int = LABEL_LENGTH) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def header(run: RunRecord) -> tuple[str, str]:
    """Title of the page and its head: name of the run, the headline, the contents."""
    name = run.directory.resolve().name
    links = "".join(f'<a href="#{anchor}">{escape(title)}</a>' for anchor, title in CONTENTS)
    head = (
        f'<p class="eyebrow">slap_jax training report</p><h1>{escape(name)}</h1>{tables.headline(run)}'
        f'<nav aria-label="Contents">{links}</nav>'
    )
    return f"{escape(name)} · slap_jax", head


def results(run: RunRecord) -> str:
    """Retrieval and zero-shot tables."""
    content = "<h3>Retrieval</h3>" + tables.retrieval_table(run.evaluation)
    content += "<h3>Zero-shot classification</h3>" + tables.zero_shot_table(run.evaluation)
    return _section("results", "Results on held-out clips", content)


def player(run: RunRecord, clip: Any, caption: str, text: str, note: str = "· ", longest: float = 0.0) -> str:
    """A play button, the log-mel of the clip and a line of text below.

    Args:
        run: whose audio settings apply.
        clip: what is played.
        caption: names the clip for those who do not see it.
        text: the line (HTML).
        note: a short remark after it, before the duration (HTML).
        longest: seconds that the full width stands for; 0 for the clip's own.
    """
    rate = run.config.audio.sample_rate
    seconds = len(clip.waveform) / rate
    shown = min(seconds, media.MAX_SECONDS)
    cut = f", first {media.MAX_SECONDS:.0f} s" if seconds > media.MAX_SECONDS else ""
    picture = media.spectrogram_data_uri(clip.waveform, run.config.audio)
    width = max(15.0, 100.0 * shown / min(longest, media.MAX_SECONDS)) if longest else 100.0
    label = escape(f"Play: {caption}", quote=True)
    return (
        f'<div class="clip"><button type="button" aria-label="{label}">&#9654;</button>'
        f'<div class="sound"><img src="{picture}" style="width:{width:.1f}%" '
        f'alt="{escape(f"log-mel spectrogram, {seconds:.1f} seconds", quote=True)}"><i></i></div>'
        f'<audio preload="none" src="{media.audio_data_uri(clip.waveform, rate)}"></audio>'
        f'<p>{text} <span class="note nowrap">{note}{seconds:.1f} s{cut}</span></p></div>'
    )


def retrieval(run: RunRecord, embedded: Sequence[EmbeddedSet]) -> str:
    """Text queries with the clips found for them, right and wrong ones."""
    if not embedded:
        return _section("listen", "Ask in words, hear what comes back", tables.absent(_NO_MODEL))
    content = (
        "<p>Captions of held-out clips as queries. Queries are drawn by lot: up to three whose right clip came first, "
        "then up to three where it did not. How often each happens is in the table above.</p>"
    )
    for one in embedded:
        among = f"the first {len(one.clips):,} of {one.total:,}" if len(one.clips) < one.total else f"all {one.total:,}"
        content += f'<h3>{escape(one.name)} <span class="note">ranked among {among} clips</span></h3>'
        content += f'<div class="queries">{"".join(_query(run, one, query) for query in retrieval_examples(one))}</div>'
    return _section("listen", "Ask in words, hear what comes back", content)


_NO_MODEL = "There is no export of this run, or no evaluation set that can be read, so nothing could be embedded here."


def _query(run: RunRecord, one: EmbeddedSet, query: Query) -> str:
    if query.rank == 1:
        verdict = '<span class="right">&#10003; the right clip came first</span>'
    else:
        verdict = (
            f'<span class="wrong">&#10007; the right clip came {_ordinal(query.rank)} of {query.candidates:,}</span>'
        )
    clips = ""
    shown = [one.clips[index] for index, _, _ in query.found] + [one.clips[query.wanted]]
    longest = max(len(clip.waveform) for clip in shown) / run.config.audio.sample_rate
    for place, (index, similarity, right) in enumerate(query.found, start=1):
        clip = one.clips[index]
        mark = '<span class="mark right">&#10003;</span>' if right else '<span class="mark wrong">&#10007;</span>'
        text = f"{mark} {place}. {escape(clip.captions[0])}"
        clips += player(run, clip, clip.captions[0], text, f"cos {similarity:.2f} · ", longest)
    if not any(right for _, _, right in query.found):
        clip = one.clips[query.wanted]
        clips += player(run, clip, query.text, "<span class='note'>the clip that was asked for</span>", "· ", longest)
    return f'<article class="card"><h4>“{escape(query.text)}”</h4><p class="verdict">{verdict}</p>{clips}</article>'


def _ordinal(place: int) -> str:
    ending = "th" if place % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"{place:,}{ending}"


def captioning(run: RunRecord, captions: Sequence[tuple[str, Any, str]]) -> str:
    """Generated captions beside the true ones."""
    title = "Captions it writes"
    if "captioning" not in tables.objectives_of(run.config):
        return _section("captions", title, tables.absent("This run did not train the captioning objective."))
    if not captions:
        return _section("captions", title, tables.absent(_NO_MODEL))
    rows = ""
    for name, clip, generated in captions:
        true = "".join(f"<p>{escape(caption)}</p>" for caption in clip.captions[:2])
        sound = player(run, clip, clip.captions[0], f'<span class="note">{escape(name)}</span>')
        said = escape(generated) or '<span class="note">(empty)</span>'
        rows += (
            f'<tr><td>{sound}</td><td data-label="generated"><p><b>{said}</b></p></td>'
            f'<td data-label="true">{true}</td></tr>'
        )
    return _section(
        "captions",
        title,
        "<p>Held-out clips drawn by lot, captioned by greedy decoding.</p>"
        '<div class="scroll"><table class="captions">'
        "<thead><tr><th>clip</th><th>generated</th><th>true</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>",
    )


def similarity(embedded: Sequence[EmbeddedSet], directory: Path) -> str:
    """One matrix per set; also written as PNG."""
    title = "Every caption against every clip"
    usable = [(one, similarity_matrix(one)) for one in embedded]
    usable = [(one, matrix) for one, matrix in usable if len(matrix.captions) >= 2]
    if not usable:
        return _section("similarity", title, tables.absent(_NO_MODEL))
    content = (
        "<p>Rows are captions, columns are clips, in the same order; a bright diagonal is a model that knows which "
        "belongs to which. The circle marks the clip found first for a caption: filled if it is right.</p>"
    )
    for one, matrix in usable:
        labels = [_shorten(caption) for caption in matrix.captions]
        arguments = (matrix.similarity, labels, matrix.groups, matrix.relevant)
        with drawing(PRINT):
            figure = curves.similarity_figure(*arguments, PRINT)
            figure.savefig(directory / f"similarity_{_file_name(one.name)}.png", dpi=160, bbox_inches="tight")
        best = matrix.similarity.argmax(axis=1)
        right = int(matrix.relevant[np.arange(len(best)), best].sum())
        description = (
            f"Matrix of the similarities of {len(labels)} captions and {len(labels)} clips of {one.name}; for {right} "
            "captions the most similar clip is right"
        )
        with drawing(PAGE):
            figure = curves.similarity_figure(*arguments, PAGE)
            svg = to_svg(figure, f"similarity-{_file_name(one.name)}", description, tight=True)
        grouped = f", grouped by <code>{escape(matrix.label)}</code>" if matrix.label else ""
        content += (
            f"<h3>{escape(one.name)}</h3><figure><div class='scroll'><div class='wide'>{svg}</div></div>"
            f"<figcaption>{len(labels)} clips with different captions, drawn by lot{grouped}; right for {right} of "
            f"{len(labels)} captions.</figcaption></figure>"
        )
    return _section("similarity", title, content)


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)


def training(run: RunRecord, directory: Path) -> str:
    """Loss of each objective, then what tells whether the optimisation is healthy."""
    losses = curves.loss_panels(run)
    health = [panel for panel in curves.OPTIMISATION_PANELS if curves.has_curve(run, panel[0])]
    during = [
        (name, *_evaluation_title(name))
        for name in run.names()
        if name.endswith(curves.EVALUATION) and curves.has_curve(run, name)
    ]
    curves.save_curves(run, losses, directory / "losses.png")
    curves.save_curves(run, health, directory / "optimisation.png")
    if not losses and not health:
        return _section("training", "Training", tables.absent("metrics.jsonl holds too few lines to draw a curve."))
    content = (
        "<p>Each logged value is drawn lightly, its running mean strongly. The number is the mean of the last tenth, "
        "or the last value where nothing fluctuates.</p>"
    )
    skipped = run.series("bad_steps")[1]
    if len(skipped) and np.nanmax(skipped) > 0:
        content += tables.absent("Some steps were not finite and were skipped; see bad_steps in metrics.jsonl.")
    content += f'<h3>Loss of each objective</h3><div class="figures">{_panels(run, losses)}</div>'
    content += f'<h3>Optimisation and throughput</h3><div class="figures">{_panels(run, health)}</div>'
    if during:
        content += f'<h3>Evaluation in the loop</h3><div class="figures">{_panels(run, during)}</div>'
    return _section("training", "Training", content)


def _evaluation_title(metric: str) -> tuple[str, str]:
    """Title and note of `retrieval/SET/t2a_r1` and the like."""
    name, _, score = metric.partition("/")[2].rpartition("/")
    notes = {"t2a_r1": "R@1, text → audio", "a2t_r1": "R@1, audio → text", "accuracy": "zero-shot accuracy"}
    return name, notes[score]


def _panels(run: RunRecord, panels: Sequence[tuple[str, str, str]]) -> str:
    html = ""
    for metric, title, note in panels:
        values = run.series(metric)[1]
        last = curves.closing_value(run, metric)
        description = f"{title} over {len(values)} logged steps; from {values[0]:.4g} to {last:.4g}"
        with drawing(PAGE):
            svg = to_svg(curves.curve_figure(run, metric, PAGE), metric.replace("/", "-"), description)
        html += (
            f'<figure class="panel"><figcaption><span>{escape(title)}</span><b>{tables.number(last)}</b>'
            f"<small>{escape(note)}</small></figcaption>{svg}</figure>"
        )
    return html


def packing(row: ExampleRow | None, run: RunRecord, directory: Path) -> str:
    """A packed row of real clips and its attention masks; both also as PNG."""
    title = "A packed row, and what attention may see"
    if row is None:
        sentence = "No evaluation clips or no tokenizer of this run could be read, so no row is drawn."
        return _section("packing", title, tables.absent(sentence))
    with drawing(PRINT):
        row_figure(row, PRINT, with_captions=True).savefig(directory / "packed_row.png", dpi=160)
        packed_row.mask_figure(row, packed_row.MASKS, PRINT).savefig(directory / "attention_masks.png", dpi=160)
    columns, used = len(row.segments), int((row.segments > 0).sum())
    description = f"Waveform, log-mel and owner of each column of a row with {len(row.clips)} clips"
    with drawing(PAGE):
        drawn = to_svg(row_figure(row, PAGE, with_captions=False), "packed-row", description)
    owners = "".join(
        f'<li><b style="background:{slot_colour(slot)};color:{slot_ink(slot)}">{slot + 1}</b><span>{escape(caption)} '
        f"<small>{len(clip.waveform) / row.audio.sample_rate:.1f} s</small></span></li>"
        for slot, (clip, caption) in enumerate(zip(row.clips, row.captions, strict=True))
    )
    masks = ""
    for kind, text in packed_row.MASKS:
        with drawing(PAGE):
            svg = to_svg(packed_row.mask_figure(row, [(kind, "")], PAGE), f"mask-{kind}", f"Mask of {text}")
        masks += f"<figure>{svg}<figcaption>{escape(text[0].upper() + text[1:])}.</figcaption></figure>"
    column = 1000 * row.column_seconds
    return _section(
        "packing",
        title,
        f"<p>Clips of any duration share a row of {columns:,} columns ({column:.0f} ms each); every clip starts on a "
        f"column of its own. This row of held-out clips, packed as in training, holds {len(row.clips)} of at most "
        f"{run.config.data.slots} clips and fills {100 * used / columns:.1f} % of its columns. The log-mel is what the "
        "model computes from these samples.</p>"
        f"<figure><div class='scroll'><div class='wide'>{drawn}</div></div></figure><ol class='owners'>{owners}</ol>"
        "<h3>Attention masks of this row</h3>"
        "<p>A token may attend where the picture is coloured. Colours are those of the clips: no clip sees another. "
        "Grey is padding, which sees only padding.</p>"
        f'<div class="figures masks">{masks}</div>',
    )


FILES = (
    ("config.json", "the whole config"),
    ("params.txt", "every parameter with its shape"),
    ("metrics.jsonl", "all logged metrics"),
    ("evaluation.json", "results with intervals, fingerprints and templates"),
    ("checkpoints", "parameters, optimiser and data state to resume from"),
    ("export", "what slap_jax.load reads"),
    ("figures", "the pictures of this page as PNG"),
    ("report.json", "the numbers of this page"),
)


def files(run: RunRecord, problems: Sequence[str]) -> str:
    """What lies beside the page, what could not be shown, and the settings."""
    made_now = {"report.json", "figures"}
    present = [(name, text) for name, text in FILES if name in made_now or (run.directory / name).exists()]
    items = "".join(f"<li><code>{name}</code>: {escape(text)}</li>" for name, text in present)
    events = any(run.directory.rglob("*tfevents*"))
    items += "<li>TensorBoard events</li>" if events else ""
    content = f"<ul>{items}</ul>"
    missing = [name for name, _ in FILES if name not in dict(present)] + ([] if events else ["TensorBoard events"])
    if missing:
        content += tables.absent(f"Not in this run directory: {', '.join(missing)}.")
    content += "".join(tables.absent(problem) for problem in problems)
    return _section("files", "Files and settings", content + tables.settings_table(run.config))


def footer() -> str:
    """Who wrote the page and when."""
    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    made = f"Written by slap_jax {escape(version('slap-jax'))} on {written}."
    return f"<p>{made} This page holds all that it shows; it loads nothing.</p>"
