"""Checks of `config.data`: rows, augmentation, and the sources of the mixture."""

import math

from ml_collections import ConfigDict

from slap_jax.config_checks import check_share, require
from slap_jax.config_sizes import columns_of
from slap_jax.config_source import validate_source


def validate_data(config: ConfigDict, process_count: int) -> None:
    """Requires that clips fit into rows, rows onto hosts, and that every source teaches something."""
    data = config.data
    needed = columns_of(data.max_seconds, config.audio)
    require(
        data.columns >= needed,
        f"config.data.columns is {data.columns}, but a clip of config.data.max_seconds={data.max_seconds} owns "
        f"{needed} columns; write columns={needed} or more, or a smaller max_seconds",
    )
    enough = math.ceil(data.columns / needed)
    require(
        data.slots >= enough,
        f"config.data.slots is {data.slots}: as many of the longest clips own {data.slots * needed} of the "
        f"{data.columns} columns of a row, so rows would never be full; write slots={enough} or more",
    )
    require(
        data.max_caption_tokens >= 3,
        f"config.data.max_caption_tokens is {data.max_caption_tokens}; the start and end tokens alone take 2",
    )
    require(
        data.text_tokens >= data.max_caption_tokens,
        f"config.data.text_tokens is {data.text_tokens}, less than one caption of "
        f"config.data.max_caption_tokens={data.max_caption_tokens}",
    )
    shards = data.virtual_shards
    require(
        shards % process_count == 0,
        f"config.data.virtual_shards is {shards}, not a multiple of the {process_count} hosts; write a multiple of "
        "every number of hosts that may ever resume this run",
    )
    require(
        data.rows % shards == 0,
        f"config.data.rows is {data.rows}, not a multiple of config.data.virtual_shards={shards}",
    )
    if config.objectives.contrastive.weight > 0:
        require(
            data.rows * data.slots >= 2,
            f"config.data.slots is {data.slots} with rows={data.rows}: contrastive learning needs two clips or more "
            "in a batch",
        )
    require(data.read_threads >= 0, f"config.data.read_threads is {data.read_threads}; write 0 to read as needed")
    require(data.decode_threads >= 1, f"config.data.decode_threads is {data.decode_threads}; write 1 or more")
    require(data.workers >= 0, f"config.data.workers is {data.workers}; write 0 for threads, or a number of processes")
    _validate_augment(data.augment)
    _validate_sources(config)


def _validate_augment(augment: ConfigDict) -> None:
    name = "config.data.augment"
    require(augment.gain_db >= 0, f"{name}.gain_db is {augment.gain_db}; write the most decibels up or down, 0 or more")
    for kind in ("noise", "room"):
        probability = augment[f"{kind}_probability"]
        check_share(probability, f"{name}.{kind}_probability")
        require(
            probability == 0 or augment[f"{kind}_dir"] != "",
            f"{name}.{kind}_probability is {probability}, but {name}.{kind}_dir is empty; name a folder of audio files",
        )
    bounds = augment.noise_snr_db
    require(
        len(bounds) == 2 and bounds[0] <= bounds[1],
        f"{name}.noise_snr_db is {bounds}; write (lowest, highest) signal-to-noise ratio in decibels",
    )


def _validate_sources(config: ConfigDict) -> None:
    data = config.data
    require(len(data.train) > 0, "config.data.train names no source; add config.data.train.NAME = source(path, split)")
    for group in ("train", "evaluation"):
        for name, settings in data[group].items():
            validate_source(settings, f"config.data.{group}.{name}")
    require(
        data.temperature is None or data.temperature > 0,
        f"config.data.temperature is {data.temperature}; write a number above 0, or None for the weights as given",
    )
    trained = [name for name, objective in config.objectives.items() if objective.weight > 0]
    for name, settings in data.train.items():
        require(
            any(settings.objectives[objective] > 0 for objective in trained),
            f"config.data.train.{name}.objectives is 0 for {' and '.join(trained)}: nothing would learn from this "
            "source; set one above 0, or take the source out",
        )
    for objective in trained:
        require(
            any(settings.objectives[objective] > 0 for settings in data.train.values()),
            f"config.data.train.*.objectives.{objective} is 0 for every source; to train without it write "
            f"config.objectives.{objective}.weight=0",
        )
