"""Synthetic sound scenes: captioned clips of 0.5 to 30 s, generated from (seed, index), that test compositionality.

A scene is one sound, two sounds in order ("a low rising chirp, then three fast clicks") or a short sound over a
sustained one ("a slow low-pitched siren while a steady hiss plays"). Held-out scenes contain at least one combination
that training scenes never have: a combination of attributes (a fast gallop of drum hits) or an ordered pair of kinds (a
hiss, then a falling chirp, where training has the opposite order). All parts of these combinations occur in training.
A model that retrieves held-out scenes by their captions has therefore learnt the words, not a list of combinations.
"""

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

from slap_jax.data.datasets.scene_sounds import SAMPLE_RATE, SOUND_KINDS
from slap_jax.data.preparation.prepare import Prepared, prepare_records
from slap_jax.data.records import Record, make_record
from slap_jax.errors import UserError

SOURCE = "synthetic_scenes"
SCENES_VERSION = 1  # increased when scenes change for a given seed and index, so that they are prepared again
STRUCTURES = ("single", "sequence", "overlap")
STRUCTURE_PROBABILITIES = (0.35, 0.45, 0.20)

# Training has every value of every attribute, combined with other values or, for kinds with one attribute, in other
# kinds.
HELD_OUT_VARIANTS = {
    "tone": {("low", "square"), ("high", "buzzy")},
    "rising chirp": {("high",)},
    "falling chirp": {("low",)},
    "hiss": {("fading",)},
    "rumble": {("swelling",)},
    "band of noise": {("steady",)},
    "clicks": {("three", "fast")},
    "tremolo": {("low", "fast")},
    "siren": {("high", "slow")},
    "steady beat": {("slow", "beep")},
    "galloping beat": {("fast", "drum")},
}
LOG_SECONDS_DEVIATION = 0.7  # standard deviation of the logarithm of the durations
EDGE_SECONDS = (0.0, 0.08)  # silence before the first and after the last sound
GAP_SECONDS = (0.08, 0.25)  # silence between two sounds in order
BACKGROUND_LEVEL = 0.3
PEAKS = (0.3, 0.9)
_KIND_ORDER = list(SOUND_KINDS)


class SceneError(UserError, ValueError):
    """Scenes with an impossible number, seed or duration."""


@dataclasses.dataclass(frozen=True)
class Sound:
    """One sound of a scene: its kind and one value for each of the kind's attributes."""

    kind: str
    attributes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Composition:
    """The sounds of a scene, before durations and samples are drawn.

    Attributes:
        structure: "single", "sequence" (sounds in temporal order) or "overlap" (foreground, background).
        sounds: one sound, or two of different kinds.
    """

    structure: str
    sounds: tuple[Sound, ...]


@dataclasses.dataclass(frozen=True)
class Scene:
    """A captioned clip.

    Attributes:
        waveform: 16 kHz mono in [-1, 1], quantised to 16 bits, so that lossless storage preserves it exactly.
        captions: canonical caption first, then paraphrases; determined by the composition.
        regions: (onset s, offset s, caption of the sound), by onset.
        labels: "key=value"; `sound=` (scenes of one sound only) is the class for zero-shot classification,
            `structure=` the structure of the composition.
        composition: its sounds.
    """

    waveform: Float32[np.ndarray, " samples"]
    captions: list[str]
    regions: list[tuple[float, float, str]]
    labels: list[str]
    composition: Composition


def describe(sound: Sound) -> tuple[str, str]:
    """Returns the canonical phrase for a sound and a paraphrase."""
    first, second = (*sound.attributes, "", "")[:2]
    match sound.kind:
        case "tone":
            return f"a {first}-pitched {second} tone", f"a {second} tone at a {first} pitch"
        case "rising chirp":
            return f"a {first} rising chirp", f"a {first} chirp sweeping upwards"
        case "falling chirp":
            return f"a {first} falling chirp", f"a {first} chirp sweeping downwards"
        case "hiss" | "rumble" | "band of noise":
            change = {"steady": "stays level", "swelling": "grows louder", "fading": "dies away"}[first]
            return f"a {first} {sound.kind}", f"a {sound.kind} that {change}"
        case "clicks" if first == "one":
            return "a single click", "one click"
        case "clicks":
            spacing = {"slow": "far apart", "fast": "close together"}[second]
            return f"{first} {second} clicks", f"{first} clicks {spacing}"
        case "tremolo":
            return f"a {second} tremolo on a {first}-pitched tone", f"a {first}-pitched tone with {second} tremolo"
        case "siren":
            return f"a {second} {first}-pitched siren", f"a siren wailing at a {second} rate and a {first} pitch"
        case "steady beat" | "galloping beat":
            voice = {"beep": "beeps", "drum": "drum hits"}[second]
            return f"a {first} {sound.kind} of {voice}", f"{voice} in a {first} {sound.kind}"
    raise ValueError(f"unknown sound kind {sound.kind!r}; expected one of {', '.join(SOUND_KINDS)}")


