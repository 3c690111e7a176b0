from benchmarks.packing import duration_mix, grain_first_fit, our_packer

SIZES = {"columns": 512, "slots": 32, "text_tokens": 1_024}


def test_our_rows_of_the_duration_mix_are_fuller_than_grains():
    ours, grains = our_packer(5_000, 16, **SIZES), grain_first_fit(5_000, 16, **SIZES)
    assert 0.985 <= grains["fill"] + 0.005 < ours["fill"] < 1.0
    assert ours["text_fill"] < 1.0 and ours["slot_fill"] < 1.0


def test_mix_is_seeded_and_within_its_bounds():
    columns, tokens = duration_mix(5_000)
    assert (columns, tokens) == duration_mix(5_000) != duration_mix(5_000, seed=1)
    assert (min(columns), max(columns)) == (4, 188)  # 0.5 s, 30 s
    assert min(tokens) >= 4 and max(tokens) <= 64
