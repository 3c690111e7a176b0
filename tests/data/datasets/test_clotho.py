import pytest

from slap_jax.data.collections.entries import AudioFile
from slap_jax.data.collections.published import LayoutError
from slap_jax.data.datasets.clotho import Clotho
from tests.data.datasets.publisher_files import listed, write_csv, write_wav

CAPTIONS = ("file_name", "caption_1", "caption_2", "caption_3", "caption_4", "caption_5")
METADATA = ("file_name", "keywords", "sound_id", "sound_link", "start_end_samples", "manufacturer", "license")
BY = "http://creativecommons.org/licenses/by/3.0/"
ZERO = "http://creativecommons.org/publicdomain/zero/1.0/"


def five(word):
    return [f"{word} {number}" for number in range(1, 6)]


def publish(root):
    """Splits with the published file names: spaces at either end, double spaces, commas, one name in two splits."""
    names = {
        "development": [" Ambience Birds.wav", "DeLorean DMC-12  - Approach, Stop.wav", "Breaking Glass .wav"],
        "validation": ["City Ambience w_ Car Passing_1-2.wav"],
        "evaluation": ["City Ambience w_ Car Passing_1-2.wav"],
    }
    for split, members in names.items():
        write_csv(root / f"clotho_captions_{split}.csv", [CAPTIONS, *([name, *five(split)] for name in members)])
        facts = [[name, "birds;city", "Not found", "", "[0, 9]", "Álvaro", BY] for name in members]
        write_csv(root / f"clotho_metadata_{split}.csv", [METADATA, *facts], encoding="latin-1")
        for name in members:
            write_wav(root / split / name)
    return root


def test_all_splits_with_names_and_letters_as_published(tmp_path):
    entries, rejections = listed(Clotho(publish(tmp_path)))
    assert not rejections
    assert [(entry.split, entry.audio) for entry in entries] == [
        ("development", AudioFile(tmp_path / "development" / " Ambience Birds.wav")),
        ("development", AudioFile(tmp_path / "development" / "DeLorean DMC-12  - Approach, Stop.wav")),
        ("development", AudioFile(tmp_path / "development" / "Breaking Glass .wav")),
        ("validation", AudioFile(tmp_path / "validation" / "City Ambience w_ Car Passing_1-2.wav")),
        ("evaluation", AudioFile(tmp_path / "evaluation" / "City Ambience w_ Car Passing_1-2.wav")),
    ]
    assert entries[0].captions == tuple(five("development"))
    assert (entries[0].source, entries[0].licence) == ("clotho", "CC-BY-3.0")
    assert entries[0].labels == ("tag=birds", "tag=city")


def test_one_name_in_two_splits_is_two_clips(tmp_path):
    entries, _ = listed(Clotho(publish(tmp_path), splits="validation+evaluation"))
    assert len(entries) == 2 and entries[0].id != entries[1].id


@pytest.mark.parametrize("file_name", ["Breaking Glass.wav", "Breaking  Glass .flac"])
def test_spaces_that_an_archive_program_changed_do_not_matter(tmp_path, file_name):
    folder = publish(tmp_path) / "development"
    (folder / "Breaking Glass .wav").unlink()
    write_wav(folder / file_name)
    entries, rejections = listed(Clotho(tmp_path, splits="development"))
    assert entries[-1].audio == AudioFile(folder / file_name) and not rejections


def test_a_changed_name_that_could_be_two_files_is_missing(tmp_path):
    folder = publish(tmp_path) / "development"
    (folder / "Breaking Glass .wav").unlink()
    write_wav(folder / "Breaking Glass.wav")
    write_wav(folder / "Breaking  Glass.wav")
    _, (rejection,) = listed(Clotho(tmp_path, splits="development"))
    assert (rejection.id, rejection.reason) == ("development/Breaking Glass .wav", "missing_file")


def test_empty_captions_are_dropped_and_edges_stripped(tmp_path):
    publish(tmp_path)
    rows = [
        CAPTIONS,
        [" Ambience Birds.wav", " a bird ", "", "  ", "a bird ", "birds"],
        ["Breaking Glass .wav", "", "", "", "", " "],
    ]
    write_csv(tmp_path / "clotho_captions_development.csv", rows)
    (entry,), (rejection,) = listed(Clotho(tmp_path, splits="development"))
    assert entry.captions == ("a bird", "a bird", "birds")
    assert (rejection.reason, rejection.where) == ("empty_caption", "clotho_captions_development.csv:3")


def test_a_clip_without_metadata_has_no_licence(tmp_path):
    publish(tmp_path)
    write_csv(tmp_path / "clotho_metadata_evaluation.csv", [METADATA])
    (entry,), _ = listed(Clotho(tmp_path, splits="evaluation"))
    assert (entry.licence, entry.labels) == ("", ())


def test_a_missing_table_is_named_with_the_whole_layout(tmp_path):
    (publish(tmp_path) / "clotho_metadata_validation.csv").unlink()
    with pytest.raises(LayoutError, match=r"no clotho_metadata_validation.csv; (.|\n)*evaluation/<file_name>"):
        listed(Clotho(tmp_path))


def test_a_broken_line_of_metadata_is_an_error_with_its_number(tmp_path):
    with (publish(tmp_path) / "clotho_metadata_evaluation.csv").open("a") as file:
        file.write("cut off,birds\n")
    with pytest.raises(LayoutError, match=r"clotho_metadata_evaluation.csv:3 is broken: the line has 2 fields"):
        listed(Clotho(tmp_path, splits="evaluation"))
