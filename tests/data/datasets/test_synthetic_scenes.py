import hashlib
import itertools
from collections import defaultdict

import numpy as np
import pytest

from slap_jax.data.batches.labels import label_values
from slap_jax.data.datasets import synthetic_scenes
from slap_jax.data.datasets.scene_sounds import COUNTS, NOISE_BANDS, PITCH_RANGES, SAMPLE_RATE, SOUND_KINDS
from slap_jax.data.datasets.synthetic_scenes import (
    HELD_OUT_VARIANTS,
    STRUCTURES,
    Composition,
    SceneError,
    Sound,
    captions_of,
    describe,
    is_held_out,
    prepare_scenes,
    scene,
    scene_records,
    variants,
)
from slap_jax.data.records import open_split

KINDS = list(SOUND_KINDS)


@pytest.fixture(scope="module")
def training_scenes():
    return [scene(0, index) for index in range(600)]


@pytest.fixture(scope="module")
def held_out_scenes():
    return [scene(0, index, held_out=True) for index in range(300)]


def render(kind, *attributes, seconds=2.0, seed=0):
    shortest, longest = SOUND_KINDS[kind].seconds(attributes)
    samples = round(min(max(seconds, shortest), longest) * SAMPLE_RATE)
    return SOUND_KINDS[kind].synthesise(attributes, samples, np.random.default_rng(seed))


def spectrum(waveform):
    """Power of a Hann-windowed clip and its frequencies in Hz."""
    power = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)))) ** 2
    return power, np.fft.rfftfreq(len(waveform), 1 / SAMPLE_RATE)


def loudest_hertz(waveform):
    power, frequencies = spectrum(waveform)
    return frequencies[np.argmax(power)]


