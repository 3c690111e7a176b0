"""Writes the PyTorch module as one file, and a folder with it for `transformers.AutoModel`."""

import ast
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from slap_jax.atomic import atomic_file, write_text_atomic
from slap_jax.checkpoints.model_dir import CARD, TOKENIZER, TOKENIZER_JSON, WEIGHTS, Export, load_export
from slap_jax.data.tokenizer import SPECIAL, SentencePieceTokenizer, load_tokenizer
from slap_jax.export.huggingface_card import write_huggingface_card
from slap_jax.export.packages import require_packages

HUGGINGFACE_DIRECTORY = "huggingface"  # inside an export
CODE = (
    "configuration_slap.py",
    "feature_extraction_slap.py",
    "modeling_slap.py",
    "processing_slap.py",
    "tokenization_slap.py",
)
_FEATURE_EXTRACTOR, _PROCESSOR = "feature_extraction_slap.SlapFeatureExtractor", "processing_slap.SlapProcessor"
_TOKENIZER = "tokenization_slap.SlapTokenizer"

PYTORCH_FILE = "slap_torch.py"
_PACKAGE = "slap_jax.export.pytorch"
_PARTS = ("layers.py", "towers.py", "model.py")  # each uses the previous ones


def write_huggingface(directory: str | os.PathLike[str]) -> Path:
    """Writes a folder that transformers loads with `trust_remote_code=True`, also in its pipelines.

    The folder holds the weights under PyTorch's names, the code, the tokenizer, the settings of the processor and a
    model card. It needs no other file.

    Args:
        directory: an export; the folder is written to its `huggingface/`.

    Returns:
        The folder.

    Raises:
        ExportError: PyTorch is missing, or the export is damaged.
    """
    require_packages("--format huggingface", "torch", "torch")
    export = load_export(directory)  # reports damage before PyTorch does
    from safetensors.torch import save_file

    from slap_jax.export.pytorch.model import load

    model = load(directory)
    out = Path(directory) / HUGGINGFACE_DIRECTORY
    out.mkdir(exist_ok=True)
    config = {
        "architectures": ["SlapModel"],
        "auto_map": {
            "AutoConfig": "configuration_slap.SlapConfig",
            "AutoModel": "modeling_slap.SlapModel",
            "AutoFeatureExtractor": _FEATURE_EXTRACTOR,
            "AutoProcessor": _PROCESSOR,
            "AutoTokenizer": _TOKENIZER,
        },
        "model_type": "slap",
        "dtype": "float32",
        "slap": export.config.to_dict(),
        "captions": model.decoder is not None,
        "tokenizer_file": export.tokenizer_path.name,
    }
    tensors = {f"slap.{name}": tensor.contiguous() for name, tensor in model.state_dict().items()}
    with atomic_file(out / WEIGHTS) as partial:
        save_file(tensors, partial, metadata={"format": "pt"})
        # safetensors creates files that only their owner can read
        partial.chmod(export.tokenizer_path.stat().st_mode)
    settings = {
        "config.json": config,
        "preprocessor_config.json": _preprocessor_settings(export),
        "tokenizer_config.json": _tokenizer_settings(export),
    }
    for name, content in settings.items():
        write_text_atomic(out / name, json.dumps(content, indent=2) + "\n")
    for name in CODE:
        shutil.copyfile(Path(__file__).with_name("huggingface_code") / name, out / name)
    shutil.copyfile(export.tokenizer_path, out / export.tokenizer_path.name)
    for stale in {TOKENIZER, TOKENIZER_JSON} - {export.tokenizer_path.name}:
        (out / stale).unlink(missing_ok=True)
    write_pytorch(out)
    write_huggingface_card(export, Path(directory) / CARD, out / CARD)
    return out


def _preprocessor_settings(export: Export) -> dict[str, Any]:
    return {
        "auto_map": {"AutoFeatureExtractor": _FEATURE_EXTRACTOR, "AutoProcessor": _PROCESSOR},
        "feature_extractor_type": "SlapFeatureExtractor",
        "processor_class": "SlapProcessor",
        "feature_size": 1,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": True,
        "sampling_rate": export.config.audio.sample_rate,
    }


def _tokenizer_settings(export: Export) -> dict[str, Any]:
    tokenizer = load_tokenizer(export.tokenizer_path)
    names = ("<pad>", "<s>", "</s>", "<unk>") if isinstance(tokenizer, SentencePieceTokenizer) else SPECIAL.values()
    return {
        "auto_map": {"AutoTokenizer": [_TOKENIZER, None], "AutoProcessor": _PROCESSOR},
        "tokenizer_class": "SlapTokenizer",
        "processor_class": "SlapProcessor",
        "model_max_length": export.config.data.max_caption_tokens,
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
        **dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), names, strict=True)),
    }


def write_pytorch(directory: str | os.PathLike[str]) -> Path:
    """Writes `slap_torch.py` into a directory; PyTorch need not be installed."""
    path = Path(directory) / PYTORCH_FILE
    write_text_atomic(path, pytorch_source())
    return path


def pytorch_source() -> str:
    """Joins the modules of `slap_jax.export.pytorch` into one file that runs without slap_jax.

    Returns:
        The docstring of the package, the imports of all modules, and their definitions.
    """
    directory = Path(__file__).with_name("pytorch")
    imports: dict[str, set[str]] = {}  # "import os", or "from typing" with its names
    bodies = []
    for part in _PARTS:
        source = (directory / part).read_text(encoding="utf-8")
        end_of_imports = 0
        for statement in ast.parse(source).body[1:]:  # the first is the docstring
            if isinstance(statement, ast.ImportFrom):
                if not str(statement.module).startswith(_PACKAGE):
                    names = {alias.name for alias in statement.names}
                    imports.setdefault(f"from {statement.module}", set()).update(names)
            elif isinstance(statement, ast.Import):
                imports[ast.unparse(statement)] = set()
            else:
                break
            end_of_imports = statement.end_lineno or 0
        bodies.append("\n".join(source.splitlines()[end_of_imports:]).strip("\n"))
    sections: dict[bool, list[str]] = {True: [], False: []}  # of the standard library, or of other packages
    for line, names in sorted(imports.items(), key=lambda item: (item[0].startswith("from"), item[0])):
        module = line.split()[1].split(".")[0]
        text = f"{line} import {', '.join(sorted(names))}" if names else line
        sections[module in sys.stdlib_module_names].append(text)
    docstring = (directory / "__init__.py").read_text(encoding="utf-8").rstrip()
    head = "\n\n".join([docstring, "\n".join(sections[True]), "\n".join(sections[False])])
    return "\n\n\n".join([head, *bodies]) + "\n"
