"""Writes open_clip_losses.npz: losses and gradients of open_clip's ClipLoss and SigLipLoss on seeded unit vectors.

    pip install torch open_clip_torch && python tests/golden/make_open_clip_losses.py

Only `open_clip/loss.py` is loaded, so that torchvision is not needed.
"""

import importlib.util
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

CLIPS, WIDTH, SCALE, SIGMOID_SCALE, SIGMOID_BIAS = 12, 16, 1 / 0.07, 10.0, -10.0


def load_losses():
    package = next(Path(path) / "open_clip" for path in sys.path if (Path(path) / "open_clip/loss.py").is_file())
    spec = importlib.util.spec_from_file_location("open_clip_loss", package / "loss.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    losses = load_losses()
    generator = np.random.default_rng(0)
    audio, text = (generator.standard_normal((CLIPS, WIDTH)) for _ in range(2))
    audio, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (audio, text))
    stored = {"audio": audio, "text": text, "open_clip_version": np.array(version("open_clip_torch"))}
    for name, loss, extra in (
        ("softmax", losses.ClipLoss(), {"logit_scale": SCALE}),
        ("sigmoid", losses.SigLipLoss(), {"logit_scale": SIGMOID_SCALE, "logit_bias": SIGMOID_BIAS}),
    ):
        a, t = (torch.tensor(x, requires_grad=True) for x in (audio, text))
        value = loss(a, t, **{key: torch.tensor(number) for key, number in extra.items()})
        value = sum(value.values()) if isinstance(value, dict) else value
        value.backward()
        stored |= {f"{name}_loss": value.item(), f"{name}_audio_gradient": a.grad, f"{name}_text_gradient": t.grad}
        stored |= {f"{name}_{key}": number for key, number in extra.items()}
    np.savez_compressed(Path(__file__).with_name("open_clip_losses.npz"), **stored)


if __name__ == "__main__":
    main()
