"""Writes the model as ONNX files with free batch size and lengths, by way of the PyTorch module."""

import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slap_jax.checkpoints.model_dir import load_export
from slap_jax.export.packages import require_packages

ONNX_DIRECTORY = "onnx"  # inside an export
AUDIO_FILE, TEXT_FILE, DECODER_FILE = "audio.onnx", "text.onnx", "decoder.onnx"
_OPSET = 20

Axes = dict[str, tuple[str, ...]]  # input or output -> names of its free axes, which come first


def write_onnx(directory: str | os.PathLike[str]) -> Path:
    """Writes the towers of an export as ONNX, and its caption decoder if it has one.

    - `audio.onnx` takes `waveform` float32 [batch, samples] and `lengths` int64 [batch]; it returns `vectors`, dense
      `features`, and `inside`, which is True for features of a clip and False for padding.
    - `text.onnx` takes `tokens` int64 [batch, tokens] and `lengths`; it returns `vectors`.
    - `decoder.onnx` takes `features`, `inside` and the `tokens` so far; it returns `scores` of the next token. The
      caller runs the loop over tokens.

    Args:
        directory: an export; the files are written to its `onnx/`.

    Returns:
        The directory of the files.

    Raises:
        ExportError: a package is missing, or the export is damaged.
    """
    require_packages("--format onnx", "onnx", "torch", "onnx", "onnxscript")
    load_export(directory)  # reports damage before PyTorch does
    import torch

    from slap_jax.export.pytorch.model import load

    model = load(directory)
    out = Path(directory) / ONNX_DIRECTORY
    out.mkdir(exist_ok=True)
    (out / DECODER_FILE).unlink(missing_ok=True)  # of an older model there
    # The sizes of the example inputs become free axes, provided that none of them is 1.
    samples, tokens, width = 3 * model.per_column + 1, 7, model.config["model"]["audio_encoder"]["width"]
    texts = torch.ones(2, tokens, dtype=torch.int64)

    def audio(waveform: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, ...]:
        features, inside = model.audio_features(waveform, lengths)
        return model.pool_audio(features, inside), features, inside

    _export(
        _module(model, audio),
        (torch.zeros(2, samples), torch.tensor([samples, 9])),
        {"waveform": ("batch", "samples"), "lengths": ("batch",)},
        {"vectors": ("batch",), "features": ("batch", "patches"), "inside": ("batch", "patches")},
        out / AUDIO_FILE,
    )
    _export(
        _module(model, model.embed_text),
        (texts, torch.tensor([tokens, 3])),
        {"tokens": ("batch", "tokens_of_text"), "lengths": ("batch",)},
        {"vectors": ("batch",)},
        out / TEXT_FILE,
    )
    if model.decoder is not None:
        _export(
            _module(model, model.decoder.next_scores),
            (torch.zeros(2, 12, width), torch.arange(12) < torch.tensor([[12], [5]]), texts),
            {"features": ("batch", "patches"), "inside": ("batch", "patches"), "tokens": ("batch", "written")},
            {"scores": ("batch",)},
            out / DECODER_FILE,
        )
    return out


def _module(model: Any, function: Callable[..., Any]) -> Any:
    """Wraps a function of the model in a module, so that its file holds the weights that the function uses."""
    import torch

    class Part(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *values: torch.Tensor) -> Any:
            return function(*values)

    return Part().eval()


def _export(module: Any, arguments: tuple[Any, ...], inputs: Axes, outputs: Axes, path: Path) -> None:
    import torch

    free = torch.export.Dim.AUTO
    exporter_log = logging.getLogger("torch.onnx")  # it warns about every missing optional package
    level = exporter_log.level
    exporter_log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PyTorch calls its own deprecated functions
            program = torch.onnx.export(
                module,
                arguments,
                dynamo=True,
                opset_version=_OPSET,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=(tuple({axis: free for axis in range(len(axes))} for axes in inputs.values()),),
                verbose=False,
            )
    finally:
        exporter_log.setLevel(level)
    graph = program.model.graph
    for value, axes in zip((*graph.inputs, *graph.outputs), (*inputs.values(), *outputs.values()), strict=True):
        for axis, name in enumerate(axes):
            value.shape[axis] = name
    program.save(path)
