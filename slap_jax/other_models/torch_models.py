"""What the PyTorch models of other families share: imports, threads, faster linear layers, and the hash of a model."""

import hashlib
import importlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from slap_jax.other_models.dual_encoder import OtherModelError

_ACCELERATOR_BATCH = 32  # clips of one call on a GPU

Item = TypeVar("Item")


def require(module: str, model: str, install: str) -> Any:
    """Imports a package.

    Args:
        module: name of the package.
        model: what needs it, for the message.
        install: what to run if it is missing.

    Raises:
        OtherModelError: it is missing, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]
        reason = "which is missing" if missing else f"which cannot be imported ({error})"
        raise OtherModelError(f"{model} needs {module}, {reason}: {install}") from None


def choose_device(device: str | None) -> Any:
    """Returns a `torch.device`: the one that was named, else a GPU if PyTorch has one, else the CPU."""
    import torch

    try:
        return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise OtherModelError(f"device is {device!r}; write 'cpu', 'cuda' or 'cuda:1' ({error})") from None


def run_batches(
    function: Callable[[Sequence[Item]], Any], items: Sequence[Item], device: Any, on_cpu: int = 1
) -> np.ndarray:
    """Applies a PyTorch function to items and returns the rows of its results, fp32.

    On a CPU each core runs a call with one thread: cores that work on one small operation together spend much of their
    time waiting for each other. With one item per call, its result does not depend on the other items.

    Args:
        function: returns a tensor with a row for each of its items.
        items: at least one.
        device: a `torch.device`.
        on_cpu: items of a call on a CPU.
    """
    import torch

    def run(batch: Sequence[Item]) -> np.ndarray:
        if device.type == "cpu":
            torch.set_num_threads(1)  # of this Python thread
        with torch.inference_mode():  # also holds for this thread only
            return function(batch).float().cpu().numpy()

    size = on_cpu if device.type == "cpu" else _ACCELERATOR_BATCH
    batches = [items[start : start + size] for start in range(0, len(items), size)]
    threads = torch.get_num_threads()
    # The pool ends with the call: threads that outlived it would be missing in a process that is forked later.
    with ThreadPoolExecutor(min(len(batches), cores()) if device.type == "cpu" else 1) as pool:
        parts = list(pool.map(run, batches))
    torch.set_num_threads(threads)  # the default of threads that start later, which `run` has changed
    return np.concatenate(parts)


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def packed_linear(weight: Any, bias: Any) -> Any:
    """Returns a linear layer of oneDNN as a module without parameters, or None if this build of PyTorch has none.

    PyTorch multiplies with MKL, which reaches half the speed of oneDNN on AMD processors. Results differ by rounding.

    Args:
        weight: fp32 [out, in], on a CPU; stored in oneDNN's order only.
        bias: [out], or None.
    """
    import torch

    operations = torch.ops.mkldnn

    class PackedLinear(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("bias", None if bias is None else bias.detach(), persistent=False)
            self.packed = operations._reorder_linear_weight(weight.detach(), None)

        def forward(self, features: Any) -> Any:
            return operations._linear_pointwise(features, self.packed, self.bias, "none", [], "")

    try:
        layer = PackedLinear()
        with torch.inference_mode():
            layer(torch.zeros(2, weight.shape[1]))
    except (AttributeError, RuntimeError, NotImplementedError):
        return None
    return layer


def speed_up_linears(module: Any) -> None:
    """Replaces the linear layers of a module by those of `packed_linear`.

    For modules whose layers are called and not inspected.
    """
    import torch

    for name, child in module.named_children():
        if type(child) is torch.nn.Linear:
            setattr(module, name, packed_linear(child.weight, child.bias) or child)
        else:
            speed_up_linears(child)


def hash_model(settings: Mapping[str, Any], weights: Mapping[str, Any]) -> str:
    """Returns 12 hexadecimal digits that identify the vectors of a model.

    Args:
        settings: JSON values that change the vectors, such as the front end.
        weights: name -> tensor, as `state_dict` returns them.
    """
    import torch

    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(weights.items()):
        if isinstance(tensor, torch.Tensor):
            values = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {tuple(values.shape)} {values.dtype}".encode())
            digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:12]
