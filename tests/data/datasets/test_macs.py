import pytest
import yaml

from slap_jax.data.collections.entries import AudioFile
from slap_jax.data.collections.published import LayoutError
from slap_jax.data.datasets.macs import Macs
from tests.data.datasets.publisher_files import listed, write_csv, write_wav


def annotation(annotator, sentence, *tags):
    return {"annotator_id": annotator, "sentence": sentence, "tags": list(tags)}


FILES = [
    {
        "filename": "airport-barcelona-0-0-a.wav",
        "annotations": [
            annotation(7, "People are talking ", "adults_talking", "footsteps"),
            annotation(12, "An announcement, then 'footsteps'", "announcement_speech", "footsteps"),
            annotation(3, ""),
        ],
    },
    {"filename": "public_square-paris-1-2-a.wav", "annotations": [annotation(7, "A siren wails", "siren")]},
    {"filename": "park-oslo-9-9-a.wav", "annotations": [annotation(7, "Birds sing", "birds_singing")]},
    {"filename": "park-lyon-1-1-a.wav", "annotations": [annotation(7, None)]},
    {"filename": "park-lyon-2-2-a.wav"},
]


def publish(root, folder="audio"):
    (root / "MACS.yaml").write_text(yaml.safe_dump({"files": FILES}))
    for name in ("airport-barcelona-0-0-a", "public_square-paris-1-2-a", "park-lyon-1-1-a", "unlisted"):
        write_wav(root / folder / f"{name}.wav")
    return root


@pytest.mark.parametrize("folder", ["audio", "TAU-urban-acoustic-scenes-2019-development/audio"])
def test_captions_and_labels(tmp_path, folder):
    entries, rejections = listed(Macs(publish(tmp_path, folder)))
    assert [entry.id for entry in entries] == ["airport-barcelona-0-0-a.wav", "public_square-paris-1-2-a.wav"]
    assert entries[0].captions == ("People are talking", "An announcement, then 'footsteps'")
    assert entries[0].labels == (
        "scene=airport",
        "city=barcelona",
        "tag=adults talking",
        "tag=footsteps",
        "tag=announcement speech",
    )
    assert entries[1].audio == AudioFile(tmp_path / folder / "public_square-paris-1-2-a.wav")
    assert entries[1].labels == ("scene=public square", "city=paris", "tag=siren")
    assert (entries[0].split, entries[0].source, entries[0].caption_source) == ("train", "macs", "people")
    assert [(rejection.id, rejection.reason) for rejection in rejections] == [
        ("park-oslo-9-9-a.wav", "missing_file"),
        ("park-lyon-1-1-a.wav", "empty_caption"),
        ("", "bad_field"),
    ]


def test_the_better_annotators_captions_come_first(tmp_path):
    publish(tmp_path)
    rows = [("annotator_id", "competence"), (7, 0.2), (12, 0.9)]
    write_csv(tmp_path / "MACS_competence.csv", rows, delimiter="\t")
    entries, _ = listed(Macs(tmp_path))
    assert entries[0].captions == ("An announcement, then 'footsteps'", "People are talking")


@pytest.mark.parametrize(
    ("content", "words"),
    [("files: [{", "is not YAML"), ("clips: []", "no list `files`"), ("- a", "no list `files`")],
)
def test_a_broken_file_of_captions(tmp_path, content, words):
    (publish(tmp_path) / "MACS.yaml").write_text(content)
    with pytest.raises(LayoutError, match=words):
        listed(Macs(tmp_path))


def test_a_competence_that_is_not_a_number_is_an_error(tmp_path):
    write_csv(publish(tmp_path) / "MACS_competence.csv", [("annotator_id", "competence"), (7, "high")], delimiter="\t")
    with pytest.raises(LayoutError, match=r"MACS_competence.csv has a competence that is not a number"):
        listed(Macs(tmp_path))
