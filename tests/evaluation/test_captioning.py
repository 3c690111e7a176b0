"""Caption scores equal those of pycocoevalcap and a plain CIDEr-D; results say which scores are missing, and why."""

import collections
import math
import os
import sys

import numpy as np
import pytest

from slap_jax.data.evaluation_set import EvaluationClip
from slap_jax.evaluation import captioning
from slap_jax.evaluation.captioning import CaptionGenerator, CaptioningError, caption_scores, tokenise
from slap_jax.evaluation.clip_set import read_clip_set
from slap_jax.evaluation.evaluate import evaluate
from slap_jax.evaluation.task import captioning_task
from tests.evaluation.hashing_embedder import HashingEmbedder

# The example of the README of aac-metrics 0.6, whose scores are an independent implementation's.
WRITTEN = ["a man is speaking", "rain falls"]
REFERENCES = [
    ["a man speaks.", "someone speaks.", "a man is speaking while a bird is chirping in the background"],
    ["rain is falling hard on a surface"],
]
EXAMPLE = {"cider_d": 0.9614, "rouge_l": 0.4871, "bleu_1": 0.4278, "meteor": 0.2634}


def random_captions(seed, clips):
    generator = np.random.default_rng(seed)
    words = ["a", "dog", "barks", "rain", "falls", "on", "the", "roof", "loudly", "twice"]

    def sentence():
        return " ".join(generator.choice(words, generator.integers(2, 9)))

    references = [[sentence() for _ in range(generator.integers(1, 6))] for _ in range(clips)]
    written = [some[0] if generator.random() < 0.3 else sentence() for some in references]
    return written, references


@pytest.fixture
def no_java(monkeypatch):
    monkeypatch.setattr(captioning, "find_java", lambda: None)


def cider_d(written, references):
    """CIDEr-D as defined by Vedantam et al. (2015), section 4, with its clipping and length penalty."""

    def grams(text, n):
        words = text.split()
        return collections.Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    scores = np.zeros(len(written))
    for n in range(1, 5):
        seen = collections.Counter(gram for some in references for gram in {g for text in some for g in grams(text, n)})
        rare = {gram: math.log(len(references) / count) for gram, count in seen.items()}

        def weigh(text, n=n, rare=rare):
            return {gram: count * rare.get(gram, math.log(len(references))) for gram, count in grams(text, n).items()}

        for clip, (guess, some) in enumerate(zip(written, references, strict=True)):
            ours = weigh(guess)
            for text in some:
                theirs = weigh(text)
                dot = sum(min(ours[gram], theirs[gram]) * theirs[gram] for gram in ours if gram in theirs)
                norm = math.sqrt(sum(v * v for v in ours.values()) * sum(v * v for v in theirs.values()))
                length = len(guess.split()) - len(text.split())
                penalty = math.exp(-(length**2) / (2 * 6**2))
                scores[clip] += 10 / 4 * penalty * (dot / norm if norm else 0) / len(some)
    return scores.mean()


def test_cider_d_bleu_and_rouge_equal_pycocoevalcap(no_java):
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    written, references = random_captions(0, 40)
    result = caption_scores(written, references, resamples=50)
    truths, guesses = dict(enumerate(references)), {clip: [text] for clip, text in enumerate(written)}
    assert result["cider_d"] == pytest.approx(Cider().compute_score(truths, guesses)[0], abs=1e-12)
    assert result["rouge_l"] == pytest.approx(Rouge().compute_score(truths, guesses)[0], abs=1e-12)
    bleu, _ = Bleu(4).compute_score(truths, guesses, verbose=0)
    assert [result[f"bleu_{n}"] for n in range(1, 5)] == pytest.approx(bleu, abs=1e-8)
    assert result["cider_d"] == pytest.approx(cider_d(written, references), abs=1e-9)


def test_intervals_are_about_the_values(no_java):
    result = caption_scores(*random_captions(1, 60), resamples=200)
    for name in ("cider_d", "rouge_l", "bleu_1", "bleu_4"):
        low, high = result[f"{name}_interval"]
        assert low < result[name] < high, name


