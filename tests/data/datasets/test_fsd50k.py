import pytest

from slap_jax.data.collections.entries import AudioFile
from slap_jax.data.collections.published import LayoutError
from slap_jax.data.datasets.fsd50k import Fsd50k
from tests.data.datasets.publisher_files import listed, write_csv, write_json, write_wav

GUITAR = ("Electric_guitar,Guitar,Music", "/m/02sgy,/m/0342h,/m/04rlf")
REVVING = ("Accelerating_and_revving_and_vroom,Engine", "/m/07q2z82,/m/02mk9")
BY = "http://creativecommons.org/licenses/by/3.0/"
ZERO = "http://creativecommons.org/publicdomain/zero/1.0/"


def publish(root):
    dev = [("64760", *GUITAR, "train"), ("345111", *GUITAR, "val"), ("16399", *REVVING, "train")]
    write_csv(root / "FSD50K.ground_truth/dev.csv", [("fname", "labels", "mids", "split"), *dev])
    write_csv(root / "FSD50K.ground_truth/eval.csv", [("fname", "labels", "mids"), ("37199", *GUITAR)])
    write_csv(root / "FSD50K.ground_truth/vocabulary.csv", [(0, "Accelerating_and_revving_and_vroom", "/m/07q2z82")])
    info = {"title": "a.wav", "description": "", "tags": ["guitar"], "uploader": "someone"}
    write_json(
        root / "FSD50K.metadata/dev_clips_info_FSD50K.json",
        {"64760": {**info, "license": BY}, "345111": {**info, "license": ZERO}},
    )
    write_json(root / "FSD50K.metadata/eval_clips_info_FSD50K.json", {"37199": {**info, "license": BY}})
    for name in ("64760", "345111", "16399"):
        write_wav(root / f"FSD50K.dev_audio/{name}.wav")
    write_wav(root / "FSD50K.eval_audio/37199.wav")
    return root


def test_several_labels_and_a_licence_of_each_clip(tmp_path):
    entries, rejections = listed(Fsd50k(publish(tmp_path)))
    assert not rejections
    guitar = ("label=Electric guitar", "label=Guitar", "label=Music")
    whole = "CC-BY-4.0 as a whole; audio: Creative Commons, one licence per clip"
    assert [(entry.id, entry.split, entry.labels, entry.licence) for entry in entries] == [
        ("64760", "train", guitar, "CC-BY-3.0"),
        ("345111", "val", guitar, "CC0-1.0"),
        ("16399", "train", ("label=Accelerating and revving and vroom", "label=Engine"), whole),
        ("37199", "eval", guitar, "CC-BY-3.0"),
    ]
    assert entries[3].audio == AudioFile(tmp_path / "FSD50K.eval_audio/37199.wav")


def test_chosen_splits_need_no_other_files(tmp_path):
    publish(tmp_path)
    (tmp_path / "FSD50K.ground_truth/eval.csv").unlink()
    entries, _ = listed(Fsd50k(tmp_path, splits="val"))
    assert [entry.id for entry in entries] == ["345111"]
    with pytest.raises(LayoutError, match=r"has no FSD50K.ground_truth/eval.csv"):
        listed(Fsd50k(tmp_path, splits="eval"))


def test_without_metadata_every_clip_has_the_licence_of_the_dataset(tmp_path):
    publish(tmp_path)
    (tmp_path / "FSD50K.metadata/dev_clips_info_FSD50K.json").unlink()
    entries, _ = listed(Fsd50k(tmp_path, splits="train+val"))
    assert {entry.licence for entry in entries} == {Fsd50k.licence}


def test_missing_clips_and_empty_labels_are_left_out(tmp_path):
    publish(tmp_path)
    (tmp_path / "FSD50K.dev_audio/64760.wav").unlink()
    with (tmp_path / "FSD50K.ground_truth/eval.csv").open("a") as file:
        file.write("100,,\n")
    entries, rejections = listed(Fsd50k(tmp_path))
    assert [entry.id for entry in entries] == ["345111", "16399", "37199"]
    assert [(rejection.where, rejection.id, rejection.reason) for rejection in rejections] == [
        ("dev.csv:2", "64760", "missing_file"),
        ("eval.csv:3", "100", "missing_label"),
    ]
