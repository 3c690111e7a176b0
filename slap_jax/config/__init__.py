"""The configuration: defaults, the rules that every setting obeys, and the files and flags that change them."""

from slap_jax.config.defaults import default_config, source
from slap_jax.config.files import apply_overrides, parse_arg, read_config
from slap_jax.config.rules import ConfigError
from slap_jax.config.validate import validate

__all__ = ["ConfigError", "apply_overrides", "default_config", "parse_arg", "read_config", "source", "validate"]
