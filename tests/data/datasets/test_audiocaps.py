import pytest

from slap_jax.data.collections.entries import AudioFile
from slap_jax.data.collections.published import LayoutError
from slap_jax.data.datasets.audiocaps import AudioCaps, AudioCaps2
from tests.data.datasets.publisher_files import listed, write_csv, write_wav

HEADER = ("audiocap_id", "youtube_id", "start_time", "caption")
TRAIN = [
    HEADER,
    (91139, "r1nicOVtvkQ", 130, "A woman talks nearby as water pours"),
    (58146, "-BUDGBjjwyaqE", 20, 'Multiple clanging and "clanking" sounds '),
    (1, "vanished", 0, "A video that is gone"),
    (2, "silent", 0, "  "),
]
TEST = [
    HEADER,
    (103549, "7fmOlUlwoNg", 20, "Constant rattling noise and sharp vibrations"),
    (103541, "6BJ455B1aAs", 0, "A rocket flies by, followed by a loud explosion"),
    (103548, "7fmOlUlwoNg", 20, "Vibrations"),
    (103550, "7fmOlUlwoNg", 20, "Vibrations"),  # the same words twice, as published
    (103551, "7fmOlUlwoNg", 20, ""),
]


def publish(root, folder=""):
    write_csv(root / folder / "train.csv", TRAIN)
    write_csv(root / folder / "val.csv", [HEADER])
    write_csv(root / folder / "test.csv", TEST)
    return root


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("audio/train/r1nicOVtvkQ.wav", "audio/test/7fmOlUlwoNg.wav"),
        ("audio/Yr1nicOVtvkQ.wav", "audio/Y7fmOlUlwoNg.flac"),  # AudioSet's way
        ("audio/r1nicOVtvkQ_130.wav", "audio/Y7fmOlUlwoNg_20.wav"),  # aac-datasets
        ("train/91139.wav", "test/103548.wav"),  # audiocaps-download, for any of its five names
    ],
)
def test_clips_are_found_under_the_names_that_downloads_give_them(tmp_path, train, test):
    publish(tmp_path)
    for path in (train, test):
        write_wav(tmp_path / path)
    entries, _ = listed(AudioCaps(tmp_path, splits="train+test"))
    assert [entry.audio for entry in entries] == [AudioFile(tmp_path / train), AudioFile(tmp_path / test)]


def test_captions_of_a_clip_are_gathered_from_its_lines(tmp_path):
    publish(tmp_path)
    write_wav(tmp_path / "audio/test/7fmOlUlwoNg.wav")
    write_wav(tmp_path / "audio/test/6BJ455B1aAs.wav")
    entries, rejections = listed(AudioCaps(tmp_path, splits="test"))
    assert [(entry.id, entry.split, entry.where) for entry in entries] == [
        ("7fmOlUlwoNg_20", "test", "test.csv:2"),
        ("6BJ455B1aAs_0", "test", "test.csv:3"),
    ]
    assert entries[0].captions == ("Constant rattling noise and sharp vibrations", "Vibrations", "Vibrations")
    assert (entries[0].source, entries[0].caption_source) == ("audiocaps", "people")
    assert "academic" in entries[0].licence and not rejections


def test_missing_and_uncaptioned_clips_are_rejected_and_quotes_are_parsed(tmp_path):
    publish(tmp_path)
    for name in ("r1nicOVtvkQ", "-BUDGBjjwyaqE", "silent"):
        write_wav(tmp_path / f"audio/train/{name}.wav")
    entries, rejections = listed(AudioCaps(tmp_path, splits="train"))
    assert entries[1].captions == ('Multiple clanging and "clanking" sounds',)
    assert [(rejection.id, rejection.reason) for rejection in rejections] == [
        ("vanished_0", "missing_file"),
        ("silent_0", "empty_caption"),
    ]
    assert "vanished" in rejections[0].detail and rejections[0].where == "train.csv:4"


def test_a_caption_with_an_unquoted_comma_is_rejected(tmp_path):
    publish(tmp_path)
    (tmp_path / "train.csv").write_text(",".join(HEADER) + "\n1,abc,0,A dog barks, then howls\n\n")
    write_wav(tmp_path / "audio/train/abc.wav")
    entries, rejections = listed(AudioCaps(tmp_path, splits="train"))
    assert not entries
    assert (rejections[0].reason, rejections[0].where) == ("bad_row", "train.csv:2")


def test_both_releases_name_the_same_recordings(tmp_path):
    write_wav(tmp_path / "audio/r1nicOVtvkQ.wav")
    publish(tmp_path, "dataset")
    publish(tmp_path, "dataset2.0")
    ((first,), _), ((second,), _) = listed(AudioCaps(tmp_path)), listed(AudioCaps2(tmp_path))
    assert (first.source, first.id) == (second.source, second.id) == ("audiocaps", "r1nicOVtvkQ_130")


def test_errors_show_the_expected_layout(tmp_path):
    with pytest.raises(LayoutError, match=r"no dataset/train.csv or train.csv(.|\n)*val.csv"):
        listed(AudioCaps(tmp_path))
    publish(tmp_path)
    with pytest.raises(LayoutError, match="no audio/test or test or audio"):
        listed(AudioCaps(tmp_path, splits="test"))
    write_csv(tmp_path / "test.csv", [("file_name", "caption"), ("a.wav", "x")])
    with pytest.raises(LayoutError, match="no column 'audiocap_id' among file_name, caption"):
        listed(AudioCaps(tmp_path, splits="test"))
    with pytest.raises(LayoutError, match="names 'dev'; expected some of train, val, test"):
        listed(AudioCaps(tmp_path, splits="train+dev"))
    (tmp_path / "test.csv").write_bytes(",".join(HEADER).encode() + b"\n1,abc,0,caf\xe9\n")
    with pytest.raises(LayoutError, match="not utf-8-sig text"):
        listed(AudioCaps(tmp_path, splits="test"))
