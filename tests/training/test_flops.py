"""The FLOP counter against two oracles: the matrix products in the traced program, and XLA's cost analysis.

MFU: its parts add up to it, and its factors multiply to it.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params
from ml_collections import ConfigDict

from slap_jax.batch import PackedBatch, with_labels
from slap_jax.config.defaults import default_config
from slap_jax.models.caption_decoder import CaptionDecoder
from slap_jax.models.slap import Slap
from slap_jax.objectives.distillation import PrototypeHead
from slap_jax.training import flops
from slap_jax.training.flops import length_counts, train_step_flops
from slap_jax.training.metrics import Throughput, padded_flops
from slap_jax.training.timing import StepTimer
from tests.tiny import tiny_config

COLUMNS, TEXT = 16, 48
CLASSES = 40


def _config(width: int = 256) -> ConfigDict:
    config = default_config()
    model = config.model
    model.compute_dtype, model.attention, model.scan_unroll = "float32", "dense", 8
    model.vocab_size, model.embed_dim = 500, 64
    for name in ("audio_encoder", "text_encoder", "caption_decoder"):
        model[name].update(width=width, heads=2, mlp_width=2 * width)
    model.audio_encoder.update(layers=3, locals_per_global=2, local_window=5)
    model.text_encoder.layers = 2
    model.caption_decoder.layers = 2
    config.objectives.distillation.update(prototypes=128, hidden=96, bottleneck=32)
    return config


def _counts(
    clips: int = 1, columns: int = COLUMNS, text: int = TEXT, model: ConfigDict | None = None
) -> dict[str, float]:
    """Returns the counts of `clips` equal clips, each filling one row."""
    counts = length_counts(model or _config().model, np.full(clips, 4.0 * columns), np.full(clips, float(text)))
    return {"clips": clips, **{name: float(count) for name, count in counts.items()}}


def _full_row() -> dict[str, jax.ShapeDtypeStruct]:
    """One clip and one caption that fill the row."""

    def integers(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.int32)

    return {
        "patches": jax.ShapeDtypeStruct((1, 4 * COLUMNS, 256), jnp.float32),
        "segments": integers(1, COLUMNS),
        "text": integers(1, TEXT),
    }


def _dot_flops(jaxpr: Any) -> float:
    """2 m n k of every matrix product of a traced program, the bodies of scans as often as they run."""
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2.0 * math.prod(equation.outvars[0].aval.shape) * depth
        inner = sum(_dot_flops(getattr(sub, "jaxpr", sub)) for sub in jaxprs_in_params(equation.params))
        total += inner * (equation.params["length"] if equation.primitive.name == "scan" else 1)
    return total


def _traced(function: Callable, *arguments: Any) -> float:
    return _dot_flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def _split(create: Callable[[], nnx.Module]) -> tuple[nnx.GraphDef, Any]:
    return nnx.split(nnx.eval_shape(create))


def _audio(config: ConfigDict) -> tuple[Callable, tuple]:
    graph, params = _split(lambda: Slap(config, rngs=nnx.Rngs(0)))
    row = _full_row()

    def forward(params, patches, segments):
        model = nnx.merge(graph, params)
        return model.audio_tokens(patches, segments, segments)

    return forward, (params, row["patches"], row["segments"])


def _text(config: ConfigDict) -> tuple[Callable, tuple]:
    graph, params = _split(lambda: Slap(config, rngs=nnx.Rngs(0)))
    text = _full_row()["text"]
    return (lambda params, *text: nnx.merge(graph, params).text_tokens(*text)), (params, text, text, text)


def _decoder(config: ConfigDict) -> tuple[Callable, tuple]:
    width = config.model.audio_encoder.width
    graph, params = _split(lambda: CaptionDecoder(config.model, width, rngs=nnx.Rngs(0)))
    memory = jax.ShapeDtypeStruct((1, 4 * COLUMNS, width), jnp.float32)
    segments = jax.ShapeDtypeStruct((1, 4 * COLUMNS), jnp.int32)
    text = _full_row()["text"]

    def forward(params, memory, segments, *text):
        decoder = nnx.merge(graph, params)
        return decoder.logits(decoder(*text, memory, segments))

    return forward, (params, memory, segments, text, text, text)


def _modernbert(config: ConfigDict) -> ConfigDict:
    """The same config with a text tower of four layers that starts with a global one."""
    config.model.text_encoder.update(kind="modernbert", layers=4, locals_per_global=2, local_window=5)
    return config


TOWERS = {
    "audio": (_audio, lambda config: flops.audio_encoder_flops(config, _counts(), dense_attention=True)),
    "text": (_text, lambda config: flops.text_encoder_flops(config.model, _counts(), dense_attention=True)),
    "modernbert": (
        lambda config: _text(_modernbert(config)),
        lambda config: flops.text_encoder_flops(_modernbert(config).model, _counts(), dense_attention=True),
    ),
    "decoder": (_decoder, lambda config: flops.caption_decoder_flops(config.model, _counts(), dense_attention=True)),
}


@pytest.mark.compile
@pytest.mark.parametrize("tower", TOWERS)
def test_equals_the_matrix_products_of_the_program(tower):
    build, count = TOWERS[tower]
    config = _config(width=32)
    config.model.scan_unroll = 1  # the tracer's own count multiplies scans
    forward, arguments = build(config)
    assert _traced(forward, *arguments) == count(config)


# XLA computes the exact GELU in dozens of operations, which are no matrix products, so ModernBERT is not among these.
@pytest.mark.compile
@pytest.mark.parametrize("tower", ["audio", "text", "decoder"])
def test_within_two_percent_of_xla_on_the_dense_unrolled_path(tower):
    build, count = TOWERS[tower]
    config = _config()
    forward, arguments = build(config)
    analysis = jax.jit(forward).lower(*arguments).compile().cost_analysis()
    assert analysis is not None
    assert count(config) == pytest.approx(analysis["flops"], rel=0.02)


@pytest.mark.compile
def test_pooling_equals_the_program():
    config = _config(width=32)
    graph, params = _split(lambda: Slap(config, rngs=nnx.Rngs(0)))
    tokens = jax.ShapeDtypeStruct((1, 4 * COLUMNS, 32), jnp.float32)

    def forward(params, tokens, segments):
        return nnx.merge(graph, params).audio_embeddings(tokens, segments, 1)

    counted = flops.pooling_flops(config.model.audio_encoder, 4 * COLUMNS, 1, config.model.embed_dim)
    assert _traced(forward, params, tokens, _full_row()["segments"]) == counted


@pytest.mark.compile
def test_prototype_head_equals_the_program():
    config = _config(width=32)
    settings = config.objectives.distillation
    graph, params = _split(
        lambda: PrototypeHead(
            32, settings.hidden, settings.bottleneck, settings.prototypes, jnp.float32, rngs=nnx.Rngs(0)
        )
    )
    masked = jax.ShapeDtypeStruct((2 * COLUMNS, 32), jnp.float32)  # half of the row's tokens

    def scores(params, tokens):
        head = nnx.merge(graph, params)
        return head.normalized_tokens(tokens) @ head.normalized_prototypes()

    traced = _traced(scores, params, masked)
    assert traced == flops.prototype_head_flops(config, 4 * COLUMNS)


@pytest.mark.compile
def test_front_end_counts_the_filter_bank_and_an_fft():
    config = _config()
    graph, params = _split(lambda: Slap(config, rngs=nnx.Rngs(0)))
    config.audio.dft = "rfft"
    waveform = jax.ShapeDtypeStruct((1, COLUMNS * 2_560), jnp.int16)

    def forward(params, waveform, segments):
        return nnx.merge(graph, params).audio_patches(waveform, segments)

    frames = 16 * COLUMNS
    fft = 2.5 * 512 * 9 * frames
    traced = _traced(forward, params, waveform, _full_row()["segments"])
    assert flops.front_end_flops(config.audio, 4 * COLUMNS) == traced + fft


def _batch() -> PackedBatch:
    """Two rows, each filled by one clip and its caption."""

    def ones(*shape: int) -> np.ndarray:
        return np.ones(shape, np.int32)

    return PackedBatch(
        waveform=np.zeros((2, COLUMNS * 2_560), np.int16),
        audio_segment_ids=ones(2, COLUMNS),
        audio_positions=ones(2, COLUMNS) * np.arange(COLUMNS, dtype=np.int32),
        text_tokens=ones(2, TEXT),
        text_segment_ids=ones(2, TEXT),
        text_positions=ones(2, TEXT) * np.arange(TEXT, dtype=np.int32),
        clip_valid=np.ones((2, 1), bool),
        clip_key=np.arange(2, dtype=np.int32)[:, None],
        clip_source=np.zeros((2, 1), np.int32),
    )


@pytest.mark.compile
@pytest.mark.parametrize(
    "objectives",
    [
        ("contrastive", "distillation", "captioning"),
        ("contrastive",),
        ("captioning",),
        ("classification",),
        ("contrastive", "classification"),
    ],
)
def test_whole_step_with_its_backward_pass(objectives):
    from slap_jax.training.optimizer import create_optimizer
    from slap_jax.training.state import abstract_learner, create_state
    from slap_jax.training.step import make_train_step

    config = _config(width=64)
    config.audio.dft = "rfft"
    config.objectives.classification.update(label="kind", classes=tuple(map(str, range(CLASSES))))
    for name in config.objectives:
        config.objectives[name].weight = float(name in objectives)
    batch = _batch()
    if "classification" in objectives:
        batch = with_labels(batch, np.ones((2, 1, CLASSES), np.float32))
    transform = create_optimizer(config.optimizer, config.train.steps)
    state = jax.eval_shape(lambda: create_state(config, transform))
    step = make_train_step(config, abstract_learner(config), transform)
    traced = _traced(step, state, batch)
    parts = flops.train_step_parts(config, _counts(clips=2), dense_attention=True)
    parts["front_end"] -= 2.5 * 512 * 9 * 2 * 16 * COLUMNS  # no matrix product
    # Three times the forward pass is not exact: nothing is differentiated below the patch embedding.
    assert sum(parts.values()) == pytest.approx(traced, rel=0.03)


def test_packed_clips_cost_less_than_the_row_they_fill():
    config = _config()
    one, four = _counts(), _counts(clips=4, columns=COLUMNS // 4, text=TEXT // 4)
    assert four["audio_tokens"] == one["audio_tokens"]
    assert flops.audio_encoder_flops(config, four) < flops.audio_encoder_flops(config, one)
    # Local layers differ only by the pairs that the three added ends of clips lack.
    local = config.copy_and_resolve_references()
    local.model.audio_encoder.update(layers=3, locals_per_global=2)
    difference = flops.audio_encoder_flops(local, one) - flops.audio_encoder_flops(local, four)
    pairs = one["audio_tokens_squared"] - four["audio_tokens_squared"]
    window = local.model.audio_encoder.local_window
    pairs += 2 * 3 * window * (window + 1)  # two local layers
    assert difference == 4 * pairs * config.model.audio_encoder.width


def test_of_modernberts_layers_every_third_from_the_first_is_global():
    model = _modernbert(_config()).model
    window = model.text_encoder.local_window = 5
    near = flops.text_encoder_flops(model, _counts(model=model))
    model.text_encoder.local_window = TEXT  # local layers see everything
    pairs = TEXT**2 - (TEXT * (2 * window + 1) - window * (window + 1))
    assert flops.text_encoder_flops(model, _counts(model=model)) - near == 2 * 4 * pairs * model.text_encoder.width
    model.text_encoder.layers = 22
    assert flops.global_layers_of(model.text_encoder) == 8


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("contrastive", {"contrastive", "text_encoder", "pooling"}),
        ("distillation", {"teacher", "prototype_head"}),
        ("captioning", {"caption_decoder"}),
    ],
)
def test_an_objective_of_weight_zero_costs_nothing(name, gone):
    config = _config()
    everything = set(flops.train_step_parts(config, _counts()))
    config.objectives[name].weight = 0.0
    assert everything - set(flops.train_step_parts(config, _counts())) == gone


def test_a_shared_view_saves_one_pass_of_the_student():
    config = _config()
    separate = flops.train_step_parts(config, _counts())["audio_encoder"]
    config.objectives.distillation.view = "shared"
    assert flops.train_step_parts(config, _counts())["audio_encoder"] == separate / 2


class _Device:
    def __init__(self, kind: str, platform: str = "gpu"):
        self.device_kind, self.platform, self.process_index = kind, platform, 0


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("TPU v6 lite", 918e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA A10G", 70e12),
    ],
)
def test_peak_of_known_devices(kind, peak):
    assert flops.peak_flops([_Device(kind)] * 4) == 4 * peak


def test_peak_of_an_unknown_device_is_left_to_the_config():
    assert flops.peak_flops([_Device("Abacus 1")]) == 0.0
    assert flops.peak_flops([_Device("Abacus 1")] * 2, per_device=3.0) == 6.0


@pytest.mark.compile
def test_measured_peak_of_the_cpu_counts_its_cores_once():
    one, eight = flops.peak_flops(jax.devices()[:1]), flops.peak_flops(jax.devices())
    assert 1e9 < one < 1e14
    assert eight < 4 * one


VALUES = {
    "clips": 20.0,
    "audio_tokens": 400.0,
    "audio_tokens_squared": 9_000.0,
    "audio_local_pairs": 2_000.0,
    "text_tokens": 120.0,
    "text_tokens_squared": 900.0,
    "text_local_pairs": 800.0,
    "cross_tokens": 2_500.0,
}


@pytest.fixture
def read():
    """Two steps of two seconds each, a quarter of them waiting for data."""
    now = [0.0]
    timer = StepTimer(clock=lambda: now[0])
    timer.enter("other")
    throughput = Throughput(timer, tiny_config(), peak_flops=1e9)
    throughput.add(VALUES)
    for _ in range(2):
        with timer.during("data"):
            now[0] += 0.5
        now[0] += 1.5
        throughput.add(VALUES)
    return throughput.read()


def test_mfu_is_the_share_of_the_peak_and_its_parts_add_up(read):
    expected = train_step_flops(tiny_config(), VALUES) / 2.0 / 1e9
    assert read["speed/mfu"] == pytest.approx(expected)
    assert read["speed/flops_per_s"] == pytest.approx(expected * 1e9)
    parts = {name: value for name, value in read.items() if name.startswith("mfu/")}
    assert {"mfu/front_end", "mfu/audio_encoder", "mfu/teacher", "mfu/caption_decoder"} <= set(parts)
    assert sum(parts.values()) == pytest.approx(expected)


def test_the_factors_multiply_to_mfu(read):
    waiting = read["time/data"] / read["time/step"]
    assert waiting == 0.25
    assert read["speed/useful_share"] * (1 - waiting) * read["speed/peak_share"] == pytest.approx(read["speed/mfu"])
    assert 0 < read["speed/useful_share"] < 1


def test_full_rows_are_all_useful():
    config = tiny_config()
    full = {"clips": 8 * 4, "audio_tokens": 8 * 16 * 4, "text_tokens": 8 * 32}
    assert math.isclose(train_step_flops(config, VALUES | full), padded_flops(config, VALUES))


def test_without_a_peak_there_are_rates_but_no_mfu(read):
    assert read["speed/clips_per_s"] == 10.0
    now = [0.0]
    throughput = Throughput(StepTimer(clock=lambda: now[0]), tiny_config(), peak_flops=0.0)
    throughput.add(VALUES)
    assert throughput.read() == {}
    now[0] += 2.0
    throughput.add(VALUES)
    rates = throughput.read()
    assert rates["speed/clips_per_s"] == 10.0
    assert not [name for name in rates if "mfu" in name or "flops" in name or "share" in name]


def test_local_attention_is_counted_clip_by_clip():
    # 1,000 clips of 4 tokens and one of 2,000: a bound over the whole batch would count the short ones 2.3 times.
    config = default_config()
    tokens = np.array([4.0] * 1_000 + [2_000.0])
    counts = length_counts(config.model, tokens, np.zeros_like(tokens))
    window = config.model.audio_encoder.local_window
    pairs = [
        sum(abs(i - j) <= window for i in range(n) for j in range(max(0, i - window), min(n, i + window + 1)))
        for n in (4, 2_000)
    ]
    assert pairs[0] == 16
    assert counts["audio_local_pairs"] == 1_000 * pairs[0] + pairs[1]
    assert length_counts(config.model, np.array([0.0, 1.0]), np.zeros(2))["audio_local_pairs"] == 1
