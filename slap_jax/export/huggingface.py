"""A folder that `transformers.AutoModel` loads, with the code it needs inside."""

import json
import os
import shutil
from pathlib import Path

from slap_jax.export.optional import require_packages
from slap_jax.export.pytorch_file import write_pytorch
from slap_jax.export.safetensors import CARD, WEIGHTS, load_export

HUGGINGFACE_DIRECTORY = "huggingface"  # inside an export
CODE = ("configuration_slap.py", "modeling_slap.py")


def write_huggingface(directory: str | os.PathLike[str]) -> Path:
    """Writes a folder for `AutoModel.from_pretrained(FOLDER, trust_remote_code=True)`.

    It holds the weights under PyTorch's names, the code, the vocabulary and the model card, and needs nothing else.

    Args:
        directory: an export; the folder becomes `huggingface/` in it.

    Returns:
        The folder.

    Raises:
        ExportError: PyTorch is missing, or the export is damaged.
    """
    require_packages("--format huggingface", "torch", "torch")
    export = load_export(directory)  # damage is told in our words, not in PyTorch's
    from safetensors.torch import save_file

    from slap_jax.export.pytorch.model import load

    model = load(directory)
    out = Path(directory) / HUGGINGFACE_DIRECTORY
    out.mkdir(exist_ok=True)
    config = {
        "architectures": ["SlapModel"],
        "auto_map": {"AutoConfig": "configuration_slap.SlapConfig", "AutoModel": "modeling_slap.SlapModel"},
        "model_type": "slap",
        "dtype": "float32",
        "slap": export.config.to_dict(),
        "captions": model.decoder is not None,
        "tokenizer_file": export.tokenizer_path.name,
    }
    tensors = {f"slap.{name}": tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, out / WEIGHTS, metadata={"format": "pt"})
    (out / WEIGHTS).chmod(
        export.tokenizer_path.stat().st_mode
    )  # safetensors makes files that only their owner may read
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for name in CODE:
        shutil.copyfile(Path(__file__).with_name("huggingface_code") / name, out / name)
    for path in (export.tokenizer_path, Path(directory) / CARD):
        if path.is_file():
            shutil.copyfile(path, out / path.name)
    write_pytorch(out)
    return out
