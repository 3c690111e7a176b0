"""Collectives and stored arrays, read from the text of a program: kinds, bytes, groups, and repetition by loops."""

import jax
import jax.numpy as jnp
import pytest

from slap_jax.aot.hlo import array_bytes, computations, find_collectives, largest_arrays

TPU = """
HloModule jit_step, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  ROOT %sum = f32[] add(%a, %a)
}

%all-reduce-scatter.1 (x: f32[64]) -> f32[16] {
  %x = f32[64]{0} parameter(0)
  %r = f32[64]{0} all-reduce(%x), channel_id=7, replica_groups={{0,1,2,3}}, use_global_device_ids=true, to_apply=%add
  ROOT %part = f32[16]{0} slice(%r), slice={[0:16]}
}

%inner.body (p: (s32[], f32[16,4])) -> (s32[], f32[16,4]) {
  %p = (s32[], f32[16,4]{1,0:T(8,128)}) parameter(0)
  %w = f32[16,4]{1,0:T(8,128)} get-tuple-element(%p), index=1
  %g = bf16[64,4]{1,0:T(8,128)(2,1)S(1)} all-gather(%w), channel_id=1, replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}
  %q = f32[4]{0} collective-permute(%w), channel_id=2, source_target_pairs={{0,1},{1,0}}
}

%inner.condition (p: (s32[], f32[16,4])) -> pred[] {
  %limit = s32[]{:T(128)} constant(3)
  %p = (s32[], f32[16,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %less = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%outer.body (p: (s32[], f32[16,4])) -> (s32[], f32[16,4]) {
  %p = (s32[], f32[16,4]{1,0}) parameter(0)
  ROOT %w = (s32[], f32[16,4]{1,0}) while(%p), condition=%inner.condition, body=%inner.body
}

%outer.condition (p: (s32[], f32[16,4])) -> pred[] {
  ROOT %always = pred[] constant(true)
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %s = f32[16]{0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1
  %l = (s32[], f32[16,4]{1,0}) while(%x), condition=%outer.condition, body=%outer.body, \
backend_config={"known_trip_count":{"n":"5"}}
  %m = (f32[8]{0}, pred[2,2]{1,0}) all-reduce(%x, %x), channel_id=3, \
replica_groups=mesh['axis_0'=2,'axis_1'=2,'axis_2'=2] {'axis_2'}, to_apply=%add
  %n = (f32[8]{0}, f32[32]{0}) all-gather-start(%x), channel_id=4, replica_groups={{0,4},{1,5},{2,6},{3,7}}
  %o = f32[32]{0} all-gather-done(%n)
  %t = (f32[4,8]{1,0}, u32[], token[]) send(%o, %x), channel_id=4, is_host_transfer=true, \
frontend_attributes={_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %u = (f32[4,8]{1,0}, u32[], token[]) send(%o, %x), channel_id=9, is_host_transfer=true
  %v = bf16[16]{0} reduce-scatter(%x), channel_id=4, replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add
  ROOT %y = f32[8]{0} add(%x, %x)
}
"""


def test_every_collective_has_its_kind_bytes_and_repeats():
    assert find_collectives(TPU, 8).by_kind() == {
        "all-gather": {"count": 16, "bytes": 15 * 64 * 4 * 2 + 32 * 4},  # in 5 x 3 loops, and the asynchronous one
        "all-reduce": {"count": 1, "bytes": 8 * 4 + 4},
        "collective-permute": {"count": 15, "bytes": 15 * 4 * 4},
        "network-all-reduce": {"count": 1, "bytes": 32 * 4},
        "reduce-scatter": {"count": 2, "bytes": 64 * 4 + 2 * 16 * 2},
    }


def test_groups_in_every_notation():
    groups = {(one.kind, one.times): one.groups for one in find_collectives(TPU, 8).instructions}
    assert groups["reduce-scatter", 1] == ((0, 1), (2, 3), (4, 5), (6, 7))
    assert groups["all-gather", 15] == ((0, 2, 4, 6), (1, 3, 5, 7))
    assert groups["collective-permute", 15] == ((0, 1), (1, 0))
    assert groups["all-reduce", 1] == ((0, 1), (2, 3), (4, 5), (6, 7))
    assert groups["all-gather", 1] == ((0, 4), (1, 5), (2, 6), (3, 7))


