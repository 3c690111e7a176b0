import collections
import json

import pytest

from slap_jax.data.collections.entries import AudioFile
from slap_jax.data.collections.published import LayoutError
from slap_jax.data.datasets import reading as json_items
from slap_jax.data.datasets.wavcaps import WavCaps
from tests.data.datasets.publisher_files import listed, write_json, write_wav

ARCHIVE = "mnt/fast/nobackup/scratch4weeks/xm00178/WavCaps/data/waveforms"


def item(id, caption="A dog is barking.", **fields):
    return {"id": id, "caption": caption, "audio": "wav_path", "duration": 0.1, **fields}


ITEMS = {
    "AudioSet_SL/as_final.json": [item("Yb0RFKhbpFJA.wav"), item("YvfY_TJq7n_U.wav"), item("Yr1nicOVtvkQ.wav")],
    "BBC_Sound_Effects/bbc_final.json": [item("NHU05091135", description="raw", download_link="https://x")],
    "FreeSound/fsd_final.json": [item("180913", tags=["rain", " "]), item("117790"), item("156"), item("185374")],
    "SoundBible/sb_final.json": [item("2219", title="Airplane")],
}
BLACKLISTS = {
    "blacklist_exclude_test_ac.json": {"AudioSet": ["YvfY_TJq7n_U.wav"], "FreeSound": ["156"]},
    "blacklist_exclude_all_ac.json": {
        "AudioSet": ["YvfY_TJq7n_U.wav", "Yr1nicOVtvkQ.wav"],
        "FreeSound": ["117790", "156", "156"],  # some ids are listed twice
    },
    "blacklist_exclude_ub8k_esc50_vggsound.json": {"AudioSet": [], "FreeSound": ["185374", "156"]},
}


def publish(root, place="audio/{}", items=ITEMS):
    for name, data in items.items():
        write_json(root / "json_files" / name, {"num_captions_per_audio": 1, "data": data})
        source = name.partition("/")[0]
        for clip in data:
            write_wav(root / place.format(source) / f"{clip['id'].removesuffix('.wav')}.flac", container="FLAC")
    for name, lists in BLACKLISTS.items():
        write_json(root / "json_files" / "blacklist" / name, lists)
    return root


@pytest.mark.parametrize(
    "place",
    ["audio/{}", "{}", "Zip_files/{}", f"Zip_files/{{0}}/{ARCHIVE}/{{0}}_flac", f"{ARCHIVE}/{{}}_flac"],
)
def test_audio_is_found_where_its_archives_are_extracted(tmp_path, place):
    entries, rejections = listed(WavCaps(publish(tmp_path, place), exclude="none"))
    assert not rejections
    assert len(entries) == 9
    assert entries[0].audio == AudioFile(tmp_path / place.format("AudioSet_SL") / "Yb0RFKhbpFJA.flac")


def test_fields(tmp_path):
    entries, _ = listed(WavCaps(publish(tmp_path), splits="FreeSound"))
    (entry,) = entries
    assert (entry.id, entry.split, entry.source) == ("FreeSound/180913", "FreeSound", "wavcaps")
    assert entry.labels == ("tag=rain",)
    assert entry.captions == ("A dog is barking.",) and entry.duration_s == 0.1
    assert "ChatGPT" in entry.caption_source and "academic" in entry.licence


@pytest.mark.parametrize(
    ("exclude", "expected"),
    [
        ({}, {"audiocaps_test": 1, "clotho": 2, "esc50_urbansound8k": 1}),  # 156 belongs to the first list that has it
        ({"exclude": "audiocaps+clotho_test"}, {"audiocaps": 2, "clotho_test": 1}),
        ({"exclude": "esc50_urbansound8k"}, {"esc50_urbansound8k": 2}),
        ({"exclude": "none"}, {}),
    ],
)
def test_clips_of_evaluation_sets_are_left_out_as_intended(tmp_path, exclude, expected):
    entries, rejections = listed(WavCaps(publish(tmp_path), **exclude))
    reasons = collections.Counter(rejection.reason for rejection in rejections)
    assert reasons == {f"excluded_{name}": count for name, count in expected.items()}
    assert len(entries) == 9 - sum(expected.values())


def test_bad_items_are_rejected_one_by_one(tmp_path):
    items = {"SoundBible/sb_final.json": [item("1", " "), item("2"), item("3"), {"caption": "no id"}, "text", item(4)]}
    publish(tmp_path, items={"SoundBible/sb_final.json": [item("1"), item("2"), item("4")]})
    write_json(tmp_path / "json_files/SoundBible/sb_final.json", {"data": items["SoundBible/sb_final.json"]})
    entries, rejections = listed(WavCaps(tmp_path, splits="SoundBible"))
    assert [entry.id for entry in entries] == ["SoundBible/2", "SoundBible/4"]
    assert [(rejection.reason, rejection.where) for rejection in rejections] == [
        ("empty_caption", "sb_final.json:data[0]"),
        ("missing_file", "sb_final.json:data[2]"),
        ("bad_field", "sb_final.json:data[3]"),
        ("bad_field", "sb_final.json:data[4]"),
    ]


def test_a_source_without_audio_is_an_error_with_a_remedy(tmp_path):
    publish(tmp_path, items={name: data for name, data in ITEMS.items() if name.startswith("SoundBible")})
    write_json(tmp_path / "json_files/FreeSound/fsd_final.json", {"data": [item("1")]})
    with pytest.raises(LayoutError, match=r"no FLAC files of FreeSound.*splits=SoundBible"):
        listed(WavCaps(tmp_path, splits="FreeSound+SoundBible"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:4499\nsize 147300685\n", "git lfs pull"),
        ('{"num_captions_per_audio": 1, "clips": []}', "no list 'data'"),
        ('{"data": [{"id": "1", "caption": "x"}, {"id": ', "truncated or not JSON"),
        (b'{"data": [{"id": "1", "caption": "caf\xe9"}]}', "not UTF-8"),
    ],
)
def test_incomplete_files_are_errors(tmp_path, content, words):
    path = publish(tmp_path) / "json_files/SoundBible/sb_final.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(LayoutError, match=words):
        listed(WavCaps(tmp_path, splits="SoundBible"))


@pytest.mark.parametrize("lists", [["156"], {"AudioSet": 7, "FreeSound": 7}, 7])
def test_a_malformed_blacklist_is_an_error(tmp_path, lists):
    write_json(publish(tmp_path) / "json_files/blacklist/blacklist_exclude_all_ac.json", lists)
    with pytest.raises(LayoutError, match=r"blacklist_exclude_all_ac.json is not JSON like"):
        listed(WavCaps(tmp_path))


@pytest.mark.parametrize("block", [1, 7, 64, 1 << 20])
def test_items_do_not_depend_on_the_block_size(tmp_path, monkeypatch, block):
    items = [{"a": 'quote " ] and } é'}, {"b": [1, {"c": []}]}, {}, {"d": 2.5}]
    path = tmp_path / "items.json"
    path.write_text('{"n": 1, "data" : [' + ",\n ".join(map(json.dumps, items)) + '\n] , "more": 3}')
    # The key must be in the first block.
    whole = path.read_text().index("[") + 1
    monkeypatch.setattr(json_items, "_BLOCK", max(block, whole))
    assert list(json_items.read_json_list(path, "data")) == items