@pytest.mark.process
def test_the_published_example_with_java():
    result = caption_scores(WRITTEN, REFERENCES, resamples=20)
    assert result["tokeniser"] == "ptb" and result["not_computed"] == {}
    assert {name: round(result[name], 4) for name in EXAMPLE} == EXAMPLE


@pytest.mark.process
def test_tokens_equal_those_of_ptb():
    (guesses, truths), name = tokenise([["A dog's bark, LOUD!"], [""]], [["Two\nlines."], ["It isn't so - really;"]])
    assert name == "ptb"
    assert guesses == {0: ["a dog 's bark loud"], 1: [""]}
    assert truths == {0: ["two lines"], 1: ["it is n't so really"]}


def test_without_java_the_results_say_so(no_java):
    result = caption_scores(["A man, speaking!"], [["a man speaking"]], resamples=5)
    assert result["tokeniser"] == "words" and result["bleu_3"] == pytest.approx(1.0)
    assert result["not_computed"] == {"meteor": "needs Java: install a Java runtime that provides `java`"}


@pytest.mark.process
def test_a_broken_java_is_an_error(monkeypatch, tmp_path):
    broken = tmp_path / "java"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(CaptioningError, match="returned 1 of 4 clips; try `java -version`"):
        caption_scores(WRITTEN, REFERENCES, resamples=5)
    with pytest.raises(RuntimeError, match="Java program, which failed"):
        captioning._meteor({0: ["rain"]}, {0: ["rain"]})


def test_spice_and_fense_name_their_requirements(no_java):
    result = caption_scores(WRITTEN, REFERENCES, resamples=5, extra=("spice", "fense"))
    assert result["not_computed"]["spice"].startswith(
        "needs stanford-corenlp-3.6.0.jar and stanford-corenlp-3.6.0-models"
    )
    assert "pip install aac-metrics && aac-metrics-download" in result["not_computed"]["fense"]
    assert "spice" not in result and "spider" not in result


def test_spider_is_the_mean_of_cider_d_and_spice(no_java, monkeypatch):
    scores = {"spice": lambda *texts: {"spice": np.array([0.2, 0.4])}}
    monkeypatch.setattr(captioning, "EXTRA_SCORES", scores)
    result = caption_scores(WRITTEN, REFERENCES, resamples=5, extra=("spice",))
    assert result["spider"] == pytest.approx((result["cider_d"] + 0.3) / 2)


def task_of(captions, tokenizer):
    clips = [
        EvaluationClip(f"clip{n}", np.full(160 + n, n, np.int16), tuple(some), (), n) for n, some in enumerate(captions)
    ]
    return captioning_task(read_clip_set("tiny", clips, tokenizer, 24))


def test_each_clip_with_references_is_captioned_once(no_java, tokenizer):
    task = task_of([["a dog barks"], [], ["rain falls", "it rains"]], tokenizer)
    written = {160: "a dog barks", 162: ""}
    generator = CaptionGenerator(lambda waveforms: [written[len(waveform)] for waveform in waveforms], {"beam": 3})
    result = evaluate(HashingEmbedder(), {}, [task], resamples=5, generator=generator)["captioning"]["tiny"]
    counts = [result[name] for name in ("n_clips", "n_captions", "captions_per_clip", "n_empty")]
    assert counts == [2, 3, [1, 2], 1]
    assert result["decoding"] == {"beam": 3} and result["set_size"] == 3
    assert result["examples"][1] == {"written": "", "references": ["rain falls", "it rains"]}


def test_missing_requirements_are_named(no_java, tokenizer, monkeypatch):
    task = task_of([["a dog barks"], ["rain"]], tokenizer)
    with pytest.raises(CaptioningError, match="'tiny' is for captioning, and this model has no caption decoder"):
        evaluate(HashingEmbedder(), {}, [task])
    monkeypatch.setitem(sys.modules, "pycocoevalcap.bleu.bleu_scorer", None)
    generator = CaptionGenerator(lambda waveforms: [""] * len(waveforms), {})
    with pytest.raises(CaptioningError, match=r"need pycocoevalcap .*pip install 'slap-jax\[eval\]'"):
        evaluate(HashingEmbedder(), {}, [task], generator=generator)
