import logging
import os
import shutil

import numpy as np
import pytest
import scipy.signal
import soundfile
from ml_collections import ConfigDict

from slap_jax.config.defaults import default_config
from slap_jax.data.batches.augment import Augmenter, AugmentError, add_noise, in_room
from slap_jax.data.batches.pipeline import TrainBatches
from slap_jax.data.batches.stream import generator_at
from tests.data.batches.test_pipeline import global_batches, same
from tests.data.tiny_data import tiny_config, tone


def settings(**changes) -> ConfigDict:
    augment = default_config().data.augment
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


def test_nothing_is_on_by_default():
    assert not Augmenter(settings()).active


def test_gain_is_uniform_in_decibels_and_clips():
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


@pytest.mark.parametrize("snr", [-5.0, 0.0, 20.0])
def test_noise_has_the_requested_signal_to_noise_ratio(snr):
    waveform, noise = tone(0.3), np.random.default_rng(1).normal(0, 0.03, 4_800).astype(np.float32)
    added = add_noise(waveform, noise, snr) - waveform
    assert 10 * np.log10(np.mean(waveform**2) / np.mean(added**2)) == pytest.approx(snr, abs=1e-3)


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
