from benchmarks.search import measure


def test_measures_of_a_small_index(tmp_path):
    found = measure(tmp_path / "index", windows=2_000, embed_dim=64, queries=5)
    assert found["windows"] == 2_000 and found["megabytes"] == round(2_000 * (64 * 4 + 16) / 1e6, 1)
    assert found["first_ten_that_agree"] > 0.8 and found["exact_seconds"] > 0
