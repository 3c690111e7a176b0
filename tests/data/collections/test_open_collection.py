import pytest

from slap_jax.data.collections.entries import AudioFile
from slap_jax.data.collections.fields import CollectionError
from slap_jax.data.collections.folders import AudioFolder, SidecarFolder
from slap_jax.data.collections.huggingface import HuggingFaceTables
from slap_jax.data.collections.manifest import Manifest
from slap_jax.data.collections.open_collection import open_collection
from slap_jax.data.collections.webdataset import WebDataset
from tests.data.listing import listed
from tests.data.tiny_data import write_manifest, write_tone
from tests.data.tiny_tables import dataset_of, table_of, write_parquet
from tests.data.tiny_tars import sample, write_tar

TABLE = table_of({"audio": [{"bytes": b"x", "path": None}], "caption": ["table"]})


@pytest.fixture
def root(tmp_path):
    """One collection of each kind."""
    for folder in ("manifest", "folder", "audiofolder"):
        write_tone(tmp_path / folder / "a.wav")
    write_manifest(tmp_path / "manifest", [{"path": "a.wav", "caption": "manifest"}], "m.jsonl")
    (tmp_path / "manifest" / "m.csv").write_text("path,caption\na.wav,csv\n")
    (tmp_path / "folder" / "a.txt").write_text("folder")
    (tmp_path / "audiofolder" / "metadata.csv").write_text("file_name,caption\na.wav,audiofolder\n")
    write_tar(tmp_path / "tars" / "0.tar", sample("0", "tar"))
    write_parquet(tmp_path / "tables" / "data" / "a.parquet", TABLE)
    dataset_of(TABLE).save_to_disk(tmp_path / "saved")
    return tmp_path


@pytest.mark.parametrize(
    ("source", "kind", "caption"),
    [
        ("manifest/m.jsonl", Manifest, "manifest"),
        ("manifest/m.csv", Manifest, "csv"),
        ("folder", SidecarFolder, "folder"),
        ("audiofolder", AudioFolder, "audiofolder"),
        ("tars", WebDataset, "tar"),
        ("tars/0.tar", WebDataset, "tar"),
        ("tars/{0..0}.tar", WebDataset, "tar"),
        ("tars/*.tar", WebDataset, "tar"),
        ("tables", HuggingFaceTables, "table"),
        ("tables/data/a.parquet", HuggingFaceTables, "table"),
        ("saved", HuggingFaceTables, "table"),
    ],
)
def test_the_files_decide_the_kind(root, source, kind, caption):
    for given in (f"{root}/{source}", root / source):
        collection = open_collection(given, name="mine")
        assert isinstance(collection, kind) and collection.name == "mine"
        (entry,), rejections = listed(collection)
        assert (entry.captions, entry.source) == ((caption,), "mine") and not rejections


def test_options_reach_their_kind(root):
    options = {"caption_columns": ["caption"], "split": "test", "label_columns": ()}
    assert listed(open_collection(root / "tables", **options))[0][0].split == "test"
    write_tar(root / "x.tar", [("0.flac", b"x"), ("0.json", {"title": "a", "text": "b"})])
    assert listed(open_collection(root / "x.tar", caption_columns="title+text"))[0][0].captions == ("a", "b")
    moved = open_collection(write_manifest(root, [{"path": "a.wav", "caption": "x"}]), audio_root=root / "folder")
    assert listed(moved)[0][0].audio == AudioFile(root / "folder" / "a.wav")


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        ("folder", {"split": "test"}, "read as folder, which has no option 'split'; it has name"),
        ("tars", {"audio_root": "x"}, "read as webdataset, which has no option 'audio_root'"),
        ("tars", {"kind": "zip"}, "'zip' is not a kind of collection; expected manifest, folder"),
    ],
)
def test_unknown_options(root, source, options, words):
    with pytest.raises(CollectionError, match=words):
        open_collection(root / source, **options)


@pytest.mark.parametrize("source", ["nothing", "nothing.jsonl", "*.flac"])
def test_a_missing_source_is_one_line(root, source):
    with pytest.raises(CollectionError, match=r"(is missing|matches no file); give a manifest.*collections\.md\)$"):
        open_collection(root / source)


