"""Config files, the configs of runs, and the command line: `--config FILE.py:steps=100,small --config.a.b=value`."""

import contextlib
import importlib.util
import inspect
import json
import os
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from slap_jax.config.defaults import default_config, source
from slap_jax.config.rules import RULES, SOURCE_RULES, ConfigError, unknown_setting
from slap_jax.errors import UserError

RUN_CONFIG = "config.json"  # inside a run directory


def read_config(path: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """Runs `get_config` of a config file and applies overrides; see `apply_overrides`.

    Args:
        path: a Python file, with `:argument` appended to call `get_config(argument)`.
        overrides: `--config.a.b=value`, or `--config.a.b` and `value`.

    Raises:
        ConfigError: the file does not exist, fails or has no `get_config`, or an override names an unknown setting or
            has a value of the wrong type.
    """
    file, colon, argument = path.partition(":")
    get_config, arguments = _run_file(file), [argument] if colon else []
    try:
        inspect.signature(get_config).bind(*arguments)
    except TypeError as error:
        given = f"{argument!r} was given" if colon else "none was given"
        raise ConfigError(
            f"config file {file!r}: get_config{inspect.signature(get_config)} cannot be called ({error}): after "
            f"FILE.py:, {given}; correct the command, or let get_config take one argument with a default"
        ) from None
    with _blame(file):
        config = get_config(*arguments)
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"{file}: get_config returned {type(config).__name__}; return a ConfigDict")
    return apply_overrides(config, overrides)


def read_run_config(run_dir: str | os.PathLike[str], overrides: Sequence[str] = ()) -> ConfigDict:
    """Reads the config that a run saved, so that the run can be resumed without its config file.

    Args:
        run_dir: a run directory; its `config.json` is read.
        overrides: as for `read_config`.

    Raises:
        ConfigError: the run has no config, it is damaged, or it has settings that this version does not know.
    """
    path = Path(run_dir) / RUN_CONFIG
    if not path.is_file():
        raise ConfigError(
            f"{run_dir} holds no {RUN_CONFIG}, so there is no run to resume: name the directory of an existing run, or "
            "add --config FILE.py to start a new one"
        )
    config = default_config()
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        _fill(config, saved, "config")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}; another version wrote it, or it was edited") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} is not the config of a run ({type(error).__name__}: {error}); restore it, or copy `config` from "
            "the `meta` of a checkpoint"
        ) from None
    return apply_overrides(config, overrides)


def changed_settings(config: ConfigDict) -> dict[str, tuple[Any, Any]]:
    """Returns the settings that differ from their defaults: full name -> (value, default).

    A source is compared with `source("", "")`.
    """
    reference = default_config()
    for group in ("train", "evaluation"):
        for name in config.data[group]:
            reference.data[group][name] = source("", "")
    values, defaults = all_settings(config), all_settings(reference)
    return {name: (value, defaults.get(name)) for name, value in values.items() if value != defaults.get(name)}


def all_settings(config: ConfigDict, prefix: str = "config") -> dict[str, Any]:
    """Returns full name -> value of every setting, in alphabetical order; an empty group is {}."""
    settings: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict) and len(value):
            settings |= all_settings(value, f"{prefix}.{name}")
        else:
            settings[f"{prefix}.{name}"] = {} if isinstance(value, ConfigDict) else value
    return settings


def apply_overrides(config: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
    """Sets values of a config, each parsed to the type of the value it replaces.

    Args:
        config: changed in place and returned.
        overrides: `--config.a.b=value`, or `--config.a.b` and `value`.

    Raises:
        ConfigError: an override names an unknown setting or has a value of the wrong type.
    """
    for override in overrides:
        if override.startswith("-"):
            _check_known(config, override)
    values = flags.FlagValues()
    arguments = ["slap train", *overrides]
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=arguments)
    try:
        left = values(arguments)[1:]
    except flags.Error as error:
        raise ConfigError(_wrong_value(str(error))) from None
    if left:
        raise ConfigError(f"unrecognised arguments: {' '.join(left)}; write settings as --config.NAME.NAME=VALUE")
    return config


def parse_arg(arg: str | None, **defaults: Any) -> ConfigDict:
    """Reads the `a=1,b` of `--config=file.py:a=1,b` into typed values.

    Args:
        arg: comma-separated `name=value` pairs; a bare name sets a boolean to True. None or "" keeps the defaults.
        **defaults: the allowed names and their default values; a given value is parsed to the type of its default.

    Raises:
        ConfigError: an unknown name, or a value that cannot be parsed to the type of its default.
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


def _wrong_value(message: str) -> str:
    """Returns the message for an override that cannot be parsed, given that of absl: "flag --NAME=VALUE: reason"."""
    named = re.match(r"flag --(config[\w.]+)=(.*?): ", message, re.DOTALL)
    if named is None:
        return f"{message.removeprefix('flag ')}; write a value of the setting's type"
    name, value = named.groups()
    in_source = re.match(r"config\.data\.(?:train|evaluation)\.\w+\.(.*)", name)
    rule = SOURCE_RULES.get(in_source[1]) if in_source else RULES.get(name.removeprefix("config."))
    advice = f"write {rule.text}" if rule and rule.text else "write a value of the setting's type"
    return f"{name} is {value!r}; {advice}, as --{name}=VALUE"


def _fill(config: ConfigDict, saved: Mapping[str, Any], prefix: str) -> None:
    """Sets the settings of a group from JSON, where tuples have become lists; those that it lacks keep their value."""
    for key, value in saved.items():
        name = f"{prefix}.{key}"
        if prefix in ("config.data.train", "config.data.evaluation"):
            config[key] = source("", "")
        if key not in config:
            raise ConfigError(unknown_setting(name, config))
        if isinstance(config[key], ConfigDict):
            _fill(config[key], value, name)
        elif value is not None:  # an optional setting is None already
            config[key] = _tuples(value) if isinstance(config[key], tuple) else value


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _run_file(file: str) -> Callable[..., Any]:
    if not Path(file).is_file():
        raise ConfigError(f"config file {file!r} does not exist; give a Python file with get_config()")
    spec = importlib.util.spec_from_file_location("slap_config", file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"config file {file!r} is not a Python file; give one with get_config()")
    module = importlib.util.module_from_spec(spec)
    with _blame(file):
        spec.loader.exec_module(module)
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise ConfigError(f"config file {file!r} has no get_config(); it must return a ConfigDict")
    return get_config


@contextlib.contextmanager
def _blame(file: str) -> Iterator[None]:
    """Turns any error of the code in a config file into a `ConfigError` that names the line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == os.path.abspath(file)
        ]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        where = f", line {line}" if line else ""
        raise ConfigError(f"config file {file!r}{where}: {type(error).__name__}: {error}; correct the file") from error


def _check_known(config: ConfigDict, override: str) -> None:
    name = override.lstrip("-").partition("=")[0].removeprefix("no")
    root, *path = name.split(".")
    if root != "config" or not path:
        raise ConfigError(f"{override} is not an option; write settings as --config.NAME.NAME=VALUE")
    node = config
    for depth, part in enumerate(path):
        where = ".".join(["config", *path[:depth]])
        if not isinstance(node, ConfigDict):
            raise ConfigError(f"{name} is not a setting: {where} is a value, not a group")
        if part not in node:
            raise ConfigError(unknown_setting(f"{where}.{part}", node))
        node = node[part]
