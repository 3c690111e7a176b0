"""The README's Python runs on a tiny model, and the commands of all pages exist."""

import ast
import csv
import json
import re
import shlex
import tomllib

import pytest
import yaml

from slap_jax.checkpoints.model_dir import export
from slap_jax.cli import create_parser
from slap_jax.config.files import read_config
from tests.docs.run_page import ROOT
from tests.inference.tiny import tiny_config, tiny_run_params, tiny_tokenizer

PAGES = {
    path.name: path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"))
}
README = PAGES["README.md"]


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


@pytest.mark.compile
def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    config = tiny_config()
    tiny_tokenizer(tmp_path / "words.model")
    export(tiny_run_params(config), config, tmp_path / "words.model", tmp_path / "runs/demo/export")
    (block,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    (tmp_path / "demo_data").mkdir()
    (tmp_path / "demo_data/audio").symlink_to(ROOT / "demo_data/audio/hydrogen-drumkits")
    for clip in re.findall(r'"(demo_data/audio/[^"]+)"', block):
        assert (ROOT / clip).is_file(), clip
        block = block.replace(clip, str(ROOT / clip))
    monkeypatch.chdir(tmp_path)
    variables: dict = {}
    exec(compile(block, "README.md", "exec"), variables)
    assert variables["audio"].shape == variables["text"].shape == (2, 16)
    assert capsys.readouterr().out.count(" s of ") == 3


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
