"""Scores generated captions against human references: BLEU, ROUGE-L, METEOR and CIDEr-D, as pycocoevalcap does.

Captions are tokenised by the Penn Treebank tokeniser of CoreNLP, in lower case and without punctuation, as is usual.
Each score compares a caption with all references of its clip. CIDEr-D weights words by their rarity in the references
of the evaluation set, so its values are not comparable between sets.

Two optional scores need models that pip does not install: SPICE (CoreNLP) and FENSE (two language models).
"""

import dataclasses
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from slap_jax.data.evaluation_set import waveform_chunks
from slap_jax.errors import UserError
from slap_jax.evaluation.clip_set import ClipSet
from slap_jax.evaluation.embeddings import Progress
from slap_jax.evaluation.intervals import cluster_interval

_EXAMPLES = 5  # captions that the results show
_SPICE_JARS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")

Tokenised = Mapping[int, list[str]]  # clip -> its texts, tokens separated by spaces
PerClip = dict[str, Float[np.ndarray, " N"]]


class CaptioningError(UserError, ValueError):
    """Captions that cannot be generated or scored, because something is not installed."""


@dataclasses.dataclass(frozen=True)
class CaptionGenerator:
    """Captions clips.

    Attributes:
        write: maps waveforms to one text each.
        decoding: settings of the decoding, for the record, such as the beam width.
        extra_scores: names of `EXTRA_SCORES` to compute too.
    """

    write: Callable[[Sequence[np.ndarray]], Sequence[str]]
    decoding: Mapping[str, Any]
    extra_scores: Sequence[str] = ()


