import dataclasses
import json
import logging
import os
import shutil

import numpy as np
import pytest
import scipy.signal
import soundfile
from ml_collections import ConfigDict

from slap_jax.config.defaults import default_config
from slap_jax.data.batches.augment import (
    Augmenter,
    AugmentError,
    add_noise,
    draw_gain,
    in_room,
    lead_in_samples,
)
from slap_jax.data.batches.clips import ClipPlanner
from slap_jax.data.batches.pipeline import DataMismatchError, TrainBatches
from slap_jax.data.batches.rows import open_sources
from slap_jax.data.batches.stream import ClipReference, generator_at
from slap_jax.data.records import open_split
from tests.data.batches.test_pipeline import clips_of, close, global_batches, hosts, same
from tests.data.tiny_data import tiny_config, tone


def settings(**changes) -> ConfigDict:
    augment = default_config().data.augment
    augment.update(lead_in_seconds=0.0, gain_db=0.0)
    augment.update(changes)
    return augment


def clip(seconds: float = 0.2) -> np.ndarray:
    return (tone(seconds) * 20_000).astype(np.int16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    directory = tmp_path_factory.mktemp("augment")
    generator = np.random.default_rng(0)
    (directory / "noise/deep").mkdir(parents=True)
    (directory / "room").mkdir()
    soundfile.write(directory / "noise/long.wav", generator.normal(0, 0.1, 48_000), 48_000)
    soundfile.write(directory / "noise/deep/short.flac", generator.normal(0, 0.1, (800, 2)), 16_000)
    decay = np.exp(-np.arange(1_600) / 200.0) * generator.normal(0, 0.3, 1_600)
    decay[5] = 1.0
    soundfile.write(directory / "room/hall.wav", np.concatenate([np.zeros(100), decay]), 16_000, subtype="FLOAT")
    return directory


def test_gain_and_lead_in_are_on_by_default_and_nothing_else():
    augment = default_config().data.augment
    assert augment.gain_db >= 12 and augment.lead_in_seconds >= 1.2
    augment.update(gain_db=0.0)
    assert not Augmenter(augment).active  # the planner adds the lead-in, and nothing changes samples


def test_gain_is_uniform_in_decibels_below_full_scale():
    augment, original = Augmenter(settings(gain_db=6.0)), clip()
    gains = []
    for position in range(300):
        changed = original.copy()
        augment(changed, generator_at(3, position))
        middle = np.abs(original) > 2_000
        unclipped = middle & (np.abs(changed) < 32_000)
        gains.append(20 * np.log10(np.median(changed[unclipped] / original[unclipped])))
        assert changed.dtype == np.int16
    assert -6.05 < min(gains) < -5.7 and 5.7 < max(gains) < 6.05
    assert abs(np.mean(gains)) < 0.5


def test_gain_never_clips_and_never_amplifies_a_clip_at_full_scale():
    draws = np.linspace(0.0, 1.0, 101)[:-1]
    for peak in (1e-4, 0.1, 0.3, 0.9, 32_767 / 32_768, 1.0):
        gains = np.array([draw_gain(18.0, peak, draw) for draw in draws])
        headroom_db = 20 * np.log10(32_767 / 32_768 / peak)
        decibels = 20 * np.log10(gains)
        assert decibels[0] == pytest.approx(-18) and np.diff(decibels, n=2) == pytest.approx(0, abs=1e-9)
        assert decibels[-1] < np.clip(headroom_db, 0, 18) + 1e-9 and np.diff(decibels).min() > 0.17
        assert peak * gains.max() <= max(peak, 32_767 / 32_768)
    assert draw_gain(18.0, 0.0, 0.25) == pytest.approx(10 ** (-9 / 20))  # silence has any gain
    assert {draw_gain(0.0, 0.5, draw) for draw in draws} == {1.0}
    loud = np.array([32_767, -32_768, 0, 5_000] * 50, np.int16)
    augment, original = Augmenter(settings(gain_db=12.0)), loud.copy()
    for position in range(30):
        changed = original.copy()
        augment(changed, generator_at(1, position))
        assert np.abs(changed.astype(int)).max() <= 32_768 and abs(changed[3]) <= 5_000


def test_a_lead_in_is_as_long_as_the_clip_leaves_room_for():
    uniform = np.linspace(0.0, 1.0, 1_001)[:-1]
    samples = lead_in_samples(1.5, 10**6, uniform)
    assert samples.min() == 0 and 0.99 * 24_000 < samples.max() < 24_000
    assert samples.mean() == pytest.approx(6_000, rel=0.01)
    assert (samples < 2_560).mean() == pytest.approx((2_560 / 24_000) ** (1 / 3), abs=0.01)
    np.testing.assert_array_equal(lead_in_samples(1.5, np.array([5, 0, -7]), np.array([0.9, 0.9, 0.9])), [5, 0, 0])
    assert not lead_in_samples(0.0, 10**6, uniform).any()


@pytest.mark.parametrize("snr", [-5.0, 0.0, 20.0])
def test_noise_has_the_requested_signal_to_noise_ratio(snr):
    waveform, noise = tone(0.3), np.random.default_rng(1).normal(0, 0.03, 4_800).astype(np.float32)
    added = add_noise(waveform, noise, snr) - waveform
    assert 10 * np.log10(np.mean(waveform**2) / np.mean(added**2)) == pytest.approx(snr, abs=1e-3)


def test_noise_covers_the_lead_in_and_its_level_is_that_of_the_clip_alone():
    waveform, noise = tone(0.3), np.random.default_rng(1).normal(0, 0.03, 6_400).astype(np.float32)
    late = np.concatenate([np.zeros(1_600, np.float32), waveform])
    added = add_noise(late, noise, 10.0, 1_600) - late
    assert 10 * np.log10(np.mean(waveform**2) / np.mean(added**2)) == pytest.approx(10.0, abs=1e-3)
    assert np.abs(added[:1_600]).max() > 0


def test_silence_stays_silent_and_silent_noise_adds_nothing():
    silence, waveform = np.zeros(100, np.float32), tone(100 / 16_000)
    np.testing.assert_array_equal(add_noise(silence, waveform, 0.0), silence)
    np.testing.assert_array_equal(add_noise(waveform, silence, 0.0), waveform)
    np.testing.assert_array_equal(in_room(silence, waveform), silence)


def test_a_room_is_a_convolution_that_starts_at_the_direct_sound_and_keeps_the_energy():
    waveform = tone(0.2, frequency=300.0)
    impulse = np.zeros(900, np.float32)
    impulse[70], impulse[470] = 1.0, 0.5
    wet = in_room(waveform, impulse)
    expected = waveform.copy()
    expected[400:] += 0.5 * waveform[:-400]
    expected *= np.sqrt(np.mean(waveform**2) / np.mean(expected**2))
    np.testing.assert_allclose(wet, expected, atol=1e-5)
    direct_only = np.zeros(50, np.float32)
    direct_only[30] = 0.2
    np.testing.assert_allclose(in_room(waveform, direct_only), waveform, atol=1e-5)


def test_augmentations_depend_on_the_position_only(folder):
    chosen = settings(
        gain_db=3.0,
        noise_dir=str(folder / "noise"),
        noise_probability=0.5,
        room_dir=str(folder / "room"),
        room_probability=0.5,
    )
    augment, again = Augmenter(chosen), Augmenter(chosen)
    assert augment.active and augment.fingerprint == again.fingerprint
    assert augment.fingerprint["noise files"][0].startswith("short.flac ")
    changed = []
    for first, order in ((augment, range(40)), (again, reversed(range(40)))):
        results = {}
        for position in order:
            results[position] = clip()
            first(results[position], generator_at(9, position))
        changed.append(results)
    assert all(np.array_equal(changed[0][position], changed[1][position]) for position in range(40))
    assert len({result.tobytes() for result in changed[0].values()}) == 40


def test_turning_one_augmentation_on_does_not_change_the_draws_of_the_others(folder):
    gain, both = (
        Augmenter(settings(gain_db=3.0)),
        Augmenter(settings(gain_db=3.0, room_dir=str(folder / "room"), room_probability=0.5)),
    )
    equal = 0
    for position in range(60):
        first, second = clip(), clip()
        gain(first, generator_at(1, position))
        both(second, generator_at(1, position))
        equal += np.array_equal(first, second)
    assert 15 < equal < 45  # clips without a room response have the same gain


def test_a_long_noise_is_cropped_at_random_and_a_short_one_repeats(folder, tmp_path):
    ramp = np.linspace(0.1, 0.9, 32_000).astype(np.float32)
    soundfile.write(tmp_path / "ramp.wav", ramp, 16_000, subtype="FLOAT")
    augment = Augmenter(settings(noise_dir=str(tmp_path), noise_probability=1.0, noise_snr_db=(0.0, 0.0)))
    slopes = set()
    for position in range(12):
        samples = clip(0.5)
        augment(samples, generator_at(2, position))
        slopes.add(round(float(np.polyfit(np.arange(8_000), samples.astype(float), 1)[0]), 3))
    assert len(slopes) > 8
    only_short = Augmenter(settings(noise_dir=str(folder / "noise/deep"), noise_probability=1.0))
    samples = clip(0.4)  # eight times as long as the noise
    only_short(samples, generator_at(2, 0))
    difference = samples.astype(float) - clip(0.4)
    correlation = scipy.signal.correlate(difference, difference[:800], mode="valid")[::800]
    assert np.all(correlation[1:] > 0.8 * correlation[0])


@pytest.mark.parametrize("kind", ["noise", "room"])
def test_folders_without_a_usable_file_are_an_error_before_training(tmp_path, kind, dataset, tokenizer):
    def use(directory) -> ConfigDict:
        return settings(**{f"{kind}_dir": str(directory), f"{kind}_probability": 0.1})

    with pytest.raises(AugmentError, match=rf"augment\.{kind}_dir is .*nothing', which is not a folder"):
        Augmenter(use(tmp_path / "nothing"))
    with pytest.raises(AugmentError, match=rf"augment\.{kind}_dir is .*, which holds no audio files"):
        Augmenter(use(tmp_path))
    with pytest.raises(AugmentError, match=rf"augment\.{kind}_dir is '', which is not a folder"):
        Augmenter(use(""))
    write_broken_files(tmp_path)
    config = tiny_config(dataset, tokenizer)
    config.data.augment = use(tmp_path)
    with pytest.raises(AugmentError, match=r"no readable audio file, only .*empty\.wav \(.*none\.wav \(no samples\)"):
        TrainBatches(config, tokenizer)


def write_broken_files(directory) -> None:
    (directory / "text.wav").write_text("not audio")
    (directory / "empty.wav").write_bytes(b"")
    soundfile.write(directory / "none.wav", np.zeros(0), 16_000)
    shutil.copy(directory / "none.wav", os.fsencode(directory) + b"/caf\xe9.wav")


@pytest.mark.parametrize("kind", ["noise", "room"])
def test_broken_files_are_left_out_with_one_warning(tmp_path, kind, dataset, tokenizer, caplog):
    write_broken_files(tmp_path)
    soundfile.write(tmp_path / "good.wav", tone(0.1), 16_000)
    config = tiny_config(dataset, tokenizer)
    config.data.augment.update({f"{kind}_dir": str(tmp_path), f"{kind}_probability": 1.0})
    with caplog.at_level(logging.WARNING):
        train = TrainBatches(config, tokenizer)
        global_batches([train], 2)
        train.close()
    (warning,) = caplog.messages
    assert "4 files cannot be read as audio and are not used" in warning
    assert r"caf\udce9.wav (a name that is not UTF-8)" in warning  # escaped: a log file could not store the name
    assert all(f"{name}.wav (" in warning for name in ("text", "empty", "none")) and "good.wav" not in warning
    fingerprint = Augmenter(config.data.augment).fingerprint[f"{kind} files"]
    assert [name.split()[0] for name in fingerprint] == ["good.wav"]


@pytest.mark.parametrize("kind", ["noise", "room"])
def test_a_file_damaged_behind_its_header_is_skipped_with_one_warning(tmp_path, kind, caplog):
    samples = np.full(1_600, np.nan)
    soundfile.write(tmp_path / "nan.wav", samples, 16_000, subtype="FLOAT")
    augment = Augmenter(settings(**{f"{kind}_dir": str(tmp_path), f"{kind}_probability": 1.0}))
    assert augment.rejected == []
    with caplog.at_level(logging.WARNING):
        for position in range(3):
            changed = clip()
            augment(changed, generator_at(0, position))
            np.testing.assert_array_equal(changed, clip())
    (warning,) = caplog.messages
    assert "nan.wav has 1600 NaN or infinite samples" in warning


def test_batches_are_augmented_the_same_way_on_every_number_of_hosts(dataset, tokenizer, folder):
    config = tiny_config(dataset, tokenizer)
    config.data.augment.update(gain_db=4.0, noise_dir=str(folder / "noise"), noise_probability=0.7)
    plain = TrainBatches(tiny_config(dataset, tokenizer), tokenizer)
    one, pair = [TrainBatches(config, tokenizer)], [TrainBatches(config, tokenizer, index, 2) for index in range(2)]
    first, second = global_batches(one, 3), global_batches(pair, 3)
    assert all(same(a, b) for a, b in zip(first, second, strict=True))
    untouched = global_batches([plain], 3)
    for changed, original in zip(first, untouched, strict=True):
        assert not np.array_equal(changed["waveform"], original["waveform"])
        np.testing.assert_array_equal(changed["text_tokens"], original["text_tokens"])
        padding = np.repeat(original["audio_segment_ids"] == 0, 2_560, axis=1)
        assert not changed["waveform"][padding].any()
    for train in (plain, *one, *pair):
        train.close()


def with_lead_in(dataset, tokenizer, **augment) -> ConfigDict:
    config = tiny_config(dataset, tokenizer)
    config.data.augment.update(lead_in_seconds=0.6, **augment)
    return config


def test_a_lead_in_is_silence_before_the_samples_that_the_clip_has_without_it(dataset, tokenizer):
    stored = {record.key: record.waveform() for record in open_split(dataset, "train")}
    longest = round(2.56 * 16_000)
    train = hosts(with_lead_in(dataset, tokenizer), tokenizer, 1)
    lead_ins = []
    for batch in global_batches(train, 6):
        assert batch["waveform"].shape == (8, 16 * 2_560) and batch["waveform"].dtype == np.int16
        for key, samples, _ in clips_of(batch):
            whole = stored[key]
            assert len(samples) <= longest
            if len(whole) >= longest:  # a crop has no room for a lead-in
                assert (samples != 0).mean() > 0.9
                continue
            first = int(np.flatnonzero(whole)[0])  # the stored samples may begin with a zero
            lead_in = int(np.flatnonzero(samples)[0]) - first
            np.testing.assert_array_equal(samples[lead_in : lead_in + len(whole)], whole)
            assert not samples[lead_in + len(whole) :].any()
            lead_ins.append(lead_in)
    assert min(lead_ins) >= 0 and max(lead_ins) < 0.6 * 16_000
    assert len(lead_ins) > 40 and len(set(lead_ins)) > 30 and max(lead_ins) > 6_000 and np.median(lead_ins) < 2_560
    close(train)


def test_a_lead_in_changes_nothing_else_in_the_stream(dataset, tokenizer):
    plans = []
    for config in (tiny_config(dataset, tokenizer), with_lead_in(dataset, tokenizer)):
        planner = ClipPlanner(config, tokenizer, open_sources(config))
        plans.append([planner(ClipReference(0, position, position % 24)) for position in range(48)])
    plain, late = plans
    assert plain == [dataclasses.replace(plan, lead_in=0) for plan in late]
    assert sum(plan.lead_in > 0 for plan in late) > 40


def test_lead_in_and_gain_resume_exactly_on_any_number_of_hosts(dataset, tokenizer):
    config = with_lead_in(dataset, tokenizer, gain_db=12.0)
    one, two = hosts(config, tokenizer, 1), hosts(config, tokenizer, 2)
    expected = global_batches(one, 5)
    assert all(same(a, b) for a, b in zip(global_batches(two, 2), expected[:2], strict=True))
    state = {**two[0].get_state(), "states": {**two[0].get_state()["states"], **two[1].get_state()["states"]}}
    resumed = hosts(config, tokenizer, 4)
    for host in resumed:
        host.set_state(json.loads(json.dumps(state)))
    assert all(same(a, b) for a, b in zip(global_batches(resumed, 3), expected[2:], strict=True))
    other = config.copy_and_resolve_references()
    other.seed = 1
    reseeded = hosts(other, tokenizer, 1)
    assert not same(global_batches(reseeded, 1)[0], expected[0])
    close([*one, *two, *resumed, *reseeded])


def test_a_changed_lead_in_or_gain_is_a_mismatch_and_none_is_as_before_they_existed(dataset, tokenizer):
    def fingerprint(**augment):
        return Augmenter(settings(**augment)).fingerprint

    off = {f"config.data.augment.{name}" for name in ("gain_db", "noise_dir", "noise_probability", "noise_snr_db")}
    assert fingerprint().keys() == off | {
        "config.data.augment.room_dir",
        "config.data.augment.room_probability",
        "noise files",
        "room files",
    }
    kinds = [fingerprint(), fingerprint(gain_db=6.0), fingerprint(gain_db=7.0), fingerprint(lead_in_seconds=1.0)]
    assert all(a != b for number, a in enumerate(kinds) for b in kinds[:number])
    old = TrainBatches(with_lead_in(dataset, tokenizer), tokenizer)
    new = TrainBatches(with_lead_in(dataset, tokenizer, gain_db=3.0), tokenizer)
    with pytest.raises(DataMismatchError, match="gain_db"):
        new.set_state(old.get_state())
    close([old, new])
