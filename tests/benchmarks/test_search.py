from benchmarks.search import measure


def test_a_small_index_is_measured(tmp_path):
    facts = measure(tmp_path / "index", windows=2_000, embed_dim=64, queries=5)
    assert facts["windows"] == 2_000 and facts["megabytes"] >= round(2_000 * 64 * 4 / 1e6, 1)
    assert facts["first_ten_that_agree"] > 0.8 and facts["exact_to_numpy"] > 0
