"""What a program stores, from its text and from a real compilation."""

import jax
import jax.numpy as jnp

from slap_jax.aot.hlo import array_bytes, computations, largest_arrays

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


def test_computations_and_the_first():
    found, entry = computations(TEXT)
    assert entry == "main" and {"fused", "main"} <= found.keys()


def test_bytes_of_every_width():
    assert [array_bytes(kind, "3,5") for kind in ("pred", "bf16", "s32", "f64", "s4")] == [15, 30, 60, 120, 7.5]
    assert array_bytes("f32", "") == 4


def test_a_real_program():
    x = jax.ShapeDtypeStruct((96, 32), jnp.float32)
    text = jax.jit(lambda x: jnp.sort(x @ x.T, axis=1).sum()).lower(x).compile().as_text()
    assert text is not None
    assert max(largest_arrays(text).values()) == 4 * 96 * 96