def captions_of(composition: Composition) -> list[str]:
    """Returns the captions of a composition, the canonical one first."""
    (plain, other), *rest = [describe(sound) for sound in composition.sounds]
    if composition.structure == "single":
        return [plain, f"the sound of {plain}", other, f"there is {other}"]
    second_plain, second_other = rest[0]
    if composition.structure == "sequence":
        return [
            f"{plain}, then {second_plain}",
            f"{plain} followed by {second_plain}",
            f"first {other}, and after that {second_other}",
            f"{other}, then {second_other}",
        ]
    return [
        f"{plain} while {second_plain} plays",
        f"{plain} over {second_plain}",
        f"{other}, at the same time {second_other}",
        f"{other} while {second_other} plays",
    ]


def variants(kind: str, held_out: bool | None = None) -> list[tuple[str, ...]]:
    """Lists the attribute combinations of a kind: all (None), held out (True) or in training (False)."""
    everything = itertools.product(*SOUND_KINDS[kind].attributes)
    everything = [values for values in everything if values != ("one", "fast")]  # a single click has no rate
    unseen = HELD_OUT_VARIANTS.get(kind, set())
    return [values for values in everything if held_out is None or (values in unseen) == held_out]


def pair_is_held_out(structure: str, first: str, second: str) -> bool:
    """Returns whether training never has kind `second` after (sequence) or under (overlap) kind `first`.

    A linear rule modulo 5 (sequence) or 4 (overlap) holds out about a fifth or a fourth of the pairs, spreads them
    evenly over the kinds, and leaves the opposite order of most held-out sequences in training.
    """
    row, column = _KIND_ORDER.index(first), _KIND_ORDER.index(second)
    return (3 * row + column) % 5 == 1 if structure == "sequence" else (row + column) % 4 == 1


def is_held_out(composition: Composition) -> bool:
    """Returns whether a composition has a combination of attributes or a pair of kinds that training never has."""
    kinds = [sound.kind for sound in composition.sounds]
    unseen_sound = any(sound.attributes in HELD_OUT_VARIANTS.get(sound.kind, ()) for sound in composition.sounds)
    return unseen_sound or (len(kinds) == 2 and pair_is_held_out(composition.structure, *kinds))


def draw_composition(generator: np.random.Generator, held_out: bool) -> Composition:
    """Samples compositions until one is held out or not, as requested."""

    def pick(options: Sequence[Any]) -> Any:
        return options[int(generator.integers(len(options)))]

    while True:
        structure = STRUCTURES[int(np.searchsorted(np.cumsum(STRUCTURE_PROBABILITIES), generator.random()))]
        kinds = [pick(_KIND_ORDER)]
        if structure == "sequence":
            kinds.append(pick([kind for kind in _KIND_ORDER if kind != kinds[0]]))
        elif structure == "overlap":
            foregrounds = [kind for kind in _KIND_ORDER if not SOUND_KINDS[kind].sustained]
            backgrounds = [kind for kind in _KIND_ORDER if SOUND_KINDS[kind].sustained]
            kinds = [pick(foregrounds), pick(backgrounds)]
        composition = Composition(structure, tuple(Sound(kind, pick(variants(kind))) for kind in kinds))
        if is_held_out(composition) == held_out:
            return composition


def _draw_seconds(sounds: tuple[Sound, ...], total: float, generator: np.random.Generator) -> list[float]:
    """Divides a total duration among consecutive sounds: the minimum for each, and the rest at random."""
    limits = [SOUND_KINDS[sound.kind].seconds(sound.attributes) for sound in sounds]
    spare = max(0.0, total - sum(shortest for shortest, _ in limits))
    room = np.array([longest - shortest for shortest, longest in limits])
    weights = generator.uniform(0.3, 0.7, len(sounds)) * (room > 0)
    extra = np.minimum(spare * weights / max(weights.sum(), 1e-9), room)
    return [shortest + float(more) for (shortest, _), more in zip(limits, extra, strict=True)]


def _synthesise(sound: Sound, seconds: float, generator: np.random.Generator) -> np.ndarray:
    return SOUND_KINDS[sound.kind].synthesise(sound.attributes, round(seconds * SAMPLE_RATE), generator)


