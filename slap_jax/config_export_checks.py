"""Whether the config of an export describes a model: a file that people edit, and that other versions wrote."""

from ml_collections import ConfigDict

from slap_jax.config import default_config, validate_model
from slap_jax.config_checks import ConfigError, check_keys, require


def validate_exported(config: ConfigDict) -> None:
    """Requires that `audio` and `model` hold all settings, of their types and fitting together, and `data` its length.

    Raises:
        ConfigError: names the setting, the value found and what is expected.
    """
    whole = default_config()
    for name in ("audio", "model"):
        check_keys(config[name], whole[name], f"config.{name}", advice="every one must be there")
        _put(whole[name], config[name], f"config.{name}")
    validate_model(whole)
    most = config.data.get("max_caption_tokens")
    wanted = "expected an integer above 2"
    require(isinstance(most, int) and most > 2, f"config.data.max_caption_tokens is {most!r}; {wanted}")


def _put(into: ConfigDict, values: ConfigDict, name: str) -> None:
    """Sets settings one by one, so that a wrong type is told with its name."""
    for key, value in values.items():
        if isinstance(value, ConfigDict):
            _put(into[key], value, f"{name}.{key}")
            continue
        try:
            into[key] = value
        except TypeError:
            raise ConfigError(f"{name}.{key} is {value!r}; expected {into.get_type(key).__name__}") from None
