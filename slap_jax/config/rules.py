"""What every check of a configuration needs: its error, and the checks that any group of settings can use."""

from collections.abc import Collection

from ml_collections import ConfigDict

from slap_jax.errors import UserError


class ConfigError(UserError, ValueError):
    """A setting that cannot work; the message names the setting, what was found and what to write."""


def require(condition: bool, message: str) -> None:
    """Raises `ConfigError(message)` unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def check_choice(config: ConfigDict, path: str, choices: tuple[str, ...], prefix: str = "config") -> None:
    """Requires `config.<path>` to be one of the choices; `prefix` is what the message calls `config`."""
    value = config
    for part in path.split("."):
        value = value[part]
    require(value in choices, f"{prefix}.{path} is {value!r}; write one of {', '.join(choices)}")


def check_fraction(value: float, name: str) -> None:
    """Requires a probability or share, between 0 and 1."""
    require(0 <= value <= 1, f"{name} is {value}; write a value from 0 to 1")


def check_keys(
    config: ConfigDict,
    reference: ConfigDict,
    prefix: str = "config",
    named_by_user: Collection[str] = (),
    advice: str = "start the config from slap_jax.config.defaults.default_config()",
) -> None:
    """Requires the settings of a group to be those of the reference, no more and no fewer.

    Args:
        config: the group to check.
        reference: a group that has every setting.
        prefix: what messages call the group.
        named_by_user: groups, by their full names, whose entries the user names; they are not looked into.
        advice: what to do where a setting is missing.
    """
    for key in config:
        require(key in reference, f"{prefix}.{key} is not a setting; {prefix} takes: {', '.join(sorted(reference))}")
        name = f"{prefix}.{key}"
        if isinstance(reference[key], ConfigDict) and name not in named_by_user:
            require(isinstance(config[key], ConfigDict), f"{name} is {config[key]!r}; expected a group of settings")
            check_keys(config[key], reference[key], name, named_by_user, advice)
    for key in reference:
        require(key in config, f"{prefix}.{key} is missing; {advice}")
