"""Checks that benchmarks/train_step.py compares equal models: with our parameters, PyTorch gives our embeddings.

Our embeddings come from packed rows, those of PyTorch from padded clips. Prints the largest difference for each tower,
and fails above 1e-5.

Run: pip install -e '.[benchmarks]' && JAX_PLATFORMS=cpu python benchmarks/train_step_equality.py
"""

import json
import operator
from typing import Any

import jax
import numpy as np
import torch
from flax import nnx
from mixed_clips import COLUMN_SAMPLES, mixed_clips
from train_step import benchmark_config
from train_step_peers import DualEncoder, GatedMLP, Tower, padded

from slap_jax.data.packing import Clip, pack_rows
from slap_jax.models.slap import Slap


def transposed(*linears: dict[str, Any]) -> torch.nn.Parameter:
    """Concatenates our kernels [inputs, outputs] into one PyTorch weight [outputs, inputs]."""
    kernels = [np.asarray(linear["kernel"]) for linear in linears]
    return torch.nn.Parameter(torch.from_numpy(np.concatenate(kernels, axis=1).T.copy()))


def fill_mlp(mlp: GatedMLP, ours: dict[str, Any]) -> None:
    """Copies our parameters to a gated MLP."""
    mlp.gate_up.weight, mlp.down.weight = transposed(ours["gate"], ours["up"]), transposed(ours["down"])


def fill_tower(tower: Tower, params: dict[str, Any], name: str) -> None:
    """Copies our parameters to one tower, except the norms, which are ones in both."""
    layers = params[f"{name}_encoder"]["transformer"]["blocks"]["layers"]
    order = [*sorted(layer for layer in layers if layer != "global"), "global"]
    for number, block in enumerate(tower.blocks):
        repeat, place = divmod(number, len(order))
        ours = jax.tree.map(operator.itemgetter(repeat), layers[order[place]])
        attention = ours["attention"]
        block.query_key_value.weight = transposed(attention["query"], attention["key"], attention["value"])
        block.out.weight = transposed(attention["out"])
        fill_mlp(block.mlp, ours["mlp"])
    pooling, ours = tower.pooling, params[f"{name}_pooling"]
    pooling.probe = torch.nn.Parameter(torch.from_numpy(np.array(ours["probe"])))
    pooling.query.weight, pooling.out.weight = transposed(ours["query"]), transposed(ours["out"])
    pooling.key_value.weight = transposed(ours["key"], ours["value"])
    fill_mlp(pooling.mlp, ours["mlp"])
    tower.projection.weight = transposed(params[f"{name}_projection"])


def main() -> None:
    config = benchmark_config()
    model, peer = Slap(config, rngs=nnx.Rngs(0)), DualEncoder(config)
    params = nnx.to_pure_dict(nnx.split(model)[1])
    fill_tower(peer.audio_tower, params, "audio")
    fill_tower(peer.text_tower, params, "text")
    peer.patch_embedding.weight = transposed(params["audio_encoder"]["patch_embedding"])
    peer.embedding.weight.data = torch.from_numpy(np.array(params["text_encoder"]["embedding"]["table"]))

    clips = mixed_clips(8, config.model.vocab_size)
    waveform, columns, tokens, words = padded(clips)
    with torch.inference_mode():
        theirs = {"audio": peer.audio(waveform, columns).numpy(), "text": peer.text(tokens, words).numpy()}
    data = config.data
    batch, places = pack_rows(
        [Clip(clip.waveform, clip.tokens, key) for key, clip in enumerate(clips)],
        *(data.columns, data.slots, data.text_tokens, COLUMN_SAMPLES),
    )
    patches = model.audio_patches(batch.waveform, batch.audio_segment_ids)
    features = model.audio_tokens(patches, batch.audio_segment_ids, batch.audio_positions)
    text = model.text_tokens(batch.text_tokens, batch.text_segment_ids, batch.text_positions)
    ours = {
        "audio": model.audio_embeddings(features, batch.audio_segment_ids, data.slots),
        "text": model.text_embeddings(text, batch.text_segment_ids, data.slots),
    }
    rows, slots = zip(*places, strict=True)
    differences = {
        name: float(np.abs(np.asarray(ours[name])[list(rows), list(slots)] - theirs[name]).max()) for name in ours
    }
    print(json.dumps({"clips": len(clips), "largest_difference": differences}))
    assert max(differences.values()) < 1e-5, "the two models differ"


if __name__ == "__main__":
    main()
