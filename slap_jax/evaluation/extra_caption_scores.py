"""Scores of captions that want more than pip installs: SPICE (models of CoreNLP) and FENSE (two language models)."""

import importlib
import importlib.util
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

Extra = Callable[
    [list[str], list[list[str]], Mapping[int, list[str]], Mapping[int, list[str]]],
    dict[str, Float[np.ndarray, " N"]],
]

_SPICE_JARS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")


def spice(
    written: list[str],
    references: list[list[str]],
    guesses: Mapping[int, list[str]],
    truths: Mapping[int, list[str]],
) -> dict[str, Float[np.ndarray, " N"]]:
    """SPICE (Anderson et al., 2016) of each clip, by pycocoevalcap; its models are never downloaded here.

    Args:
        written: captions as they are.
        references: likewise.
        guesses: tokenised.
        truths: likewise.

    Raises:
        RuntimeError: what is missing; or the program failed.
    """
    if shutil.which("java") is None:
        raise RuntimeError("needs Java 8 to 13, and no `java` is found")
    found = importlib.util.find_spec("pycocoevalcap.spice")
    folder = Path(str(next(iter(found.submodule_search_locations or ())))) if found else Path()
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


def fense(
    written: list[str],
    references: list[list[str]],
    guesses: Mapping[int, list[str]],
    truths: Mapping[int, list[str]],
) -> dict[str, Float[np.ndarray, " N"]]:
    """FENSE (Zhou et al., 2022) of each clip, by aac-metrics, whose two models must be on this machine.

    Args:
        written: captions as they are, which this score reads.
        references: likewise.
        guesses: tokenised.
        truths: likewise.

    Raises:
        RuntimeError: what is missing; or the models cannot be read.
    """
    if importlib.util.find_spec("aac_metrics") is None:
        raise RuntimeError("needs aac-metrics: pip install aac-metrics && aac-metrics-download (it brings PyTorch)")
    try:
        functional = importlib.import_module("aac_metrics.functional")
        _, per_clip = functional.fense(written, references)
    except Exception as error:  # whatever PyTorch, transformers or the network say
        raise RuntimeError(f"its models cannot be read ({error}); run aac-metrics-download once") from error
    return {"fense": np.asarray(per_clip["fense"], np.float64)}


EXTRA_SCORES: Mapping[str, Extra] = {"spice": spice, "fense": fense}