def test_mesh_groups_follow_the_order_of_the_devices():
    line = TPU.replace("'axis_2'=2] {'axis_2'}", "'axis_2'=2], device_ids=([2,4]T(1,0)) {'axis_2'}")
    (reduce,) = (one for one in find_collectives(line, 8).instructions if one.kind == "all-reduce")
    assert reduce.groups == ((0, 4), (1, 5), (2, 6), (3, 7))


def test_copies_of_one_channel_count_once():
    copied = TPU.replace(
        "  ROOT %y", "  %again = (f32[8]{0}, f32[32]{0}) all-gather-start(%x), channel_id=4\n  ROOT %y"
    )
    assert find_collectives(copied, 8).by_kind() == find_collectives(TPU, 8).by_kind()


def test_loops_of_unknown_length_are_reported():
    assert find_collectives(TPU, 8).unknown_loops == 0
    unknown = find_collectives(TPU.replace("constant(3)", "parameter(1)"), 8)
    assert unknown.unknown_loops == 1
    assert unknown.by_kind()["collective-permute"]["count"] == 5


def test_collectives_between_hosts_use_the_network():
    result = find_collectives(TPU, 8)
    everything, nothing = result.sent_bytes([0] * 8)
    assert nothing == 0
    links, network = result.sent_bytes([0, 0, 0, 0, 1, 1, 1, 1])
    assert links + network == everything
    # The gathers over {0, 2, 4, 6} and {0, 4}: a device sends its part to all others.
    assert network == 15 * 64 * 4 * 2 * 3 / 4 + 32 * 4 / 2


def test_slices_communicate_over_the_network():
    result = find_collectives(TPU, 8, slices=2)
    (network,) = (one for one in result.instructions if one.kind == "network-all-reduce")
    assert network.groups == ((0, 4),)
    assert network.sent_bytes == 32 * 4  # twice (2 - 1) / 2 of it


def test_bytes_sent_in_a_ring():
    sent = {one.kind: one.sent_bytes for one in find_collectives(TPU, 8).instructions}
    assert sent["reduce-scatter"] == 2 * 16 * 2 / 2
    assert sent["all-reduce"] == 36  # twice (2 - 1) / 2 of it
    assert sent["collective-permute"] == 16


TEXT = """
HloModule m

%fused (x: f32[8,128]) -> f32[8] {
  %x = f32[8,128]{1,0} parameter(0)
  %wide = f32[8,128,999]{2,1,0} broadcast(%x), dimensions={0,1}
  ROOT %r = f32[8]{0} reduce(%wide, %x), dimensions={1,2}
}

ENTRY %main (a: bf16[4,4]) -> f32[8] {
  %a = bf16[4,4]{1,0:T(8,128)} parameter(0)
  %b = f32[8,128]{1,0} convert(%a)
  ROOT %f = f32[8]{0} fusion(%b), kind=kLoop, calls=%fused
}
"""


def test_arrays_inside_fusions_are_not_stored():
    assert largest_arrays(TEXT) == {"f32[8,128]": 4_096, "bf16[4,4]": 32, "f32[8]": 32}
    assert list(largest_arrays(TEXT, count=1)) == ["f32[8,128]"]


def test_computations_and_the_entry():
    result, entry = computations(TEXT)
    assert entry == "main" and {"fused", "main"} <= result.keys()


def test_bytes_of_every_width():
    assert [array_bytes(kind, "3,5") for kind in ("pred", "bf16", "s32", "f64", "s4")] == [15, 30, 60, 120, 7.5]
    assert array_bytes("f32", "") == 4


@pytest.mark.compile
def test_a_real_program():
    x = jax.ShapeDtypeStruct((96, 32), jnp.float32)
    text = jax.jit(lambda x: jnp.sort(x @ x.T, axis=1).sum()).lower(x).compile().as_text()
    assert text is not None
    assert max(largest_arrays(text).values()) == 4 * 96 * 96
