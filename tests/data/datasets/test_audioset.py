import pytest

from slap_jax.data.collections.entries import AudioFile
from slap_jax.data.collections.published import LayoutError
from slap_jax.data.datasets.audioset import AudioSet
from tests.data.datasets.publisher_files import listed, write_csv, write_wav

HEADER = """\
# Segments csv created Sun Mar  5 10:54:31 2017
# num_ytids=2, num_segs=2, num_unique_labels=527, num_positive_labels=5
# YTID, start_seconds, end_seconds, positive_labels
"""
BALANCED = """\
--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"
_0aBcDeFgHi, 0.000, 9.600, "/m/05zppz"
"""
UNBALANCED = """\
---1_cCGK4M, 0.000, 10.000, "/m/09x0r"
---2_BBVHAA, 30.000, 40.000, "/m/09x0r"
"""
EVAL = """\
--4gqARaEJE, 0.000, 10.000, "/m/09x0r,/m/05zppz"
"""
CLASSES = [
    ("index", "mid", "display_name"),
    (0, "/m/09x0r", "Speech"),
    (1, "/m/05zppz", "Male speech, man speaking"),
    (446, "/t/dd00088", "Gush"),
]


def publish(root):
    for split, lines in (("balanced_train", BALANCED), ("unbalanced_train", UNBALANCED), ("eval", EVAL)):
        (root / f"{split}_segments.csv").write_text(HEADER + lines)
    write_csv(root / "class_labels_indices.csv", CLASSES)
    # As different programs name and arrange what they fetch.
    write_wav(root / "audio/balanced_train/--PJHxphWEs_30000.wav")
    write_wav(root / "audio/balanced_train/Y_0aBcDeFgHi.wav")
    write_wav(root / "audio/unbalanced_train_segments/part00/---1_cCGK4M.flac", container="FLAC")
    write_wav(root / "audio/unbalanced_train_segments/part01/---2_BBVHAA_30000_40000.wav")
    write_wav(root / "audio/eval/Y--4gqARaEJE.wav")
    return root


def publish_strong(root):
    columns = ("segment_id", "start_time_seconds", "end_time_seconds", "label")
    train = [
        ("---2_BBVHAA_30000", "2.627", "7.237", "/m/053hz1"),
        ("--PJHxphWEs_30000", "0.000", "10.000", "/m/09x0r"),
        ("---2_BBVHAA_30000", "0.000", "0.311", "/t/dd00077"),
        ("not_in_a_table_0", "0.000", "1.000", "/m/09x0r"),
    ]
    write_csv(root / "audioset_train_strong.tsv", [columns, *train], delimiter="\t")
    write_csv(root / "audioset_eval_strong.tsv", [columns, ("--4gqARaEJE_0", "1.5", "2", "/m/053hz1")], delimiter="\t")
    names = [("/m/053hz1", "Cheering"), ("/m/09x0r", "Speech"), ("/t/dd00077", "Bouncing on trampoline, thud")]
    write_csv(root / "mid_to_display_name.tsv", names, delimiter="\t")
    return root


def test_display_names_splits_and_audio_by_any_of_its_names(tmp_path):
    entries, rejections = listed(AudioSet(publish(tmp_path)))
    assert not rejections
    assert [(entry.id, entry.split, entry.labels, entry.where) for entry in entries] == [
        ("--PJHxphWEs_30000", "balanced_train", ("label=Speech", "label=Gush"), "balanced_train_segments.csv:4"),
        ("_0aBcDeFgHi_0", "balanced_train", ("label=Male speech, man speaking",), "balanced_train_segments.csv:5"),
        ("---1_cCGK4M_0", "unbalanced_train", ("label=Speech",), "unbalanced_train_segments.csv:4"),
        ("---2_BBVHAA_30000", "unbalanced_train", ("label=Speech",), "unbalanced_train_segments.csv:5"),
        ("--4gqARaEJE_0", "eval", ("label=Speech", "label=Male speech, man speaking"), "eval_segments.csv:4"),
    ]
    assert [entry.audio for entry in entries] == [
        AudioFile(tmp_path / "audio" / name)
        for name in (
            "balanced_train/--PJHxphWEs_30000.wav",
            "balanced_train/Y_0aBcDeFgHi.wav",
            "unbalanced_train_segments/part00/---1_cCGK4M.flac",
            "unbalanced_train_segments/part01/---2_BBVHAA_30000_40000.wav",
            "eval/Y--4gqARaEJE.wav",
        )
    ]
    assert all(entry.regions == () and entry.captions == () for entry in entries)


