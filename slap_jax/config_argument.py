"""The argument of a config file: what follows the colon in `--config FILE.py:steps=100,small`."""

from typing import Any

from ml_collections import ConfigDict

from slap_jax.config_checks import ConfigError


def parse_arg(arg: str | None, **defaults: Any) -> ConfigDict:
    """Reads the `a=1,b` of `--config=file.py:a=1,b` into typed values.

    Args:
        arg: comma-separated `name=value` pairs; a bare name sets a boolean to True. None or "" keeps the defaults.
        **defaults: the names allowed, with default values whose types the given ones take.

    Raises:
        ConfigError: an unknown name, or a value not of the default's type.
    """
    values = ConfigDict(defaults)
    for item in filter(None, (arg or "").split(",")):
        name, has_value, text = item.partition("=")
        if name not in values:
            raise ConfigError(f"config argument {name!r} is unknown; this config takes: {', '.join(defaults)}")
        default = values[name]
        try:
            if isinstance(default, bool):
                values[name] = {"": True, "true": True, "1": True, "false": False, "0": False}[text.lower()]
            elif not has_value:
                raise ValueError
            else:
                values[name] = type(default)(text)
        except (KeyError, ValueError):
            kind = type(default).__name__
            raise ConfigError(f"config argument {name}={text!r} is not a {kind}; write {name}=<{kind}>") from None
    return values
