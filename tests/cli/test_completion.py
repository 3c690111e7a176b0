"""Completion, asked of the shell itself where there is one."""

import builtins
import shutil
import subprocess

import pytest

from slap_jax.cli import main

ASK_BASH = """
source "$0"
complete -p slap > /dev/null
COMP_WORDS=("$@"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
_shtab_slap slap "${COMP_WORDS[COMP_CWORD]}" ""
echo "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scripts")
    for shell in ("bash", "zsh", "fish"):
        with pytest.MonkeyPatch.context() as patch, (folder / f"slap.{shell}").open("w") as file:
            patch.setattr("sys.stdout", file)
            assert main(["completion", shell]) == 0
    return folder


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["slap", "ca"], "caption"),
        (["slap", "data", "ch"], "check"),
        (["slap", "search", "--ap"], "--approximate"),
        (["slap", "completion", ""], "bash zsh fish"),
        (["slap", "caption", "soun"], "sounds.wav"),
        (["slap", "caption", "--model", "expo"], "export"),
    ],
)
def test_bash(scripts, words, expected, tmp_path):
    (tmp_path / "sounds.wav").touch()
    (tmp_path / "export").mkdir()
    command = ["bash", "-c", ASK_BASH, scripts / "slap.bash", *words]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == expected and answer.stderr == ""


def test_fish_and_zsh(scripts):
    """Few machines have these shells; the scripts name every verb in any case."""
    for shell in ("zsh", "fish"):
        script = (scripts / f"slap.{shell}").read_text()
        assert all(verb in script for verb in ("caption", "completion", "evaluate", "index", "search", "train"))
    if shutil.which("fish"):
        ask = ["fish", "-c", f"source {scripts / 'slap.fish'}; complete -C 'slap search --app'"]
        assert subprocess.run(ask, capture_output=True, text=True, check=True).stdout.startswith("--approximate\t")
    if shutil.which("zsh"):
        ask = f'autoload -U compinit; compinit -u -D; eval "$(cat {scripts / "slap.zsh"})"; print $_comps[slap]'
        answer = subprocess.run(["zsh", "-f", "-c", ask], capture_output=True, text=True, check=True)
        assert answer.stdout == "_shtab_slap\n" and answer.stderr == ""


def test_without_shtab(capsys, monkeypatch):
    real = builtins.__import__

    def missing(name, *rest):
        if name == "shtab":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert main(["completion", "bash"]) == 2
    assert "completion needs shtab, which is missing: pip install 'shtab" in capsys.readouterr().err