def captioning(
    data: ClipSet,
    generator: CaptionGenerator | None,
    *,
    seed: int = 0,
    resamples: int = 1_000,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Captions every clip that has references, and scores the captions.

    Args:
        data: the set.
        generator: generator of the model; None if it has no caption decoder.
        seed: seed of the bootstrap.
        resamples: number of resamples of the bootstrap.
        progress: called after every chunk of clips.

    Returns:
        The numbers of `caption_scores`, `n_clips`, `n_captions`, `captions_per_clip`, `n_empty`, the settings of the
        decoding, and a few examples.

    Raises:
        CaptioningError: the model has no caption decoder, or pycocoevalcap is missing.
    """
    if generator is None:
        raise CaptioningError(
            f"evaluation set {data.name!r} is for captioning, and this model has no caption decoder: it was trained "
            "with config.objectives.captioning.weight=0"
        )
    require_scorers()
    clips, owner = np.unique(data.owner, return_inverse=True)
    written: list[str] = []
    for _, waveforms in waveform_chunks(data.clips, data.samples, clips.tolist()):
        written.extend(generator.write(waveforms))
        if progress:
            progress(data.name, len(written), len(clips))
    references: list[list[str]] = [[] for _ in clips]
    for caption, clip in zip(data.captions, owner, strict=True):
        references[clip].append(caption)
    counts = np.bincount(owner)
    return {
        **caption_scores(written, references, seed=seed, resamples=resamples, extra=generator.extra_scores),
        "n_clips": len(clips),
        "n_captions": len(data.captions),
        "captions_per_clip": [int(counts.min()), int(counts.max())],
        "n_empty": sum(not text.strip() for text in written),
        "n_distinct_written": len(set(written)),
        "decoding": dict(generator.decoding),
        "examples": [
            {"written": text, "references": texts} for text, texts in zip(written[:_EXAMPLES], references, strict=False)
        ],
    }


def caption_scores(
    written: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    seed: int = 0,
    resamples: int = 1_000,
    extra: Sequence[str] = (),
) -> dict[str, Any]:
    """Scores captions against references.

    Args:
        written: one caption per clip.
        references: one or more per clip.
        seed: seed of the bootstrap over clips.
        resamples: number of resamples of the bootstrap.
        extra: names of `EXTRA_SCORES` to compute too.

    Returns:
        `bleu_1` to `bleu_4`, `rouge_l`, `meteor`, `cider_d` (not times 100), each with `..._interval` ([low, high],
        95 %); `tokeniser`; `not_computed`, score -> what is missing.

    Raises:
        CaptioningError: pycocoevalcap is missing.
    """
    bleu_scorer, cider, rouge = require_scorers()
    (guesses, truths), tokeniser = tokenise([[text] for text in written], references)
    values: PerClip = {}
    not_computed: dict[str, str] = {}
    _, values["cider_d"] = cider().compute_score(truths, guesses)
    _, values["rouge_l"] = rouge().compute_score(truths, guesses)
    try:
        values["meteor"] = _meteor(truths, guesses)
    except RuntimeError as error:
        not_computed["meteor"] = str(error)
    for name in extra:
        try:
            values |= EXTRA_SCORES[name](list(written), [list(texts) for texts in references], guesses, truths)
        except RuntimeError as error:
            not_computed[name] = str(error)
    if "spice" in values:
        values["spider"] = (np.asarray(values["spice"]) + np.asarray(values["cider_d"])) / 2
    scores: dict[str, Any] = {}
    for name, per_clip in values.items():
        per_clip = np.asarray(per_clip, np.float64)
        clips = np.arange(len(per_clip))
        low, high = cluster_interval(per_clip[:, None], clips, seed=seed, resamples=resamples)
        scores |= {name: float(per_clip.mean()), f"{name}_interval": [float(low[0]), float(high[0])]}
    scores |= _bleu(bleu_scorer, guesses, truths, seed, resamples)
    return {**scores, "tokeniser": tokeniser, "not_computed": not_computed}


def require_scorers() -> tuple[Any, Any, Any]:
    """Imports pycocoevalcap and returns its classes for BLEU counts, CIDEr-D and ROUGE-L.

    Raises:
        CaptioningError: it is not installed.
    """
    try:
        from pycocoevalcap.bleu.bleu_scorer import BleuScorer
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge
    except ImportError as error:
        raise CaptioningError(f"caption scores need pycocoevalcap ({error}): pip install 'slap-jax[eval]'") from error
    return BleuScorer, Cider, Rouge


def tokenise(*sets: Sequence[Sequence[str]]) -> tuple[list[Tokenised], str]:
    """Tokenises lists of texts for the scorers.

    Args:
        *sets: texts of every clip.

    Returns:
        Each set tokenised, in lower case, and the name of the tokeniser, "ptb" if Java is installed. Otherwise
        it is "words", which splits at everything but letters and digits.

    Raises:
        CaptioningError: the Java program fails.
    """
    if find_java() is None:
        return [{clip: list(map(_words, texts)) for clip, texts in enumerate(texts_of)} for texts_of in sets], "words"
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    # One call for all sets, since Java takes seconds to start. Each text must be one line, and an empty line is lost.
    lines = {
        (number, clip): [{"caption": " ".join(text.split()) or "."} for text in texts]
        for number, texts_of in enumerate(sets)
        for clip, texts in enumerate(texts_of)
    }
    try:
        tokenised = PTBTokenizer().tokenize(lines)
    except PermissionError as error:
        raise CaptioningError(
            f"pycocoevalcap writes temporary files next to its code, and {error.filename} cannot be written; install "
            "slap-jax[eval] into an environment that you can write to"
        ) from error
    if {key: len(texts) for key, texts in tokenised.items()} != {key: len(texts) for key, texts in lines.items()}:
        raise CaptioningError(
            f"the tokeniser of pycocoevalcap returned {len(tokenised)} of {len(lines)} clips; try `java -version`"
        )
    results: list[dict[int, list[str]]] = [{} for _ in sets]
    for (number, clip), texts in tokenised.items():
        results[number][clip] = texts
    return list(results), "ptb"


def find_java() -> str | None:
    """Returns the path of the program `java`, or None."""
    return shutil.which("java")


def spice(written: list[str], references: list[list[str]], guesses: Tokenised, truths: Tokenised) -> PerClip:
    """Computes SPICE (Anderson et al., 2016) of each clip with pycocoevalcap; never downloads its models.

    Args:
        written: captions.
        references: references of each clip.
        guesses: captions, tokenised.
        truths: references, tokenised.

    Raises:
        RuntimeError: something is missing, or the program failed.
    """
    if shutil.which("java") is None:
        raise RuntimeError("needs Java 8 to 13, and there is no program `java`")
    spec = importlib.util.find_spec("pycocoevalcap.spice")
    folder = Path(str(next(iter(spec.submodule_search_locations or ())))) if spec else Path()
    missing = [name for name in _SPICE_JARS if not (folder / "lib" / name).is_file()]
    if missing:
        raise RuntimeError(
            f"needs {' and '.join(missing)} in {folder / 'lib'}: take them from "
            "http://nlp.stanford.edu/software/stanford-corenlp-full-2015-12-09.zip"
        )
    from pycocoevalcap.spice.spice import Spice

    try:
        _, scores = Spice().compute_score(truths, guesses)
    except (subprocess.CalledProcessError, OSError) as error:
        raise RuntimeError(f"the program failed ({error}); it runs on Java 8 to 13") from error
    return {"spice": np.array([score["All"]["f"] for score in scores])}


def fense(written: list[str], references: list[list[str]], guesses: Tokenised, truths: Tokenised) -> PerClip:
    """Computes FENSE (Zhou et al., 2022) of each clip with aac-metrics, whose two models must be on this machine.

    Args:
        written: captions.
        references: references of each clip.
        guesses: not used, since FENSE has a tokeniser.
        truths: not used.

    Raises:
        RuntimeError: something is missing, or the models cannot be read.
    """
    if importlib.util.find_spec("aac_metrics") is None:
        raise RuntimeError("needs aac-metrics: pip install aac-metrics && aac-metrics-download (it brings PyTorch)")
    try:
        functional = importlib.import_module("aac_metrics.functional")
        _, per_clip = functional.fense(written, references)
    except Exception as error:  # of PyTorch, transformers or the network
        raise RuntimeError(f"its models cannot be read ({error}); run aac-metrics-download once") from error
    return {"fense": np.asarray(per_clip["fense"], np.float64)}


EXTRA_SCORES: Mapping[str, Callable[[list[str], list[list[str]], Tokenised, Tokenised], PerClip]] = {
    "spice": spice,
    "fense": fense,
}


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+(?:'\w+)?", text.lower()))


def _meteor(truths: Tokenised, guesses: Tokenised) -> Float[np.ndarray, " N"]:
    """Computes METEOR of each clip; raises `RuntimeError` if something is missing."""
    if find_java() is None:
        raise RuntimeError("needs Java: install a Java runtime that provides `java`")
    from pycocoevalcap.meteor import meteor

    jar = Path(os.path.abspath(meteor.__file__)).with_name(meteor.METEOR_JAR)
    if not jar.is_file():
        raise CaptioningError(f"{jar} is missing: install pycocoevalcap again")
    scorer = meteor.Meteor()
    try:
        corpus, per_clip = scorer.compute_score(truths, guesses)
    except (ValueError, OSError) as error:
        scorer.lock.release()  # its destructor waits for this lock, which it did not release
        raise RuntimeError(f"needs 2 GB of memory for its Java program, which failed ({error})") from error
    # METEOR of a set is not exactly the mean over its clips, but the interval is of a mean: shift the values.
    values = np.array(per_clip)
    return values + (corpus - values.mean())


def _bleu(scorer: Any, guesses: Tokenised, truths: Tokenised, seed: int, resamples: int) -> dict[str, Any]:
    """Computes BLEU of the set. Counts are summed over clips before they are divided, in the bootstrap too."""
    counted = scorer(n=4)
    for clip, texts in guesses.items():
        counted += (texts[0], truths[clip])
    rows = []
    for counts in counted.ctest:
        closest = min((abs(length - counts["testlen"]), length) for length in counts["reflen"])[1]
        rows.append([*counts["correct"], *counts["guess"], counts["testlen"], closest])
    table = np.array(rows, np.float64)
    value = _bleu_of(table.sum(axis=0)[None])[0]
    generator = np.random.default_rng(seed)
    clips = len(table)
    drawn = [np.bincount(generator.integers(clips, size=clips), minlength=clips) @ table for _ in range(resamples)]
    low, high = np.quantile(_bleu_of(np.stack(drawn)), [0.025, 0.975], axis=0)
    scores = {f"bleu_{n + 1}": float(value[n]) for n in range(4)}
    return scores | {f"bleu_{n + 1}_interval": [float(low[n]), float(high[n])] for n in range(4)}


def _bleu_of(counts: Float[np.ndarray, "B 10"]) -> Float[np.ndarray, "B 4"]:
    """Computes BLEU-1 to -4 (Papineni et al., 2002) from B rows of counts.

    BLEU-n = exp(min(0, 1 - r / c)) * (p_1 * ... * p_n) ** (1 / n), where p_k is the precision of k-grams, c the length
    of the captions and r that of the closest references.
    """
    correct, guessed, length, reference = counts[:, :4], counts[:, 4:8], counts[:, 8:9], counts[:, 9:]
    precision = np.maximum(correct, 1e-15) / np.maximum(guessed, 1e-9)
    bleu = np.exp(np.cumsum(np.log(precision), axis=1) / np.arange(1, 5))
    return bleu * np.exp(np.minimum(0.0, 1.0 - reference / np.maximum(length, 1e-9)))
