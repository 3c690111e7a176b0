"""A folder that `transformers.AutoModel` loads, with the code it needs inside.

`slap_torch.py`: the parts of `slap_jax.export.pytorch` as one file that runs without slap_jax.
"""

import ast
import json
import os
import shutil
import sys
from pathlib import Path

from slap_jax.atomic import write_text_atomic
from slap_jax.checkpoints.model_dir import CARD, WEIGHTS, load_export
from slap_jax.export.packages import require_packages

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


PYTORCH_FILE = "slap_torch.py"
_PACKAGE = "slap_jax.export.pytorch"
_PARTS = ("layers.py", "towers.py", "model.py")  # each uses those before it


def pytorch_source() -> str:
    """Returns the file's text: the package's description, the imports of all parts, and their definitions."""
    directory = Path(__file__).with_name("pytorch")
    imports: dict[str, set[str]] = {}  # "import os", or "from typing" with its names
    bodies = []
    for part in _PARTS:
        source = (directory / part).read_text(encoding="utf-8")
        statements = ast.parse(source).body
        past_imports = 0
        for statement in statements[1:]:  # the first is the docstring
            if isinstance(statement, ast.ImportFrom):
                if not str(statement.module).startswith(_PACKAGE):
                    names = {alias.name for alias in statement.names}
                    imports.setdefault(f"from {statement.module}", set()).update(names)
            elif isinstance(statement, ast.Import):
                imports.update({ast.unparse(statement): set()})
            else:
                break
            past_imports = statement.end_lineno or 0
        bodies.append("\n".join(source.splitlines()[past_imports:]).strip("\n"))
    sections: dict[bool, list[str]] = {True: [], False: []}
    for line, names in sorted(imports.items(), key=lambda item: (item[0].startswith("from"), item[0])):
        module = line.split()[1].split(".")[0]
        text = f"{line} import {', '.join(sorted(names))}" if names else line
        sections[module in sys.stdlib_module_names].append(text)
    description = (directory / "__init__.py").read_text(encoding="utf-8").rstrip()
    head = "\n\n".join([description, "\n".join(sections[True]), "\n".join(sections[False])])
    return "\n\n\n".join([head, *bodies]) + "\n"


def write_pytorch(directory: str | os.PathLike[str]) -> Path:
    """Writes the file into an export directory, whole or not at all; PyTorch itself is not needed for that."""
    path = Path(directory) / PYTORCH_FILE
    write_text_atomic(path, pytorch_source())
    return path