def test_strong_labels_are_regions(tmp_path):
    entries, rejections = listed(AudioSet(publish_strong(publish(tmp_path))))
    assert not rejections
    assert {entry.id: entry.regions for entry in entries} == {
        "--PJHxphWEs_30000": ((0.0, 10.0, "Speech"),),
        "_0aBcDeFgHi_0": (),
        "---1_cCGK4M_0": (),
        "---2_BBVHAA_30000": ((2.627, 7.237, "Cheering"), (0.0, 0.311, "Bouncing on trampoline, thud")),
        "--4gqARaEJE_0": ((1.5, 2.0, "Cheering"),),
    }


def test_vanished_videos_and_unknown_classes_are_left_out(tmp_path):
    publish(tmp_path)
    (tmp_path / "audio/balanced_train/Y_0aBcDeFgHi.wav").unlink()
    (tmp_path / "eval_segments.csv").write_text(
        HEADER + EVAL + 'abcdefghijk, 1.000, 2.000, "/m/unknown"\nabc, 1.000\n\n'
    )
    entries, rejections = listed(AudioSet(tmp_path, splits="balanced_train+eval"))
    assert [entry.id for entry in entries] == ["--PJHxphWEs_30000", "--4gqARaEJE_0"]
    assert [(rejection.where, rejection.id, rejection.reason) for rejection in rejections] == [
        ("balanced_train_segments.csv:5", "_0aBcDeFgHi_0", "missing_file"),
        ("eval_segments.csv:5", "abcdefghijk_1000", "bad_field"),
        ("eval_segments.csv:6", "abc", "bad_row"),
    ]


def test_the_table_is_read_as_clips_are_taken(tmp_path):
    """The two million lines are read lazily: a broken line is not noticed before it is reached."""
    publish(tmp_path)
    with (tmp_path / "unbalanced_train_segments.csv").open("ab") as file:
        file.write(b"---1_cCGK4M, 0.000, 10.000, /m/09x0r\n" * 10_000 + b"\xff\n")
    clips = AudioSet(tmp_path, splits="unbalanced_train").entries()
    assert [next(clips).id for _ in range(3)] == ["---1_cCGK4M_0", "---2_BBVHAA_30000", "---1_cCGK4M_0"]
    with pytest.raises(LayoutError, match=r"unbalanced_train_segments.csv is not utf-8-sig text"):
        list(clips)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a_0\t0\t1\t/m/none\n", r"strong.tsv:3: label is '/m/none'; expected a mid of mid_to_display_name.tsv"),
        ("a_0\t0\tend\t/m/09x0r\n", r"strong.tsv:3: end_time_seconds is 'end', not a number"),
        ("a_0\t0\n", r"audioset_eval_strong.tsv:3 is broken: the line has 2 fields; expected 4"),
    ],
)
def test_broken_strong_labels_are_an_error_with_their_line(tmp_path, line, message):
    with (publish_strong(publish(tmp_path)) / "audioset_eval_strong.tsv").open("a") as file:
        file.write(line)
    with pytest.raises(LayoutError, match=message):
        listed(AudioSet(tmp_path, splits="eval"))


def test_one_split_needs_only_its_table(tmp_path):
    publish(tmp_path)
    (tmp_path / "unbalanced_train_segments.csv").unlink()
    entries, _ = listed(AudioSet(tmp_path, splits="eval"))
    assert [entry.id for entry in entries] == ["--4gqARaEJE_0"]
    with pytest.raises(LayoutError, match=r"has no unbalanced_train_segments.csv"):
        listed(AudioSet(tmp_path))
