"""Mean and standard deviation of the log-mel of prepared data: `slap prepare` measures them, configs read them."""

import os
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from slap_jax.config.defaults import default_config
from slap_jax.data.records import RecordsError, dataset_directory, records_summary

KEY = "log_mel"  # in the summary that `slap prepare` writes next to the records

# The settings of `config.audio` that the two numbers depend on.
FRONT_END = ("sample_rate", "n_fft", "window_length", "hop_length", "mels", "f_min", "f_max", "log_floor")


def front_end_settings(audio: ConfigDict) -> dict[str, Any]:
    """Returns the settings of `config.audio` that the log-mel depends on."""
    return {name: audio[name] for name in FRONT_END}


def read_log_mel_statistics(
    prepared_dir: str | os.PathLike[str], audio: ConfigDict | None = None
) -> tuple[float, float] | None:
    """Reads the mean and the standard deviation of the log-mel, for `config.audio.mean` and `config.audio.std`.

    Args:
        prepared_dir: the output directory of `slap prepare`, or the directory inside it that holds the records.
        audio: `config.audio`, whose front end must be the one of the measurement; the default front end if None.

    Returns:
        Both numbers, of natural logarithms; None if nothing is prepared there, an earlier version or another builder
        prepared it, or the front end is another one.

    Raises:
        RecordsError: the summary of the records is damaged.
    """
    try:
        directory = dataset_directory(prepared_dir)
    except RecordsError:
        return None
    measured: Mapping[str, Any] | None = records_summary(directory).get(KEY)
    if measured is None or measured["front_end"] != front_end_settings(audio or default_config().audio):
        return None
    return float(measured["mean"]), float(measured["std"])
