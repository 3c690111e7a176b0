"""The model as ONNX files, made from the PyTorch one; any batch and any length."""

import logging
import os
import warnings
from pathlib import Path
from typing import Any

from slap_jax.export.optional import require_packages
from slap_jax.export.safetensors import load_export

ONNX_DIRECTORY = "onnx"  # inside an export
AUDIO_FILE, TEXT_FILE = "audio.onnx", "text.onnx"
_OPSET = 20


def write_onnx(directory: str | os.PathLike[str]) -> Path:
    """Writes the audio and the text tower of an export as ONNX.

    `audio.onnx` takes `waveform` float32 [batch, samples] and `lengths` int64 [batch], and gives `vectors`;
    `text.onnx` takes `tokens` int64 [batch, tokens] and `lengths`. Captions, which need a loop, stay with
    the other formats.

    Args:
        directory: an export; the files go to `onnx/` in it.

    Returns:
        The directory of the files.

    Raises:
        ExportError: a package is missing, or the export is damaged.
    """
    require_packages("--format onnx", "onnx", "torch", "onnx", "onnxscript")
    load_export(directory)  # damage is told in our words, not in PyTorch's
    import torch

    from slap_jax.export.pytorch.model import Slap, load

    class Tower(torch.nn.Module):
        """One of the two towers as a module by itself, so that its file holds its own weights only."""

        def __init__(self, model: Slap, name: str):
            super().__init__()
            self.model, self.name = model, name

        def forward(self, values: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            return getattr(self.model, f"embed_{self.name}")(values, lengths)

    model = load(directory)
    out = Path(directory) / ONNX_DIRECTORY
    out.mkdir(exist_ok=True)
    # Sizes of the example are free in the file, as long as none of them is 1.
    samples, tokens = 3 * model.per_column + 1, 7
    waveforms, texts = torch.zeros(2, samples), torch.ones(2, tokens, dtype=torch.int64)
    _export(Tower(model, "audio"), (waveforms, torch.tensor([samples, 9])), ("waveform", "samples"), out / AUDIO_FILE)
    _export(Tower(model, "text"), (texts, torch.tensor([tokens, 3])), ("tokens", "tokens_of_text"), out / TEXT_FILE)
    return out


def _export(module: Any, arguments: tuple[Any, Any], names: tuple[str, str], path: Path) -> None:
    """Writes one file; `names` of its first input and of that input's second axis."""
    import torch

    free = torch.export.Dim.AUTO
    exporter_log = logging.getLogger("torch.onnx")  # it tells of every package that is not there
    level = exporter_log.level
    exporter_log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PyTorch's own calls of its own old functions
            program = torch.onnx.export(
                module.eval(),
                arguments,
                dynamo=True,
                opset_version=_OPSET,
                input_names=[names[0], "lengths"],
                output_names=["vectors"],
                dynamic_shapes=({0: free, 1: free}, {0: free}),
                verbose=False,
            )
    finally:
        exporter_log.setLevel(level)
    graph = program.model.graph
    for value, axes in zip((*graph.inputs, *graph.outputs), (("batch", names[1]), ("batch",), ("batch",)), strict=True):
        for axis, name in enumerate(axes):
            value.shape[axis] = name
    program.save(path)