@pytest.mark.parametrize("source", ["folder/a.wav", "empty"])
def test_an_unrecognised_source_lists_the_kinds(root, source):
    (root / "empty").mkdir()
    with pytest.raises(CollectionError, match=r"(?s)a manifest.*WebDataset.*Hugging Face.*docs/collections\.md"):
        open_collection(root / source)


def test_folders_of_two_kinds_need_a_choice(root):
    write_tar(root / "folder" / "backup.tar", sample("0", "tar"))
    with pytest.raises(CollectionError, match=r"folder \(a\.wav\) and webdataset \(backup\.tar\); choose one with"):
        open_collection(root / "folder")
    (entry,), _ = listed(open_collection(root / "folder", kind="folder"))
    assert entry.captions == ("folder",)


def test_a_foreign_metadata_file_is_not_an_audiofolder(root):
    (root / "folder" / "metadata.csv").write_text("who,when\nme,now\n")
    assert isinstance(open_collection(root / "folder"), SidecarFolder)


NOT_UTF8 = "caf\udce9"  # as Python decodes the Latin-1 file name b"caf\xe9"


def write_badly_named(root, kind):
    """Writes a collection of two clips, one of them with a name that is not UTF-8."""
    if kind == "folder":
        for name in ("good", NOT_UTF8):
            write_tone(root / f"{name}.wav")
            (root / f"{name}.txt").write_text("a tone")
    elif kind == "class folder":
        for name in ("good", NOT_UTF8):
            write_tone(root / name / "0.wav")
            (root / name / "0.txt").write_text("a tone")
    elif kind == "member":
        write_tar(root / "0.tar", [*sample("good"), *sample(NOT_UTF8)])
    elif kind == "tar":
        write_tar(root / "good.tar", sample("0"))
        write_tar(root / f"{NOT_UTF8}.tar", sample("0"))
    elif kind == "table":
        write_parquet(root / "good.parquet", TABLE)
        write_parquet(root / "caf.parquet", TABLE).rename(root / f"{NOT_UTF8}.parquet")
    else:
        write_tone(root / "audio" / "a.wav")
        write_manifest(root, ['{"path": "audio/a.wav", "caption": "x"}', {"path": f"audio/{NOT_UTF8}", "caption": "x"}])
        return root / "manifest.jsonl"
    return root


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("folder", "bad_name"),
        ("class folder", "bad_name"),
        ("member", "bad_name"),
        ("tar", "bad_name"),
        ("table", "bad_name"),
        ("manifest", "bad_text"),
    ],
)
def test_a_name_that_is_not_utf8_is_one_rejection(tmp_path, kind, reason):
    source = write_badly_named(tmp_path, kind)
    (entry,), (rejection,) = listed(open_collection(source))
    assert rejection.reason == reason and "\\udce9" in rejection.detail
    assert "".join((entry.id, entry.where, rejection.id, rejection.where, rejection.detail)).encode()


def test_a_folder_whose_name_is_not_utf8_has_a_printable_source(tmp_path):
    for name in ("a", "b"):
        write_tone(tmp_path / NOT_UTF8 / f"{name}.wav")
        (tmp_path / NOT_UTF8 / f"{name}.txt").write_text("a tone")
    entries, rejections = listed(open_collection(tmp_path / NOT_UTF8))
    assert [entry.source for entry in entries] == [f"{tmp_path.name}/caf\\udce9"] * 2 and not rejections


def test_folders_with_the_same_name_are_different_sources(tmp_path):
    sources = set()
    for folder in ("dev/audio", "eval/audio"):
        write_tone(tmp_path / folder / "000.wav")
        (tmp_path / folder / "000.txt").write_text("a tone")
        manifest = write_manifest(tmp_path / folder, [{"path": "000.wav", "caption": "a tone"}])
        for source in (manifest, tmp_path / folder):
            (entry,), _ = listed(open_collection(source, kind="" if source == manifest else "folder"))
            assert entry.id == "000.wav"
            sources.add(entry.source)
    assert sources == {"dev/audio", "eval/audio"}
