"""Config files and overrides: typed values, and one clear error for each mistake."""

import pytest

from slap_jax.config.files import all_settings, changed_settings, parse_arg, read_config, read_run_config
from slap_jax.config.rules import ConfigError


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "small.py"
    path.write_text(
        "from slap_jax.config import default_config, parse_arg, source\n"
        "def get_config(arg=None):\n"
        "    values = parse_arg(arg, rows=4)\n"
        "    config = default_config()\n"
        "    config.data.rows = values.rows\n"
        "    config.data.train.clips = source('data', 'train')\n"
        "    return config\n"
    )
    return str(path)


def test_argument_and_typed_overrides(file):
    config = read_config(
        file + ":rows=16",
        [
            "--config.optimizer.learning_rate=1",
            "--config.data.columns",
            "64",
            "--config.metrics.tensorboard=false",
            "--config.objectives.contrastive.init_scale=3",
            "--config.optimizer.learning_rate_factors=(('text', 0.1),)",
            "--config.data.train.clips.split=dev",
            "--noconfig.data.allow_mismatch",
        ],
    )
    assert config.data.rows == 16 and config.data.columns == 64
    assert config.optimizer.learning_rate == 1.0 and isinstance(config.optimizer.learning_rate, float)
    assert config.metrics.tensorboard is False and config.data.allow_mismatch is False
    assert config.objectives.contrastive.init_scale == 3.0
    assert config.optimizer.learning_rate_factors == (("text", 0.1),)
    assert config.data.train.clips.split == "dev"


def test_the_last_override_counts(file):
    assert read_config(file, ["--config.data.rows=8", "--config.data.rows=12"]).data.rows == 12


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--config.data.rowz=8"], r"config\.data\.rowz is not a setting; did you mean config\.data\.rows\?"),
        (["--config.nothing.like.it=8"], r"config\.nothing is not a setting; config takes: audio,"),
        (["--config.data.rows.deep=8"], r"config\.data\.rows is a value, not a group"),
        (["--config.data.rows=8.5"], r"config\.data\.rows is '8\.5'; write an integer, 1 or more, as --config"),
        (
            ["--config.data.rows=many"],
            r"config\.data\.rows is 'many'; write an integer, 1 or more, as --config\.data\.rows=",
        ),
        (["--config.data.train.clips.weight=much"], r"clips\.weight is 'much'; write a number above 0, as --config"),
        (["--config.metrics.tensorboard=perhaps"], r"config\.metrics\.tensorboard is 'perhaps'; write True or False"),
        (["--data.rows=8"], r"--data\.rows=8 is not an option; write settings as --config\."),
        (["--rows"], "--rows is not an option"),
        (["stray"], "unrecognised arguments: stray"),
    ],
)
def test_bad_overrides(file, overrides, message):
    with pytest.raises(ConfigError, match=message):
        read_config(file, overrides)


def test_the_config_of_a_run_is_the_one_that_it_was_started_with(file, tmp_path):
    overrides = [
        "--config.optimizer.learning_rate_factors=(('text', 0.1),)",
        "--config.data.temperature=2.0",
        "--config.data.train.clips.captions.length_bounds=(3, 9)",
    ]
    config = read_config(file + ":rows=16", overrides)
    (tmp_path / "config.json").write_text(config.to_json_best_effort())
    assert all_settings(read_run_config(tmp_path)) == all_settings(config)  # tuples, which JSON does not have, included
    resumed = read_run_config(tmp_path, ["--config.train.steps=7", "--config.data.train.clips.split=dev"])
    assert resumed.train.steps == 7 and resumed.data.train.clips.split == "dev" and resumed.data.rows == 16
    changed = changed_settings(config)
    assert changed["config.data.rows"] == (16, 256) and changed["config.data.temperature"] == (2.0, None)
    assert changed["config.data.train.clips.captions.length_bounds"] == ((3, 9), (8, 20)) and len(changed) == 6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not the config of a run"),
        ("[]", "is not the config of a run"),
        ('{"data": 7}', "is not the config of a run"),
        ('{"data": {"train": {"clips": 7}}}', "is not the config of a run"),
        ('{"train": {"steps": "x"}}', "is not the config of a run"),
        (
            '{"train": {"stepz": 1}}',
            r"json: config\.train\.stepz is not a setting; did you mean .*another version",
        ),
    ],
)
def test_a_damaged_config_of_a_run_is_named(tmp_path, content, message):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_run_config(tmp_path)


def test_bad_files(file, tmp_path):
    with pytest.raises(ConfigError, match=r"config file 'none\.py' does not exist"):
        read_config("none.py")
    with pytest.raises(ConfigError, match="config argument 'columns' is unknown; this config takes: rows"):
        read_config(file + ":columns=3")
    empty = tmp_path / "empty.py"
    empty.write_text("")
    with pytest.raises(ConfigError, match=r"has no get_config\(\)"):
        read_config(str(empty))
    empty.write_text("def get_config(): return {}\n")
    with pytest.raises(ConfigError, match="get_config returned dict"):
        read_config(str(empty))
    text = tmp_path / "config.txt"
    text.write_text("")
    with pytest.raises(ConfigError, match="is not a Python file"):
        read_config(str(text))


def test_arguments_are_typed_and_unknown_ones_named():
    args = parse_arg("steps=30,small", steps=10, small=False, data="d")
    assert (args.steps, args.small, args.data) == (30, True, "d")
    with pytest.raises(ConfigError, match="'stpes' is unknown; this config takes: steps"):
        parse_arg("stpes=3", steps=1)
    with pytest.raises(ConfigError, match="steps='many' is not a int"):
        parse_arg("steps=many", steps=1)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def get_config(:\n", "broken.py', line 1: SyntaxError: .*; correct the file"),
        ("\nimport no_such_package\n", "broken.py', line 2: ModuleNotFoundError: No module named 'no_such_package'"),
        ("def get_config():\n    return 1 / 0\n", "broken.py', line 2: ZeroDivisionError: division by zero; correct"),
        (
            "from slap_jax.config import default_config\n\ndef get_config():\n    default_config().data.rows = 'x'\n",
            "broken.py', line 4: TypeError: .*'rows'",
        ),
        ("get_config = 3\n", "broken.py' has no get_config"),
        (
            "def get_config(a, b):\n    pass\n",
            r"get_config\(a, b\) cannot be called .*: after FILE.py:, none was given",
        ),
    ],
)
def test_errors_in_a_config_file_name_the_line(tmp_path, monkeypatch, code, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.py").write_text(code)
    for path in (tmp_path / "broken.py", "broken.py"):
        with pytest.raises(ConfigError, match=message):
            read_config(str(path))


def test_an_argument_that_a_config_file_does_not_take(tmp_path):
    (tmp_path / "plain.py").write_text("def get_config():\n    pass\n")
    with pytest.raises(ConfigError, match=r"get_config\(\) cannot be called .*: after FILE.py:, 'small' was given"):
        read_config(f"{tmp_path / 'plain.py'}:small")


def test_an_error_for_users_passes_through_a_config_file(tmp_path):
    (tmp_path / "picky.py").write_text("from slap_jax.config import parse_arg as get_config\n")
    with pytest.raises(ConfigError, match=r"^config argument 'fast' is unknown"):
        read_config(f"{tmp_path / 'picky.py'}:fast")
