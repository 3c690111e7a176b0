"""Whether every host can read the data, and shares the run directory with the others."""

import math
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
from ml_collections import ConfigDict

from slap_jax.config.validate import require_vocabulary
from slap_jax.data.records import open_split
from slap_jax.data.tokenizer import load_tokenizer
from slap_jax.errors import is_url
from slap_jax.models.modernbert import check_modernbert
from slap_jax.training.optimizer import create_optimizer
from slap_jax.training.state import create_state

from .finding import OK, PROBLEM, SKIPPED, Finding, attempt

_REMEDY = "every host must see the same path: mount the disk or bucket there, or correct the config"


def check_data(config: ConfigDict) -> list[Finding]:
    """Opens every source, reads its first and last clip, and opens the tokenizer and the folders in the config."""
    findings = []
    for group in ("train", "evaluation"):
        for name, source in config.data[group].items():
            check = f"data {group}.{name}"
            findings += attempt(check, lambda s=source, c=check: _check_source(c, s), _REMEDY)
    findings += attempt("tokenizer", lambda: _check_tokenizer(config), _REMEDY)
    if config.init_text_from and not config.init_from:
        findings += attempt("text tower", lambda: _check_text_tower(config), _REMEDY)
    augment = config.data.augment
    for kind in ("noise", "room"):
        if augment[f"{kind}_probability"] > 0:
            folder = augment[f"{kind}_dir"]
            findings += attempt(f"data {kind}_dir", lambda f=folder, k=kind: _check_folder(k, f), _REMEDY)
    return findings


def _check_source(check: str, source: ConfigDict) -> list[Finding]:
    records = open_split(source.path, source.split)
    seconds = sum(len(records[index].waveform()) for index in {0, len(records) - 1}) / 16_000
    text = f"{source.path} {source.split}: {len(records):,} clips; first and last clip read, {seconds:.1f} s"
    return [Finding(check, OK, text)]


def _check_tokenizer(config: ConfigDict) -> list[Finding]:
    tokenizer = load_tokenizer(config.data.tokenizer)
    require_vocabulary(config.model, tokenizer)
    return [Finding("tokenizer", OK, f"{tokenizer.path}: {tokenizer.vocab_size:,} pieces")]


def _check_text_tower(config: ConfigDict) -> list[Finding]:
    check_modernbert(config.init_text_from, config.model)
    return [Finding("text tower", OK, f"{config.init_text_from}: a ModernBERT with the sizes of this config")]


def _check_folder(kind: str, folder: str) -> list[Finding]:
    files = sum(1 for path in Path(folder).rglob("*") if path.is_file())
    if not files:
        text = f"config.data.augment.{kind}_dir={folder} holds no file"
        return [Finding(f"data {kind}_dir", PROBLEM, text, _REMEDY)]
    return [Finding(f"data {kind}_dir", OK, f"{folder}: {files:,} files")]


def check_run_dir(run_dir: str, share: Callable[[str, str], list[str]]) -> list[Finding]:
    """Writes a file on every host and reads those of the others. Every process must call it.

    Args:
        run_dir: run directory of the training command.
        share: shares (name, text) with the other processes and returns the text of each.
    """
    if is_url(run_dir):
        remedy = "mount the bucket (gcsfuse) and give the path of the mount"
        return [Finding("run directory", PROBLEM, f"{run_dir} is a URL", remedy)]
    path = Path(run_dir).absolute()
    name, token, error = f".preflight-{jax.process_index()}-{secrets.token_hex(4)}", secrets.token_hex(8), ""
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(token)
    except OSError as caught:
        name, error = "", str(caught)
    written = [line.partition(" ")[::2] for line in share("preflight token", f"{name} {token}")]
    missing = []
    for process, (other, content) in enumerate(written):
        if other and not error:
            try:
                if (path / other).read_text() != content:
                    missing.append(process)
            except OSError:
                missing.append(process)
    share("preflight token was read", "")
    if name:
        (path / name).unlink(missing_ok=True)
    if error:
        remedy = "give a directory that this user can write to on every host"
        return [Finding("run directory", PROBLEM, f"cannot write: {error}", remedy)]
    if missing:
        whose = ", ".join(map(str, missing))
        text = f"{path} is not the same directory on all hosts: the file of process {whose} is missing here"
        return [Finding("run directory", PROBLEM, text, "give a directory on a disk or bucket that all hosts mount")]
    shared = f", the same on all {len(written)} hosts" if len(written) > 1 else ""
    return [Finding("run directory", OK, f"{path} can be written{shared}")]


def check_space(config: ConfigDict, run_dir: str) -> list[Finding]:
    """Compares the free space with the size of the checkpoints that are kept at the same time."""
    size = checkpoint_bytes(config)
    needed = size * (config.checkpoint.keep + 1)  # the newest is written before the oldest is deleted
    path = Path(run_dir).absolute()
    while not path.exists():
        path = path.parent
    free = shutil.disk_usage(path).free
    text = (
        f"{free / 2**30:.1f} GiB free; {config.checkpoint.keep} + 1 checkpoints of {size / 2**30:.2f} GiB need "
        f"{needed / 2**30:.1f} GiB"
    )
    if os.statvfs(path).f_blocks == 0:
        return [Finding("disk space", SKIPPED, f"the file system of {path} does not report its size")]
    if free < needed:
        remedy = "free space, lower config.checkpoint.keep, or give another run directory"
        return [Finding("disk space", PROBLEM, text, remedy)]
    return [Finding("disk space", OK, text)]


def checkpoint_bytes(config: ConfigDict) -> int:
    """Returns the size of parameters, teacher and optimiser state in bytes."""
    transform = create_optimizer(config.optimizer, config.train.steps)
    state = jax.eval_shape(lambda: create_state(config, transform))
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