def scene(
    seed: int,
    index: int,
    held_out: bool = False,
    *,
    mean_seconds: float = 2.2,
    min_seconds: float = 0.5,
    max_seconds: float = 30.0,
) -> Scene:
    """Generates one scene, determined by the arguments.

    Args:
        seed: seed of the dataset.
        index: index of the scene in the dataset.
        held_out: whether the scene has a held-out combination.
        mean_seconds: mean of the log-normal distribution of durations. The mean of the scenes is slightly higher,
            because each sound has a minimum duration.
        min_seconds: minimum duration.
        max_seconds: maximum duration, at least 5.

    Raises:
        SceneError: the durations are not in order, or seed or index is negative.
    """
    if not 0 < min_seconds <= mean_seconds <= max_seconds or max_seconds < 5:
        raise SceneError(
            f"scene durations min_seconds={min_seconds}, mean_seconds={mean_seconds}, max_seconds={max_seconds}: "
            "expected 0 < min_seconds <= mean_seconds <= max_seconds and max_seconds >= 5"
        )
    if seed < 0 or index < 0:
        raise SceneError(f"scene seed={seed}, index={index}: expected both to be at least 0")
    generator = np.random.default_rng([seed, index, int(held_out)])
    composition = draw_composition(generator, held_out)
    sounds = composition.sounds

    log_mean = np.log(mean_seconds) - LOG_SECONDS_DEVIATION**2 / 2
    total = float(np.clip(generator.lognormal(log_mean, LOG_SECONDS_DEVIATION), min_seconds, max_seconds))
    lead, tail, gap = (
        generator.uniform(*EDGE_SECONDS),
        generator.uniform(*EDGE_SECONDS),
        generator.uniform(*GAP_SECONDS),
    )
    if composition.structure == "overlap":
        foreground, background = (_draw_seconds((sound,), total - lead - tail, generator)[0] for sound in sounds)
        background = min(max(background, foreground), max_seconds - lead - tail)
        foreground = min(foreground, background)
        onset = lead + generator.uniform(0.0, background - foreground)
        starts, seconds, levels = [onset, lead], [foreground, background], [1.0, BACKGROUND_LEVEL]
    elif composition.structure == "sequence":
        seconds = _draw_seconds(sounds, total - lead - tail - gap, generator)
        starts, levels = [lead, lead + seconds[0] + gap], [1.0, generator.uniform(0.6, 1.0)]
    else:
        seconds = _draw_seconds(sounds, total - lead - tail, generator)
        starts, levels = [lead], [1.0]

    end = max(start + length for start, length in zip(starts, seconds, strict=True)) + tail
    waveform = np.zeros(round(max(min(end, max_seconds), min_seconds) * SAMPLE_RATE))
    regions = []
    for sound, start, length, level in zip(sounds, starts, seconds, levels, strict=True):
        samples = _synthesise(sound, length, generator)
        first = round(start * SAMPLE_RATE)
        samples = samples[: len(waveform) - first]
        waveform[first : first + len(samples)] += level * samples
        regions.append((first / SAMPLE_RATE, (first + len(samples)) / SAMPLE_RATE, describe(sound)[0]))
    waveform *= generator.uniform(*PEAKS) / np.max(np.abs(waveform))
    on_grid = (np.round(waveform * 32_768.0) / 32_768.0).astype(np.float32)

    labels = [f"structure={composition.structure}"]
    if composition.structure == "single":
        labels.append(f"sound={sounds[0].kind}")
    return Scene(on_grid, captions_of(composition), sorted(regions), labels, composition)


def scene_records(seed: int, count: int, held_out: bool = False, **durations: float) -> Iterator[Record]:
    """Generates scenes 0 to count - 1 as records.

    Args:
        seed: seed of the dataset.
        count: number of scenes.
        held_out: whether the scenes have held-out combinations.
        **durations: passed to `scene`.
    """
    side = "unseen" if held_out else "seen"
    for index in range(count):
        generated = scene(seed, index, held_out, **durations)
        yield make_record(
            id=f"{seed}-{side}-{index:06d}",
            waveform=generated.waveform,
            captions=generated.captions,
            labels=tuple(generated.labels),
            regions=tuple(generated.regions),
            source=SOURCE,
            caption_source="generated with the audio",
            licence="CC0-1.0",
        )


def prepare_scenes(
    output: str | os.PathLike[str],
    *,
    seed: int = 0,
    train: int = 2_000,
    test: int = 256,
    log: Callable[[str], None] = print,
    **durations: float,
) -> Prepared:
    """Prepares a dataset with training scenes (`train`) and held-out scenes (`test`).

    A second call with the same arguments writes nothing.

    Args:
        output: directory to write to.
        seed: seed of the scenes.
        train: number of training scenes; 0 omits the split.
        test: number of held-out scenes; 0 omits the split.
        log: receives each line of the summary.
        **durations: `mean_seconds`, `min_seconds` and `max_seconds` of `scene`.

    Raises:
        SceneError: there is no scene to make, or the durations are not in order.
    """
    if min(train, test) < 0 or max(train, test) == 0:
        raise SceneError(f"scenes train={train}, test={test}: expected at least 0 of each and more than 0 in total")
    sizes = {"train": train, "test": test}
    splits = {
        split: (size, scene_records(seed, size, held_out=split == "test", **durations))
        for split, size in sizes.items()
        if size
    }
    inputs = {"scenes": {"version": SCENES_VERSION, "seed": seed, **sizes, **durations}}
    return prepare_records(splits, output, inputs, log)
