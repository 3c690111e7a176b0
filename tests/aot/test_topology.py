"""Topology names: valid ones are parsed, and the error for others lists them."""

import pytest

from slap_jax.aot.topology import TopologyError, parse_topology


@pytest.mark.parametrize(
    ("name", "devices", "platform"),
    [
        ("v5e:4x4", 16, "tpu"),
        ("v5e:1x1", 1, "tpu"),
        ("v5p:2x2x2", 8, "tpu"),
        ("v5p:16x16x24", 6_144, "tpu"),
        ("v4:4x4x8", 128, "tpu"),
        ("tpu7x:2x2x1", 8, "tpu"),  # a device is half a chip
        ("2*v6e:8x16", 256, "tpu"),
        ("h100:8", 8, "gpu"),
        ("b200:4x8", 32, "gpu"),
        ("a100-40:1", 1, "gpu"),
    ],
)
def test_devices_of_real_topologies_are_counted(name, devices, platform):
    topology = parse_topology(name)
    assert (topology.n_devices, topology.platform) == (devices, platform)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5e", "write CHIP:SHAPE like"),
        ("v5e-16", "write CHIP:SHAPE like"),
        ("0*v5e:4x4", "write CHIP:SHAPE like"),
        ("v9:2x2", "there is no chip 'v9'; write one of v4, v5e, v5p, v6e, tpu7x, a100-40, a100, h100, h200, b200"),
        ("v5e:3x3", "write one of v5e:1x1, v5e:2x2, v5e:2x4, v5e:4x4"),
        ("v5e:32x32", "v5e:16x16"),
        ("v5e:2x2x2", "v5e:2x2,"),
        ("v5p:2x2", "v5p:2x2x1, v5p:2x2x2"),
        ("v5p:4x4x6", "three multiples of 4"),
        ("v5p:16x24x24", "at most 6144 chips"),
        ("h100:9", "1 to 8 GPUs in a host"),
        ("h100:2x4x8", "h100:HOSTSxGPUS"),
        ("h100:0x8", "h100:HOSTSxGPUS"),
        ("2*h100:8", "GPUs have no slices"),
    ],
)
def test_errors_list_the_known_topologies(name, message):
    with pytest.raises(TopologyError) as error:
        parse_topology(name)
    assert repr(name) in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_links_follow_the_shape():
    links = {name: parse_topology(name).send_bandwidth for name in ("v5p:2x2x2", "v5p:4x4x4", "v5p:2x2x1")}
    # 100 GB/s a link: three where every ring is of two, six in a cube, two in a square.
    assert links == {"v5p:2x2x2": 300e9, "v5p:4x4x4": 600e9, "v5p:2x2x1": 200e9}
    assert parse_topology("h100:8").send_bandwidth == 450e9
    assert parse_topology("h100:4x1").send_bandwidth == 50e9


def test_a_device_of_tpu7x_is_half_a_chip():
    chip = parse_topology("tpu7x:2x2x1").chip
    assert chip.peak_flops == pytest.approx(2_307e12 / 2)
    assert chip.hbm_bytes < 96 * 2**30
