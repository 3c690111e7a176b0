"""The parts of a label, and caption policies: exact cases and frequencies of random choices."""

from collections import Counter

import numpy as np
import pytest

from slap_jax.config.defaults import CAPTION_POLICY, source
from slap_jax.data.batches.labels import (
    CaptionPolicy,
    MissingCaptionError,
    caption_policy,
    choose_caption,
    label_keys,
    label_values,
    tag_texts,
)
from slap_jax.data.records import Record

DRAWS = 4_000
SHORT, MEDIUM, LONG = "rain", "rain falls on a tin roof at night", " ".join(["rain"] * 30)


def policy(**changes) -> CaptionPolicy:
    return CaptionPolicy(**{**CAPTION_POLICY, **changes})


def record(*captions: str, labels: tuple[str, ...] = ()) -> Record:
    return Record(id="clip7", audio=b"", duration_s=1.0, captions=captions, labels=labels, source="field")


def fractions(clip: Record, chosen: CaptionPolicy) -> dict[str, float]:
    generator = np.random.default_rng(0)
    counts = Counter(choose_caption(clip, chosen, generator) for _ in range(DRAWS))
    return {caption: count / DRAWS for caption, count in counts.items()}


def test_the_policy_of_a_config_is_the_default_with_its_changes():
    chosen = caption_policy(source("data", "train", captions={"choice": "first", "tag_keys": ("kind",)}).captions)
    assert chosen == policy(choice="first", tag_keys=("kind",))


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (policy(), {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}),
        (policy(choice="first"), {"a": 1.0}),
        (policy(choice="first", paraphrase_probability=0.4), {"a": 0.6, "b": 0.2, "c": 0.2}),
        (policy(choice="first", paraphrase_probability=1.0), {"b": 0.5, "c": 0.5}),
    ],
    ids=["uniform", "first", "paraphrase", "paraphrase always"],
)
def test_caption_frequencies_follow_the_policy(chosen, expected):
    assert fractions(record("a", "b", "c"), chosen) == pytest.approx(expected, abs=0.03)


def test_the_only_caption_is_its_own_paraphrase():
    assert fractions(record("a"), policy(choice="first", paraphrase_probability=1.0)) == {"a": 1.0}


def test_length_is_drawn_first_then_a_caption_of_that_length():
    chosen = policy(choice="by_length", length_bounds=(2, 10), length_shares=(1.0, 2.0, 1.0))
    result = fractions(record(SHORT, "wind", MEDIUM, LONG), chosen)
    assert result == pytest.approx({SHORT: 0.125, "wind": 0.125, MEDIUM: 0.5, LONG: 0.25}, abs=0.03)
    # Only the lengths that the clip has are drawn.
    assert fractions(record(SHORT, MEDIUM), chosen) == pytest.approx({SHORT: 1 / 3, MEDIUM: 2 / 3}, abs=0.03)
    # A clip whose lengths all have probability 0 still gets a caption.
    only_short = policy(choice="by_length", length_bounds=(2, 10), length_shares=(1.0, 0.0, 0.0))
    assert fractions(record(MEDIUM, LONG), only_short) == pytest.approx({MEDIUM: 0.5, LONG: 0.5}, abs=0.03)
    assert fractions(record(SHORT, LONG), only_short) == {SHORT: 1.0}


@pytest.mark.parametrize(("words", "length"), [(2, 0), (3, 1), (5, 1), (6, 2)])
def test_bounds_are_the_largest_number_of_words_of_a_length(words, length):
    weights = tuple(float(index == length) for index in range(3))
    chosen = policy(choice="by_length", length_bounds=(2, 5), length_shares=weights)
    others = [" ".join(["x"] * count) for count in (1, 4, 9)]
    del others[length]
    caption = " ".join(["word"] * words)
    assert fractions(record(*others, caption), chosen) == {caption: 1.0}


def test_labels_become_captions_by_template_in_any_order():
    chosen = policy(tag_templates=("the sound of {}", "{}!"))
    result = fractions(record(labels=("label=sea_waves", "wind")), chosen)
    orders = ("sea waves and wind", "wind and sea waves")
    expected = {template.replace("{}", order): 0.25 for template in chosen.tag_templates for order in orders}
    assert result == pytest.approx(expected, abs=0.03)
    three = fractions(record(labels=("a", "b", "c")), policy(tag_templates=("{}",)))
    assert three == pytest.approx(dict.fromkeys(three, 1 / 6), abs=0.03) and len(three) == 6
    assert "c, a and b" in three
    assert fractions(record(labels=("label=dog",)), policy(tag_templates=("a {}",))) == {"a dog": 1.0}


def test_tags_replace_captions_with_the_given_probability():
    chosen = policy(tag_probability=0.25, tag_templates=("{}",))
    assert fractions(record("words", labels=("dog",)), chosen) == pytest.approx({"words": 0.75, "dog": 0.25}, abs=0.03)
    assert fractions(record("words", labels=("fold=3",)), chosen) == {"words": 1.0}
    assert fractions(record("words", labels=("dog",)), policy()) == {"words": 1.0}


def test_which_labels_are_tags():
    labels = ("label=dog", "fold=3", "label=dog", "loud", "label=", "kind=small_dog", "a=b=c")
    assert tag_texts(labels, ("label",)) == ["dog", "loud"]
    assert tag_texts(labels, ("kind", "fold")) == ["3", "loud", "small dog"]
    assert tag_texts(labels, ()) == ["dog", "3", "loud", "small dog", "b=c"]


def test_the_choice_depends_on_record_policy_and_generator_only():
    clip = record(SHORT, MEDIUM, LONG, labels=("rain", "wind"))
    chosen = policy(choice="by_length", tag_probability=0.3)

    def drawn(seed: int) -> list[str]:
        generator = np.random.default_rng(seed)
        return [choose_caption(clip, chosen, generator) for _ in range(20)]

    assert drawn(1) == drawn(1) != drawn(2)


def test_a_record_without_any_caption_is_an_error_that_names_it():
    with pytest.raises(
        MissingCaptionError, match=r"record field/clip7 has no captions, and none of its labels \(none\)"
    ):
        choose_caption(record(), policy(), np.random.default_rng(0))
    with pytest.raises(
        MissingCaptionError, match=r"\(fold=3, kind=dog\) is a plain word or of key label; write its label"
    ):
        choose_caption(record(labels=("fold=3", "kind=dog")), policy(), np.random.default_rng(0))


def test_labels_are_pairs_or_plain_words():
    labels = ("dog", "drum=kick=drum", "mood=calm", "mood=slow", "mood=calm", "=empty")
    assert label_values(labels, "drum") == ["kick=drum"] and label_values(labels, "mood") == ["calm", "slow"]
    assert label_values(labels, "dog") == [] and label_values(labels, "") == ["empty"] and label_values((), "x") == []
    assert label_keys([labels, ["kind=a"]]) == ["", "drum", "kind", "mood"] and label_keys([["dog"], []]) == []
