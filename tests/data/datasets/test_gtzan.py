import pytest

from slap_jax.data.audio import AudioError, decode_audio
from slap_jax.data.collections.entries import AudioFile
from slap_jax.data.collections.published import LayoutError
from slap_jax.data.datasets.gtzan import Gtzan
from tests.data.datasets.publisher_files import listed, write_wav

NAMES = ("blues.00000", "blues.00029", "jazz.00054", "rock.00099")


def publish(root, folder="genres_original", suffix="wav"):
    for name in NAMES:
        write_wav(root / folder / name.partition(".")[0] / f"{name}.{suffix}")
    # In the best-known copy this file is broken, and macOS added hidden files.
    (root / folder / f"jazz/jazz.00054.{suffix}").write_bytes(b"\x00" * 211)
    (root / folder / f"jazz/._jazz.00055.{suffix}").write_bytes(b"\x00" * 211)
    return root


@pytest.mark.parametrize("folder", ["genres_original", "genres", "Data/genres_original"])
@pytest.mark.parametrize("suffix", ["wav", "au"])
def test_all_clips_are_one_split(tmp_path, folder, suffix):
    entries, rejections = listed(Gtzan(publish(tmp_path, folder, suffix)))
    assert [(entry.id, entry.split, entry.labels) for entry in entries] == [
        ("blues.00000", "full", ("label=blues",)),
        ("blues.00029", "full", ("label=blues",)),
        ("jazz.00054", "full", ("label=jazz",)),
        ("rock.00099", "full", ("label=rock",)),
    ]
    assert entries[3].audio == AudioFile(tmp_path / folder / f"rock/rock.00099.{suffix}")
    assert len(rejections) == 996
    assert (rejections[0].id, rejections[0].reason) == ("blues.00001", "missing_file")
    assert (rejections[-1].id, rejections[-1].reason) == ("rock.00098", "missing_file")


def test_the_broken_file_is_found_when_it_is_decoded(tmp_path):
    entries, _ = listed(Gtzan(publish(tmp_path)))
    broken = next(entry.audio for entry in entries if entry.id == "jazz.00054")
    assert isinstance(broken, AudioFile)
    with pytest.raises(AudioError, match=r"jazz.00054.wav is not readable as audio") as error:
        decode_audio(broken.path)
    assert error.value.reason == "unreadable_audio"


def test_the_fault_filtered_split(tmp_path):
    publish(tmp_path)
    (tmp_path / "train_filtered.txt").write_text("blues/blues.00029.wav\njazz/jazz.00054.wav\n\n")
    (tmp_path / "valid_filtered.txt").write_text("blues/blues.00000.wav\r\n")
    (tmp_path / "test_filtered.txt").write_text("rock/rock.00099.wav\nrock/rock.00098.wav\npolka/polka.00001.wav\n")
    entries, rejections = listed(Gtzan(tmp_path, splits="train+valid+test"))
    assert [(entry.id, entry.split, entry.where) for entry in entries] == [
        ("blues.00029", "train", "train_filtered.txt:1"),
        ("jazz.00054", "train", "train_filtered.txt:2"),
        ("blues.00000", "valid", "valid_filtered.txt:1"),
        ("rock.00099", "test", "test_filtered.txt:1"),
    ]
    assert [(rejection.where, rejection.id, rejection.reason) for rejection in rejections] == [
        ("test_filtered.txt:2", "rock.00098", "missing_file"),
        ("test_filtered.txt:3", "polka.00001", "missing_label"),
    ]


def test_a_missing_list_is_an_error_with_its_source(tmp_path):
    with pytest.raises(LayoutError, match=r"has no train_filtered.txt; (.|\n)*coreyker/dnn-mgr"):
        listed(Gtzan(publish(tmp_path), splits="train+valid+test"))
