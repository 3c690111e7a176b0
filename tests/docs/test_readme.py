"""The README's Python runs on a tiny model, and the commands of all pages exist."""

import ast
import csv
import json
import re
import shlex
import tomllib

import pytest
import yaml

import slap_jax.page.app
import slap_jax.serve.app
from slap_jax.checkpoints.model_dir import export
from slap_jax.cli import create_parser, main
from slap_jax.config.files import read_config
from tests.docs.run_page import ROOT
from tests.inference.tiny import tiny_config, tiny_run_params, tiny_tokenizer

PAGES = {
    path.name: path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"))
}
README = PAGES["README.md"]
TOWERS = ("audio_encoder", "text_encoder", "caption_decoder")
FEW = ["--epochs", "1", "--config.train.steps=1"]


def commands(text: str, program: str) -> list[list[str]]:
    """Returns the words of every command that is a line of a block or stands in backticks."""
    text = text.replace("\\\n", " ")
    found = re.findall(rf"^ *({program}(?: .*)?)$|`(?:[^`\n]* && )?({program}(?: [^`\n]+)?)`", text, re.MULTILINE)
    words = [shlex.split(line or inline, comments=True) for line, inline in found]
    return [line[: line.index(">")] if ">" in line else line for line in words]


def launched(text: str) -> list[list[str]]:
    """Returns what the launch scripts of a text are given to run."""
    words = commands(text, r"(?:launch/\w+\.sh|sbatch)")
    return [line[line.index("train") :] for line in words if "train" in line]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the demo's clips and configs, and a tiny model in place of the demo's."""
    config = tiny_config()
    tiny_tokenizer(tmp_path / "words.model")
    export(tiny_run_params(config), config, tmp_path / "words.model", tmp_path / "runs/demo/export")
    for folder in ("demo_data", "configs"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.compile
def test_the_python_of_the_readme_runs(here):
    (block,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    variables: dict = {}
    exec(compile(block, "README.md", "exec"), variables)
    assert variables["audio"].shape == variables["text"].shape == (2, 16)


# Appended to the commands that train, so that they train a small model for a moment.
SMALL = [
    *("--config.train.steps=2", "--config.optimizer.warmup_steps=1"),
    *("--config.train.log_every=1", "--config.train.evaluate_every=2"),
    *(f"--config.model.{tower}.{key}" for tower in TOWERS for key in ("width=48", "heads=1", "mlp_width=48")),
    "--config.model.caption_decoder.layers=1",
    *("--config.data.rows=8", "--config.data.decode_threads=1"),
]


@pytest.mark.compile
@pytest.mark.process
def test_the_commands_of_the_readme_run(here, monkeypatch, capsys):
    """Those for the demo's model and for one's own clips run as printed, in order; training is made short."""
    served = []
    monkeypatch.setattr(slap_jax.page.app, "serve", lambda *arguments, **_: served.append("demo"))
    monkeypatch.setattr(slap_jax.serve.app, "serve", lambda *arguments, **_: served.append("serve"))
    use, train = (README[README.index(f"## {title}") :] for title in ("Use a model", "Train on your own clips"))
    lines = []
    for section in (use, train):
        (block, *_) = re.findall(r"^```\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
        lines += block.splitlines()
    lines += re.findall(r"`(slap finetune [^`]+)`", train)
    ran = []
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[0] == "export":
            monkeypatch.setenv(*words[1].split("="))
            continue
        assert words.pop(0) == "slap", line
        small = SMALL if words[0] == "train" else FEW if words[0] == "finetune" else []
        assert main([*words, *small]) == 0, (line, capsys.readouterr().err)
        ran.append(words[0])
    assert served == ["demo", "serve"]
    assert ran[:5] == ["classify", "caption", "embed", "index", "search"] and ran.count("train") == 2
    for path in ("runs/mine/first/evaluation.json", "runs/mine/first/export/README.md", "runs/mine/first/report.html"):
        assert (here / path).is_file()
    printed = capsys.readouterr().out
    assert "hydrogen-drumkits/a-hand-clap-36ef77.ogg: " in printed and "wrote runs/mine/first/report.html" in printed


def test_the_citation_file_agrees_with_the_project_and_the_readme():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    method = citation["preferred-citation"]
    for author in method["authors"]:
        assert f"{author['family-names']}, {author['given-names']}" in README
    assert method["identifiers"][0]["value"] in README and f"{{{project['version']}}}" in README


def test_the_captions_of_the_demo_are_those_of_its_manifest():
    lines = (ROOT / "demo_data/manifest.jsonl").read_text(encoding="utf-8").splitlines()
    clips = [json.loads(line) for line in lines]
    with (ROOT / "demo_data/captions.csv").open(encoding="utf-8", newline="") as file:
        rows = [(row["path"], row["caption"], row["labels"], row["group"]) for row in csv.DictReader(file)]
    expected = [
        (clip["path"], text, f"kind={clip['kind']}", clip["group"]) for clip in clips for text in clip["captions"]
    ]
    assert rows == expected


def test_commands_of_slap_are_known_to_its_parser(monkeypatch, capsys):
    monkeypatch.setenv("SLAP_MODEL", "my_model")
    parser, checked = create_parser(), 0
    for page, text in PAGES.items():
        for words in [*commands(text, "slap"), *(["slap", *words] for words in launched(text))]:
            if len(words) < 3 or "--help" in words or any("..." in word or word.startswith("[") for word in words):
                continue  # a usage line or part of a command
            try:
                options, rest = parser.parse_known_args(words[1:])
            except SystemExit:  # a sentence may name a verb with one option, but no option that does not exist
                error = capsys.readouterr().err
                assert re.search("arguments are required|expected one argument", error), (page, words, error)
                assert f"`{shlex.join(words)}`" in text, (page, words, error)
                continue
            if getattr(options, "runner", None) is None:  # whose flags are Beam's
                assert all(word.startswith("--config.") for word in rest), (page, words)
            checked += 1
    assert checked > 60


def test_config_files_and_their_arguments_in_commands_exist(monkeypatch):
    monkeypatch.chdir(ROOT)
    named = {name for text in PAGES.values() for name in re.findall(r"--config (configs/[\w/]+\.py[^\s`]*)", text)}
    assert "configs/corpus_cpu.py:data=runs/mine/data" in named
    for name in named:
        read_config(name.removesuffix(":..."))


def test_benchmarks_in_commands_exist_and_take_their_options():
    checked = 0
    for page, text in PAGES.items():
        for _, script, *words in commands(text, r"python benchmarks/\w+\.py"):
            source = (ROOT / script).read_text(encoding="utf-8")
            assert all(f'"{word}"' in source for word in words if word.startswith("--")), (page, script, words)
            checked += 1
    assert checked > 15


def test_benchmarks_run_as_scripts():
    """`python benchmarks/NAME.py` can import from its own folder, and not from the root of the repository."""
    for file in (ROOT / "benchmarks").glob("*.py"):
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        modules = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
        modules += [name.name for node in nodes if isinstance(node, ast.Import) for name in node.names]
        assert "benchmarks" not in {module.split(".")[0] for module in modules}, file.name


def test_the_layout_names_every_room():
    page = PAGES["CONTRIBUTING.md"]
    layout = page[page.index("### Layout") : page.index("### Rooms")]
    rooms = {path.name for path in (ROOT / "slap_jax").iterdir() if (path / "__init__.py").exists()}
    files = {path.name for path in (ROOT / "slap_jax").glob("*.py")} - {"__init__.py"}
    assert all(re.search(rf"\b{re.escape(name)}", layout) for name in files)
    assert {name for name in rooms if f"{name}/" not in layout} == set()
    for folders in re.findall(r"^(\w+)/ (\w+)/", layout, re.MULTILINE):
        assert all((ROOT / folder).is_dir() for folder in folders)
