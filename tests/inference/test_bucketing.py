"""Length bucketing: bucket sizes, rows per program, the mesh in context, and streams in bounded memory."""

import jax
import numpy as np
import pytest

from slap_jax.config.defaults import default_config
from slap_jax.inference.bucketing import ACCELERATOR_TOKENS, LengthBucketing, bucket_size
from slap_jax.parallel.sharding import compiling_for, create_mesh

pytestmark = pytest.mark.compile


def test_functions_are_traced_with_the_mesh_in_context():
    mesh = create_mesh(default_config().parallel)
    traced_in = []

    @jax.jit
    def function(rows):
        traced_in.append(jax.sharding.get_abstract_mesh().shape)
        return rows * 2.0

    def build(indices, rows, bucket):
        return (np.asarray([[index] for index in indices] + [[0]] * (rows - len(indices)), np.float32),)

    results = LengthBucketing(mesh).run(function, build, [1, 1, 1], 1, 1)
    assert [float(result[0]) for result in results] == [0.0, 2.0, 4.0]
    assert [dict(shape) for shape in traced_in] == [dict(mesh.shape)]
    assert jax.sharding.get_abstract_mesh().empty


def test_rows_of_a_program_follow_the_platform_it_is_compiled_for():
    assert LengthBucketing().rows_per_call(128) == 1  # on a CPU
    with compiling_for("tpu"):
        assert LengthBucketing().rows_per_call(128) == ACCELERATOR_TOKENS // 128
    assert LengthBucketing(tokens_per_call=1_000).rows_per_call(300) == 3
    assert LengthBucketing(tokens_per_call=1_000).rows_per_call(3_000) == 1


def test_buckets_waste_at_most_a_quarter():
    for length in range(1, 5_000):
        bucket = bucket_size(length)
        assert length <= bucket <= length * 1.25
    assert len({bucket_size(length) for length in range(1, 5_000)}) < 45
    assert bucket_size(3, smallest=16) == 16


def items_of(lengths, rows, monkeypatch, waiting=1_000):
    """Streams items of these lengths; returns each item, its result, and how many items were fetched before it."""
    monkeypatch.setattr("slap_jax.inference.bucketing._WAITING_TOKENS", waiting)
    fetched = 0

    def items():
        nonlocal fetched
        for place, length in enumerate(lengths):
            fetched += 1
            yield place, length

    def build(members, rows, bucket):
        places = [place for place, _ in members]
        return (np.array([[bucket, place] for place in places] + [[bucket, -1]] * (rows - len(places)), np.int32),)

    function = jax.jit(lambda row: row * 10)
    stream = LengthBucketing(tokens_per_call=rows * 4).stream(function, build, items(), lambda item: item[1], 4, 1)
    return [(item, row.tolist(), fetched) for item, row in stream]


def test_a_stream_gives_every_item_its_own_row(monkeypatch):
    lengths = [3, 6, 4, 4, 5, 2, 6, 1]
    result = items_of(lengths, 3, monkeypatch)
    assert sorted(item for item, _, _ in result) == list(enumerate(lengths))
    for (place, length), row, _ in result:
        assert row == [10 * {4: 4, 5: 5, 6: 6}[max(4, length)], 10 * place]
    # Rows of a length wait for each other: the first three of bucket 4 start together.
    assert [item[0] for item, _, _ in result[:3]] == [0, 2, 3]


def test_a_stream_of_single_rows_keeps_the_order_and_holds_few(monkeypatch):
    lengths = [4, 6, 5] * 10
    result = items_of(lengths, 1, monkeypatch)
    assert [item for item, _, _ in result] == list(enumerate(lengths))
    assert all(fetched <= place + 4 for (place, _), _, fetched in result)


def test_every_row_is_emitted_eventually(monkeypatch):
    """Items of rare lengths are computed in partly filled rows before too many of them wait."""
    lengths = [4, 5, 6, 7, 8, 10] * 6
    result = items_of(lengths, 100, monkeypatch, waiting=40)
    assert sorted(item for item, _, _ in result) == list(enumerate(lengths))
    # At most 40 tokens wait, 8 items of 5 or more, and four programs with a few rows each run.
    assert max(fetched - given for given, (_, _, fetched) in enumerate(result)) < 20
    assert max(fetched - given for given, (_, _, fetched) in enumerate(items_of(lengths, 100, monkeypatch))) == 36
