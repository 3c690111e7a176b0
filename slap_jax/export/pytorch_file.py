"""`slap_torch.py`: the parts of `slap_jax.export.pytorch` as one file that runs without slap_jax."""

import ast
import os
import sys
from pathlib import Path

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
    partial = path.with_name(f".{PYTORCH_FILE}.partial")
    partial.write_text(pytorch_source(), encoding="utf-8")
    os.replace(partial, path)
    return path
