"""JAX's persistent compilation cache for inference, so that a new process does not wait for the compiler."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path

import jax

VARIABLE = "SLAP_COMPILE_CACHE"
_DIRECTORY = "jax_compilation_cache_dir"
_OFF = ("0", "off", "none")
_MIN_COMPILE_SECONDS = 0.1  # programs that compile faster are not stored


def cache_directory(environment: Mapping[str, str]) -> Path | None:
    """Returns the cache directory, or None if caching is off.

    Args:
        environment: `SLAP_COMPILE_CACHE` is a directory, or "0", "off" or "none"; by default the cache is in the
            user's cache directory.
    """
    chosen = environment.get(VARIABLE, "")
    if chosen.lower() in _OFF:
        return None
    if chosen:
        return Path(chosen).expanduser()
    base = environment.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "slap_jax" / "programs"


def use_compile_cache(environment: Mapping[str, str] = os.environ) -> None:
    """Turns on JAX's persistent cache, unless the user has configured one.

    Processes of a multi-process job compile for themselves: see `slap_jax.parallel.distributed`.
    """
    if getattr(jax.config, _DIRECTORY) is not None or jax.process_count() > 1:
        return
    directory = cache_directory(environment)
    if directory is None:
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # JAX would warn of every program that it cannot store. A read-only cache that has programs is still read.
        if not os.access(directory, os.W_OK) and not any(directory.iterdir()):
            raise PermissionError(f"{directory} is empty and read-only")
    except OSError as error:
        logging.warning("compiled programs are not kept: %s (%s=DIR chooses another directory)", error, VARIABLE)
        return
    jax.config.update(_DIRECTORY, str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _MIN_COMPILE_SECONDS)
