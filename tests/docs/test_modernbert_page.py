"""The commands and settings of docs/modernbert.md are valid and match the published models."""

import json
import re
import shlex
from pathlib import Path

from slap_jax.config.defaults import default_config, source
from slap_jax.config.files import read_config
from slap_jax.config.validate import validate
from slap_jax.models.modernbert import DEFAULTS, check_modernbert

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "modernbert.md").read_text(encoding="utf-8")
# The sizes of ModernBERT-large that differ from the base model.
LARGE = {"hidden_size": 1_024, "intermediate_size": 2_624, "num_attention_heads": 16, "num_hidden_layers": 28}


def write_described(folder: Path, **sizes) -> Path:
    """A folder with the files that are checked before training."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "modernbert"} | DEFAULTS | sizes))
    (folder / "model.safetensors").touch()
    return folder


def test_the_training_command_is_for_the_base_model(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    command = re.search(r"^    (slap train .*)$", PAGE, flags=re.MULTILINE)
    assert command is not None
    arguments = shlex.split(command[1])
    config = read_config(arguments[arguments.index("--config") + 1])
    validate(config, device_count=8)
    assert config.data.tokenizer == f"{config.init_text_from}/tokenizer.json"
    check_modernbert(write_described(tmp_path / "base"), config.model)


def test_the_settings_of_another_size_are_for_the_large_model(tmp_path):
    block = re.search(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert block is not None
    config = default_config()
    config.data.train.clips = source("data/train", "train")
    folder = write_described(tmp_path / "large", **LARGE)
    exec(block[1], {"config": config, "folder": str(folder)})
    validate(config)
    assert config.init_text_from == str(folder)
    check_modernbert(folder, config.model)
