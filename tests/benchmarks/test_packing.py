from benchmarks.packing import duration_mix, measure


def test_rows_of_the_duration_mix_are_nearly_full():
    result = measure(bins=32, shards=2, rows=256, columns=512, slots=32, text_tokens=1_024)
    assert 0.985 <= result["fill"] < 1.0
    assert result["text_fill"] < 1.0 and result["slot_fill"] < 1.0


def test_mix_is_seeded_and_within_its_bounds():
    samples, tokens = duration_mix(5_000)
    again, _ = duration_mix(5_000)
    assert (samples == again).all() and not (samples == duration_mix(5_000, seed=1)[0]).all()
    assert samples.min() >= 8_000 and samples.max() == 480_000
    assert tokens.min() >= 4 and tokens.max() <= 64
