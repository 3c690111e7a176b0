"""Writes a transformers `ClapModel` with random weights to a folder: the weights do not change what it costs.

python benchmarks/random_clap.py FOLDER [--fused]
"""

import argparse
import json
from pathlib import Path
from typing import Any

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]

# A model that a test runs in milliseconds; the defaults of `ClapConfig` are those of laion/clap-htsat-unfused.
TINY = {
    "projection_dim": 16,
    "text_config": {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 66,
        "vocab_size": 256 + len(SPECIAL),
    },
    "audio_config": {
        "spec_size": 64,
        "num_mel_bins": 16,
        "window_size": 4,
        "patch_embeds_hidden_size": 8,
        "depths": [2, 2],
        "num_attention_heads": [2, 2],
        "num_hidden_layers": 2,
        "hidden_size": 16,
    },
}
TINY_FEATURES = {"feature_size": 16, "sampling_rate": 16_000, "hop_length": 160, "max_length_s": 1}
TINY_FEATURES |= {"fft_window_size": 512, "frequency_min": 50, "frequency_max": 7_000}


def save_random_clap(folder: Path, *, fused: bool = False, tiny: bool = False, seed: int = 0) -> Path:
    """Writes config, weights, preprocessor and a byte-level tokenizer, and returns the folder."""
    import torch
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, ClapProcessor, RobertaTokenizer

    torch.manual_seed(seed)
    sizes: dict[str, Any] = json.loads(json.dumps(TINY)) if tiny else {"text_config": {}, "audio_config": {}}
    if fused:
        sizes["audio_config"] |= {"enable_fusion": True, "fusion_type": "aff_2d"}
    model = ClapModel(ClapConfig(**sizes)).eval()
    with torch.no_grad():  # so that wrong statistics or scales cannot go unnoticed
        for name, values in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("running_mean"):
                values.normal_(-30.0, 5.0)
            elif name.endswith("running_var"):
                values.uniform_(100.0, 400.0)
            elif tiny and values.is_floating_point():
                values.add_(torch.randn_like(values) * 0.2)
    model.save_pretrained(folder)
    features = ClapFeatureExtractor(
        **(TINY_FEATURES if tiny else {"frequency_min": 50}), truncation="fusion" if fused else "rand_trunc"
    )
    ClapProcessor(features, _tokenizer(RobertaTokenizer, folder)).save_pretrained(folder)
    return folder


def _tokenizer(kind: Any, folder: Path) -> Any:
    """Returns a tokenizer of bytes, in the files that RoBERTa's tokenizer reads."""
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = [*SPECIAL, *sorted(ByteLevel.alphabet())]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return kind.from_pretrained(folder, model_max_length=512)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fused", action="store_true", help="with feature fusion, as laion/clap-htsat-fused")
    options = parser.parse_args()
    print(save_random_clap(options.folder, fused=options.fused))