def envelope(waveform, seconds=0.01):
    length = round(seconds * SAMPLE_RATE)
    return np.sqrt(np.mean(waveform[: len(waveform) // length * length].reshape(-1, length) ** 2, axis=1))


def onsets(waveform, seconds=0.01):
    """Times (s) at which it gets loud after 0.06 s or more since the last of them."""
    loud = envelope(waveform, seconds) > 0.3 * envelope(waveform, seconds).max()
    starts = np.flatnonzero(np.diff(np.concatenate([[False], loud]).astype(int)) == 1) * seconds
    return starts[np.diff(starts, prepend=-1.0) > 0.06]


def test_a_scene_depends_on_seed_index_and_side_only():
    first = scene(3, 17)
    others = [scene(4, 17), scene(3, 18), scene(3, 17, held_out=True)]
    again = scene(3, 17)
    np.testing.assert_array_equal(first.waveform, again.waveform)
    assert (first.captions, first.regions, first.labels) == (again.captions, again.regions, again.labels)
    for other in others:
        assert len(other.waveform) != len(first.waveform) or not np.array_equal(other.waveform, first.waveform)


def test_scenes_are_the_same_on_every_machine():
    digest = hashlib.sha256()
    for index in range(40):
        made = scene(11, index, held_out=index % 2 == 1)
        digest.update((made.waveform * 32_768).astype("<i2").tobytes())
        digest.update("|".join(made.captions).encode())
    assert digest.hexdigest() == "34ef6139921cc3dcd6f85334d2efb0ad65862a598341ecc64dce437d438187ea"


def test_waveforms_are_16_bit_samples_in_range(training_scenes, held_out_scenes):
    for made in training_scenes[:100] + held_out_scenes[:100]:
        assert made.waveform.dtype == np.float32 and made.waveform.ndim == 1
        assert 0.25 < np.abs(made.waveform).max() <= 0.9
        np.testing.assert_array_equal(made.waveform * 32_768, np.rint(made.waveform * 32_768))


def test_durations_fill_the_whole_range(training_scenes):
    seconds = np.array([len(made.waveform) for made in training_scenes]) / SAMPLE_RATE
    assert seconds.min() >= 0.5 and seconds.max() <= 30.0
    assert 2.0 < seconds.mean() < 3.0 and np.median(seconds) < seconds.mean()
    longer = np.array([len(scene(0, index, mean_seconds=20.0).waveform) for index in range(40)]) / SAMPLE_RATE
    assert longer.max() <= 30.0 and longer.max() > 25.0
    short = np.array([len(scene(0, index, max_seconds=5.0).waveform) for index in range(100)]) / SAMPLE_RATE
    assert short.max() <= 5.0


def test_no_unseen_combination_is_in_training_and_one_is_in_every_held_out_scene(training_scenes, held_out_scenes):
    assert not any(is_held_out(made.composition) for made in training_scenes)
    assert all(is_held_out(made.composition) for made in held_out_scenes)
    trained = {made.captions[0] for made in training_scenes}
    assert not trained & {made.captions[0] for made in held_out_scenes}


def test_every_part_of_a_held_out_scene_occurs_in_training(training_scenes, held_out_scenes):
    def parts(scenes):
        result = set()
        for made in scenes:
            for position, sound in enumerate(made.composition.sounds):
                result.add((made.composition.structure, position, sound.kind))
                values = zip(itertools.count(), sound.attributes) if len(sound.attributes) > 1 else [(0, "any")]
                result.update((sound.kind, slot, value) for slot, value in values)
                result.update(sound.attributes)
        return result

    assert parts(held_out_scenes) <= parts(training_scenes)


def test_the_split_leaves_most_combinations_to_training_and_hides_some_of_every_kind():
    for kind in KINDS:
        assert len(variants(kind, held_out=False)) > len(variants(kind, held_out=True)) >= 1
        assert set(HELD_OUT_VARIANTS[kind]) <= set(variants(kind))
    pairs = list(itertools.permutations(KINDS, 2))
    seen_variant = {kind: variants(kind, held_out=False)[0] for kind in KINDS}

    def hidden(first, second):
        sounds = (Sound(first, seen_variant[first]), Sound(second, seen_variant[second]))
        return is_held_out(Composition("sequence", sounds))

    held_out = {pair for pair in pairs if hidden(*pair)}
    assert 0.15 < len(held_out) / len(pairs) < 0.25
    assert {first for first, _ in held_out} == {second for _, second in held_out} == set(KINDS)
    reversed_too = [pair for pair in held_out if pair[::-1] in held_out]
    assert len(reversed_too) < 0.2 * len(held_out)  # the other order is in training, so only the order differs


def test_held_out_scenes_are_hard_enough_to_retrieve(held_out_scenes):
    captions = [caption for made in held_out_scenes for caption in made.captions]
    share = {caption: captions.count(caption) / len(held_out_scenes) for caption in set(captions)}
    chance = np.mean([share[caption] for caption in captions])
    assert chance < 0.0125  # so that a recall of 0.25 is at least 20 times chance


def test_a_caption_belongs_to_one_composition_only():
    owners = defaultdict(set)
    sounds = [Sound(kind, values) for kind in KINDS for values in variants(kind)]
    compositions = [Composition("single", (sound,)) for sound in sounds]
    for first, second in itertools.permutations(sounds, 2):
        if first.kind != second.kind:
            compositions.append(Composition("sequence", (first, second)))
            compositions.append(Composition("overlap", (first, second)))
    for composition in compositions:
        captions = captions_of(composition)
        assert len(set(captions)) == len(captions) >= 3
        for caption in captions:
            owners[caption].add(composition)
    assert all(len(result) == 1 for result in owners.values())


def test_labels_name_the_class_of_single_sounds(training_scenes, held_out_scenes):
    for made in training_scenes + held_out_scenes:
        expected = [f"structure={made.composition.structure}"]
        if made.composition.structure == "single":
            expected.append(f"sound={made.composition.sounds[0].kind}")
        assert made.labels == expected
    for scenes in (training_scenes, held_out_scenes):
        assert {made.composition.structure for made in scenes} == set(STRUCTURES)
        classes = {label for made in scenes for label in made.labels if label.startswith("sound=")}
        assert classes == {f"sound={kind}" for kind in KINDS}


def test_regions_say_where_each_sound_is(training_scenes):
    for made in training_scenes[:200]:
        assert len(made.regions) == len(made.composition.sounds)
        for onset, offset, _ in made.regions:
            assert 0 <= onset < offset <= len(made.waveform) / SAMPLE_RATE
            inside = made.waveform[round(onset * SAMPLE_RATE) : round(offset * SAMPLE_RATE)]
            assert np.abs(inside).max() > 0.05
        if made.composition.structure == "sequence":
            (_, first_end, first), (second_start, _, second) = made.regions
            assert second_start > first_end and made.captions[0] == f"{first}, then {second}"
            assert not made.waveform[round(first_end * SAMPLE_RATE) + 1 : round(second_start * SAMPLE_RATE) - 1].any()
        if made.composition.structure == "overlap":
            times = {caption: (onset, offset) for onset, offset, caption in made.regions}
            onset, offset = times[describe(made.composition.sounds[0])[0]]
            background_onset, background_offset = times[describe(made.composition.sounds[1])[0]]
            assert background_onset <= onset and offset <= background_offset + 0.001


@pytest.mark.parametrize("pitch", PITCH_RANGES)
@pytest.mark.parametrize("timbre", ["pure", "square", "buzzy"])
def test_tones_have_the_pitch_and_the_harmonics_of_their_names(pitch, timbre):
    waveform = render("tone", pitch, timbre)
    power, frequencies = spectrum(waveform)
    hertz = loudest_hertz(waveform)
    low, high = PITCH_RANGES[pitch]
    assert low - 2 <= hertz <= high + 2

    def harmonic(number):
        near = np.abs(frequencies - number * hertz) < 0.05 * hertz
        return power[near].sum() / power[np.abs(frequencies - hertz) < 0.05 * hertz].sum()

    audible = 0.01
    assert (harmonic(2) > audible) == (timbre == "buzzy")
    assert (harmonic(3) > audible) == (timbre != "pure")


@pytest.mark.parametrize("pitch", PITCH_RANGES)
def test_chirps_rise_or_fall_as_labelled(pitch):
    for kind, rises in (("rising chirp", True), ("falling chirp", False)):
        waveform = render(kind, pitch, seconds=1.0)
        quarter = len(waveform) // 4
        start, end = loudest_hertz(waveform[:quarter]), loudest_hertz(waveform[-quarter:])
        assert (end > 1.5 * start) if rises else (start > 1.5 * end)


@pytest.mark.parametrize("kind", NOISE_BANDS)
def test_noises_fill_their_band_and_change_as_labelled(kind):
    low, high = NOISE_BANDS[kind]
    for change in ("steady", "swelling", "fading"):
        waveform = render(kind, change)
        power, frequencies = spectrum(waveform)
        assert power[(frequencies >= low - 20) & (frequencies <= high + 20)].sum() > 0.99 * power.sum()
        third = len(waveform) // 3
        decibels = 20 * np.log10(np.std(waveform[-third:]) / np.std(waveform[:third]))
        assert {"steady": abs(decibels) < 3, "swelling": decibels > 15, "fading": decibels < -15}[change]


@pytest.mark.parametrize("attributes", variants("clicks"))
def test_clicks_can_be_counted(attributes):
    count, rate = attributes
    starts = onsets(render("clicks", *attributes))
    assert len(starts) == COUNTS.index(count) + 1
    if len(starts) > 1:
        assert (np.diff(starts) > 0.25).all() == (rate == "slow")


@pytest.mark.parametrize("rate, hertz", [("slow", (2.0, 3.2)), ("fast", (8.5, 12.5))])
def test_tremolo_swings_in_loudness_and_a_siren_in_pitch(rate, hertz):
    loudness = envelope(render("tremolo", "middle", rate, seconds=4.0))
    swing = np.fft.rfftfreq(len(loudness), 0.01)[np.argmax(np.abs(np.fft.rfft(loudness - loudness.mean())))]
    assert hertz[0] < swing < hertz[1]

    siren = render("siren", "high", rate, seconds=4.0)
    frames = siren[: len(siren) // 320 * 320].reshape(-1, 320)
    crossings = (np.diff(np.signbit(frames), axis=1) != 0).sum(axis=1).astype(float)  # proportional to the pitch
    swing = np.fft.rfftfreq(len(crossings), 0.02)[np.argmax(np.abs(np.fft.rfft(crossings - crossings.mean())))]
    assert swing < 2.0 if rate == "slow" else 4.0 < swing < 6.5
    assert crossings.max() > 1.7 * crossings.min()
    assert envelope(siren)[5:-5].min() > 0.6 * envelope(siren).max()


@pytest.mark.parametrize("voice", ["beep", "drum"])
@pytest.mark.parametrize("rate", ["slow", "fast"])
def test_a_steady_beat_is_even_and_a_gallop_is_not(rate, voice):
    even = np.diff(onsets(render("steady beat", rate, voice, seconds=3.0), seconds=0.005))
    assert len(even) >= 5 and even.max() - even.min() < 0.02
    assert (even.mean() > 0.3) == (rate == "slow")
    gallop = np.diff(onsets(render("galloping beat", rate, voice, seconds=4.0), seconds=0.005))
    long, first_short, second_short = gallop[:3]
    assert long > 1.7 * first_short and abs(first_short - second_short) < 0.02
    assert np.diff(onsets(render("galloping beat", "slow", voice), 0.005))[0] > 0.4


def test_records_keep_the_samples_and_metadata():
    records = list(scene_records(5, 4)) + list(scene_records(5, 4, held_out=True)) + list(scene_records(6, 4))
    assert len({record.id for record in records}) == len({record.key for record in records}) == 12
    made, record = scene(5, 2, held_out=True), records[6]
    np.testing.assert_array_equal(record.waveform(), made.waveform * 32_768)
    assert record.duration_s == len(made.waveform) / SAMPLE_RATE
    assert record.captions == tuple(made.captions) and record.labels == tuple(made.labels)
    assert record.regions == tuple(made.regions)
    assert record.source and record.caption_source and record.licence


@pytest.mark.parametrize(
    "arguments, word",
    [
        (dict(seed=-1, index=0), "seed=-1"),
        (dict(seed=0, index=-2), "index=-2"),
        (dict(seed=0, index=0, min_seconds=3.0), "min_seconds=3.0"),
        (dict(seed=0, index=0, max_seconds=2.5), "max_seconds=2.5"),
    ],
)
def test_impossible_arguments_are_errors(arguments, word):
    with pytest.raises(SceneError, match=word):
        scene(**arguments)


def test_prepared_scenes_are_the_scenes(tmp_path):
    prepared = prepare_scenes(tmp_path, seed=7, train=12, test=5, log=lambda line: None)
    assert prepared.clips == {"train": 12, "test": 5} and not prepared.rejected
    for split, held_out in (("train", False), ("test", True)):
        for index, record in enumerate(open_split(tmp_path, split)):
            made = scene(7, index, held_out)
            np.testing.assert_array_equal(record.waveform(), made.waveform * 32_768)
            assert list(record.captions) == made.captions
            assert label_values(record.labels, "structure") == [made.composition.structure]
            assert [caption for _, _, caption in record.regions] == [caption for _, _, caption in made.regions]
            np.testing.assert_allclose([times[:2] for times in record.regions], [times[:2] for times in made.regions])


def test_unchanged_arguments_write_nothing_and_changed_ones_everything(tmp_path, monkeypatch):
    def quiet(line):
        pass

    assert not prepare_scenes(tmp_path, train=4, test=0, log=quiet).reused
    assert prepare_scenes(tmp_path, train=4, test=0, log=quiet).reused
    assert not prepare_scenes(tmp_path, train=4, test=0, max_seconds=5.0, log=quiet).reused
    monkeypatch.setattr(synthetic_scenes, "SCENES_VERSION", 999)
    assert not prepare_scenes(tmp_path, train=4, test=0, max_seconds=5.0, log=quiet).reused


@pytest.mark.parametrize("train, test", [(0, 0), (-1, 5)])
def test_no_scenes_are_refused(tmp_path, train, test):
    with pytest.raises(SceneError, match=f"train={train}, test={test}"):
        prepare_scenes(tmp_path, train=train, test=test)
