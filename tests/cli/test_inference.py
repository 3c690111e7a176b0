"""The commands that use a model, with a fake one: their input files, output and exit codes."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from slap_jax.cli import main
from slap_jax.inference.model import SlapModel
from tests.search.fake_model import FakeModel, tone, write


@pytest.fixture
def sounds(tmp_path, monkeypatch):
    """Returns a folder with three sounds and a text file; the working directory is its parent."""
    monkeypatch.setattr(SlapModel, "load", lambda directory: FakeModel(f"{directory:0>12}"))
    monkeypatch.setenv("SLAP_MODEL", "m")
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "sounds" / "low.wav", tone(0, 1))
    write(tmp_path / "sounds" / "deep" / "high.flac", tone(3, 1))
    write(tmp_path / "sounds" / "long.wav", 2 * tone(1, 20), tone(2, 20))
    (tmp_path / "sounds" / "notes.txt").write_text("no audio")
    return tmp_path / "sounds"


def run(capsys, *words, code=0):
    """Runs a command and returns its standard output and standard error."""
    assert main([str(word) for word in words]) == code
    printed = capsys.readouterr()
    return printed.out, printed.err


def test_folders_patterns_and_files_are_inputs(sounds, capsys):
    write(sounds / ".hidden.wav", tone(1, 1))
    expected = ["sounds/deep/high.flac", "sounds/long.wav", "sounds/low.wav"]
    for inputs in (["sounds"], ["sounds/**/*.wav", "sounds/deep"], ["sou*"], [*expected, "sounds"]):
        out, err = run(capsys, "caption", *inputs, "--json")
        assert sorted(json.loads(out)["results"]) == expected and err == ""
    out, _ = run(capsys, "caption", "sounds")
    assert out == "sounds/deep/high.flac: tone 3\nsounds/long.wav: tone 1\nsounds/low.wav: tone 0\n"


def test_bad_files_are_reported_and_the_rest_is_done(sounds, capsys):
    (sounds / "broken.wav").write_bytes(b"RIFFnothing")
    write(sounds / "silent.wav", np.zeros(1_600, np.float32))
    out, err = run(capsys, "caption", "sounds", "gone.wav", "*.mp3", "--beam", "2", "--json", code=1)
    results, left_out = json.loads(out)["results"], json.loads(out)["left_out"]
    assert results["sounds/low.wav"] == "tone 0 again"
    assert len(results) == 3 and "sounds/silent.wav" not in results  # as in a call of the model
    assert [item["file"] for item in left_out] == ["*.mp3", "sounds/broken.wav", "sounds/silent.wav", "gone.wav"]
    assert all(item["reason"] in err for item in left_out)
    lines = err.splitlines()
    assert len(lines) == 5 and all(line.startswith("slap caption: ") for line in lines)
    for part in ("left out: *.mp3 matches no file", "sounds/broken.wav is not readable", "silent.wav is silent"):
        assert sum(part in line for line in lines) == 1
    assert "gone.wav is missing" in err and lines[-1] == "slap caption: 3 files done, 4 left out; see above"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["caption", "gone.wav"], "slap caption: gone.wav is missing"),
        (["caption", "*.mp3"], "slap caption: *.mp3 matches no file"),
        (["caption", "empty"], "slap caption: empty has no audio files"),
        (["embed", "sounds"], "slap embed: give --output FILE, or --json"),
        (["classify", "--labels", "tone 1"], "slap classify: no input: give files, folders, or patterns"),
        (["classify", "sounds", "--labels", "tone 1", "--template", "loud"], "template 'loud' is not known"),
        (["index", "empty"], "slap index: empty holds no audio files"),
        (["index", "gone"], "slap index: gone is not a folder"),
        (["search", "tone 1"], "slap search: . has no index; make one with `slap index . --model DIR`"),
    ],
)
def test_errors_without_any_result(sounds, capsys, words, message):
    (sounds.parent / "empty").mkdir()
    out, err = run(capsys, *words, code=2)
    assert out == "" and message in err and err.count("\n") == 1


def test_only_bad_files(sounds, capsys):
    (sounds / "deep" / "high.flac").write_bytes(b"nothing")
    _, err = run(capsys, "embed", "sounds/deep", "gone.wav", "--output", "x.npz", code=2)
    assert (
        err.splitlines()[-1] == "slap embed: none of 2 files could be used; see above" and err.count("left out:") == 2
    )
    assert not os.path.exists("x.npz")
    _, err = run(capsys, "index", "sounds/deep", code=2)
    assert "sounds/deep/high.flac is not readable" in err


def test_embed(sounds, capsys):
    out, _ = run(capsys, "embed", "sounds", "--json")
    content = json.loads(out)
    assert content["names"] == ["sounds/deep/high.flac", "sounds/long.wav", "sounds/low.wav"]
    assert content["embeddings"] == FakeModel().embed_audio(content["names"]).tolist()
    out, _ = run(capsys, "embed", "sounds", "--output", "x.npz")
    assert out == "wrote x.npz: 3 vectors of 4\n"
    assert np.load("x.npz")["embeddings"].tolist() == content["embeddings"]
    out, _ = run(capsys, "embed", "--text", "tone 2", "--json", "--output", "x.json")
    assert (
        json.loads(out)
        == json.loads(Path("x.json").read_text())
        == {"names": ["tone 2"], "embeddings": [[0, 0, 1, 0]], "left_out": []}
    )
    run(capsys, "embed", "sounds", "--output", "new/folder/x.npz")
    assert len(np.load("new/folder/x.npz")["names"]) == 3


def test_classify(sounds, capsys):
    words = ["classify", "sounds/low.wav", "--audio", "sounds/deep", "--labels", "tone 3, tone 0,tone 1", "--top", "2"]
    out, _ = run(capsys, *words)
    assert out == "sounds/low.wav: tone 0 1.000, tone 3 0.000\nsounds/deep/high.flac: tone 3 1.000, tone 0 0.000\n"
    out, _ = run(capsys, *words, "--json")
    assert [max(row, key=row.get) for row in json.loads(out)["results"].values()] == ["tone 0", "tone 3"]
    for wrong in ("0", "-1"):  # the latter would leave out the last label
        with pytest.raises(SystemExit, match="2"):
            main([*words, "--top", wrong])


@pytest.mark.parametrize(
    "words",
    ["embed sounds --output x.npz", "classify sounds --labels a,b", "caption sounds", "index sounds"],
)
def test_device_and_batch_size_reach_the_model(sounds, capsys, monkeypatch, words):
    model = FakeModel()

    def load(source, **settings):
        assert (source, settings) == ("m", expected)
        return model

    monkeypatch.setattr(SlapModel, "load", load)
    labels = "tone 0,tone 1"
    command = [labels if word == "a,b" else word for word in words.split()]
    expected: dict[str, str] = {}
    run(capsys, *command)
    assert set(model.batch_sizes) == {None}
    model.batch_sizes.clear()
    expected = {"device": "cpu:1"}
    rebuild = ["--rebuild"] if command[0] == "index" else []
    run(capsys, *command, *rebuild, "--device", "cpu:1", "--batch-size", "2")
    assert model.batch_sizes[-1] == 2
    assert "is less than 1" in run_refused(capsys, *command, "--batch-size", "0")


def run_refused(capsys, *words):
    """Runs a command whose arguments are refused, and returns its standard error."""
    with pytest.raises(SystemExit):
        main(list(words))
    return capsys.readouterr().err


def test_frames(sounds, capsys):
    out, _ = run(capsys, "frames", "sounds", "--output", "out", "--text", "tone 2", "--text", "tone 1")
    assert "sounds/long.wav: 250 frames, 40.00 s; tone 2: 1.000 at 20.00 s; tone 1: 1.000 at 0.00 s\n" in out
    assert sorted(path.as_posix() for path in (sounds.parent / "out").rglob("*.npz")) == [
        str(sounds.parent / "out" / name) for name in ("deep/high.flac.npz", "long.wav.npz", "low.wav.npz")
    ]
    arrays = np.load("out/long.wav.npz")
    assert sorted(arrays) == ["end", "features", "scores", "start", "texts"]
    assert arrays["features"].shape == (250, 4) and arrays["scores"].shape == (250, 2)
    assert arrays["scores"][0].round(2).tolist() == [0, 1] and arrays["scores"][-1].round(2).tolist() == [1, 0]
    out, _ = run(capsys, "frames", "sounds/low.wav", "--output", "out", "--json")
    facts = {"output": "out/low.wav.npz", "frames": 7, "seconds": 1.0}
    assert json.loads(out) == {"results": {"sounds/low.wav": facts}, "left_out": []}
    assert sorted(np.load("out/low.wav.npz")) == ["end", "features", "start"]


def test_index_and_search(sounds, capsys):
    (sounds / "broken.wav").write_bytes(b"RIFFnothing")
    out, err = run(capsys, "index", "sounds", code=1)
    assert out.startswith("sounds/.slap_index: 3 files, 9 windows (3 embedded, 0 known by their bytes, 0 unchanged")
    assert err.startswith("slap index: left out: sounds/broken.wav is not readable") and err.count("\n") == 1
    (sounds / "broken.wav").unlink()
    out, _ = run(capsys, "index", "sounds", "--json")
    facts = json.loads(out)
    assert (facts["files"], facts["unchanged"], facts["windows"], facts["left_out"]) == (3, 3, 9, [])

    out, _ = run(capsys, "search", "tone 2", "--index", "sounds", "-k", "2")
    assert out == (" 1.000     20.00 -    30.00 s  sounds/long.wav\n 1.000     30.00 -    40.00 s  sounds/long.wav\n")
    out, _ = run(capsys, "search", "--audio", "sounds/low.wav", "--index", "sounds", "--per-file", "1", "--json")
    hits = json.loads(out)
    assert hits[0] == {"path": "sounds/low.wav", "start": 0.0, "end": 1.0, "score": pytest.approx(1)} and len(hits) == 3
    _, err = run(capsys, "search", "--index", "sounds", code=2)
    assert "nothing to search for" in err
    _, err = run(capsys, "search", "--audio", "gone.wav", "--index", "sounds", code=2)
    assert "gone.wav is missing" in err
    _, err = run(capsys, "search", "tone 2", "--index", "sounds", "--model", "other", code=2)
    assert "was made with model 00000000000m" in err and "0000000other" in err and err.count("\n") == 1
    out, _ = run(capsys, "index", "sounds", "--model", "other", "--rebuild", "--window", "5", "--half", "--approximate")
    assert "3 files, 17 windows (3 embedded" in out
    out, _ = run(capsys, "search", "tone 2", "--index", "sounds", "--model", "other", "--approximate", "-k", "1")
    assert out.endswith("sounds/long.wav\n") and out.count("\n") == 1


def test_progress_bar_only_on_a_terminal(sounds, capsys, monkeypatch):
    _, err = run(capsys, "caption", "sounds")
    assert err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    _, err = run(capsys, "caption", "sounds")
    assert "3/3" in err
    _, err = run(capsys, "index", "sounds")
    assert "index" in err and "3/3" in err
    _, err = run(capsys, "index", "sounds", "--json")
    assert err == ""
    _, err = run(capsys, "caption", "sounds", "--json")
    assert err == ""


@pytest.mark.process
def test_a_closed_pipe_ends_the_command_silently(sounds):
    # A module with a fake model stands for the one that imports JAX.
    program = (
        "import sys, types; from slap_jax.cli import main; from tests.search.fake_model import FakeModel\n"
        "SlapModel = types.SimpleNamespace(load=lambda directory: FakeModel())\n"
        "sys.modules['slap_jax.inference.model'] = types.SimpleNamespace(SlapModel=SlapModel)\n"
        "sys.stdin.read(); sys.exit(main(sys.argv[1:]))"
    )
    for words in (["caption", "sounds"], ["caption", "sounds", "--json"]):  # line by line, and all at the end
        command = [sys.executable, "-c", program, *words]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        process = subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, env=environment)
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None  # what `communicate` does not read
        assert (process.communicate()[1], process.returncode) == (b"", 141)


def test_one_model_for_every_verb(monkeypatch, capsys):
    """--model, a positional model where a verb has one, and SLAP_MODEL; none or two are one line."""
    monkeypatch.delenv("SLAP_MODEL", raising=False)
    used = ["embed a.wav --json", "caption a.wav", "index x", "search rain", "predict a.wav", "demo"]
    scored = ["evaluate", "probe --data x=y:z:l --test t", "score", "doctor", "export"]
    for words in (*used, *scored):
        _, err = run(capsys, *words.split(), code=2)
        assert err.startswith("slap ") and "no model is given; add --model MODEL" in err and err.count("\n") == 1
    for words in scored:
        verb, *rest = words.split()
        expected = run(capsys, verb, "gone", *rest, code=2)[1]
        assert "gone" in expected
        assert run(capsys, verb, *rest, "--model", "gone", code=2)[1] == expected
        assert "two models are given, gone and b" in run(capsys, verb, "gone", *rest, "--model", "b", code=2)[1]
        monkeypatch.setenv("SLAP_MODEL", "gone")
        assert run(capsys, *words.split(), code=2)[1] == expected
        monkeypatch.delenv("SLAP_MODEL")


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_results_are_also_written_as_a_table(sounds, capsys, suffix):
    (sounds / "broken.wav").write_bytes(b"RIFFnothing")
    words = ["classify", "sounds", "--labels", "tone 3,tone 0", "--output", f"out/x.{suffix}"]
    _, err = run(capsys, *words, code=1)
    assert err.endswith(f"wrote out/x.{suffix}: 3 files\n")
    with open(f"out/x.{suffix}", encoding="utf-8", newline="") as file:
        if suffix == "jsonl":
            rows = [json.loads(line) for line in file]
        else:
            rows = list(csv.DictReader(file, delimiter="," if suffix == "csv" else "\t"))
    assert [list(row) for row in rows] == [["file", "tone 3", "tone 0"]] * 3
    best = {row["file"]: max(("tone 3", "tone 0"), key=lambda label: float(row[label])) for row in rows}
    assert best["sounds/deep/high.flac"] == "tone 3" and best["sounds/low.wav"] == "tone 0"
    assert "ends with none of .csv, .tsv, .jsonl" in run(capsys, *words[:-1], "x.xlsx", code=2)[1]


def test_files_from_a_list(sounds, capsys, monkeypatch):
    (sounds.parent / "list.txt").write_text("sounds/low.wav\n\nsounds/long.wav\n")
    expected = "sounds/low.wav: tone 0\nsounds/long.wav: tone 1\n"
    assert run(capsys, "caption", "--files-from", "list.txt")[0] == expected
    monkeypatch.setattr(sys, "stdin", io.StringIO("sounds/low.wav\nsounds/long.wav"))
    assert run(capsys, "caption", "--files-from", "-")[0] == expected
    (sounds.parent / "list.txt").write_bytes(b"caf\xe9.wav\n")
    assert "--files-from list.txt is not UTF-8" in run(capsys, "caption", "--files-from", "list.txt", code=2)[1]
    assert "not read from standard input" in run(capsys, "caption", "-", code=2)[1]


def test_hints(sounds, capsys):
    assert (
        "a dog barks is missing; correct the path, or add --text"
        in run(capsys, "embed", "a dog barks", "--json", code=2)[1]
    )
    assert "nothing to search for" in run(capsys, "search", code=2)[1]  # before the model is loaded


def test_an_interrupt_keeps_the_embeddings_that_are_done(sounds, capsys, monkeypatch):
    done = []

    def embed(self, clips):
        if done:
            raise KeyboardInterrupt
        done.extend(clips)
        return original(self, clips)

    original = FakeModel.embed_audio
    monkeypatch.setattr(FakeModel, "embed_audio", embed)
    _, err = run(capsys, "embed", "sounds", "--output", "x.npz", code=130)
    assert "interrupted after 1 of 3 files" in err
    assert np.load("x.npz")["names"].tolist() == ["sounds/deep/high.flac"]


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_a_console_that_lacks_a_character_loses_no_result(sounds, capsys, monkeypatch, encoding):
    for name in ("犬", "Übung", "\U0001f415"):
        write(sounds / f"{name}.wav", tone(0, 1))
    for words in (["caption", "sounds"], ["caption", "sounds", "--json"]):
        buffer = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding=encoding, write_through=True))
        assert main(words) == 0
        printed = buffer.getvalue().decode(encoding)
        if "--json" in words:
            assert {"sounds/犬.wav", "sounds/Übung.wav", "sounds/\U0001f415.wav"} <= set(json.loads(printed)["results"])
        else:
            assert printed.count("tone 0") == 4


@pytest.mark.process
def test_an_interrupt_inside_a_callback_that_ignores_exceptions_is_heard(sounds):
    program = (
        "import gc, os, signal, sys, time, types; from slap_jax.cli import main\n"
        "from tests.search.fake_model import FakeModel\n"
        "sent = []\n"
        "def callback(phase, info):\n"
        "  if sent or sys.argv[0] != 'go': return\n"
        "  sent.append(1); os.kill(os.getpid(), signal.SIGINT); time.sleep(0)\n"
        "class Slow(FakeModel):\n"
        "  def caption(self, clips, **kwargs):\n"
        "    sys.argv[0] = 'go'; gc.collect()\n"
        "    assert sent\n"
        "    time.sleep(60); return super().caption(clips, **kwargs)\n"
        "gc.callbacks.append(callback)\n"
        "SlapModel = types.SimpleNamespace(load=lambda directory: Slow())\n"
        "sys.modules['slap_jax.inference.model'] = types.SimpleNamespace(SlapModel=SlapModel)\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "caption", "sounds"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "slap caption: interrupted\n")
