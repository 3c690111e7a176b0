"""Every dataset of the suites with a few clips, in its publisher's layout, and prepared with `slap prepare`."""

from collections.abc import Callable
from pathlib import Path

from slap_jax.data.datasets.registry import open_dataset
from slap_jax.data.preparation.prepare import prepare
from tests.data.datasets.publisher_files import write_csv, write_json
from tests.data.tiny_data import encoded
from tests.inference.tiny import noise


def write_noise(path: Path, seed: int, seconds: float = 0.1) -> None:
    """Writes a clip that differs from all others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(noise(seed, seconds)))


def audiocaps(root: Path) -> None:
    """Four clips of five captions, of which two are equal; a fifth clip whose video has vanished."""
    rows = [("audiocap_id", "youtube_id", "start_time", "caption")]
    for clip in range(5):
        captions = [f"a dog barks {clip}", f"rain falls {clip}", "A man speaking", "a man speaking", f"a bell {clip}"]
        rows += [(str(10 * clip + place), f"video{clip}", "30", text) for place, text in enumerate(captions)]
        if clip < 4:
            write_noise(root / f"audio/test/video{clip}.wav", clip)
    write_csv(root / "test.csv", rows)


def clotho(root: Path) -> None:
    """Three clips of five captions."""
    names = [f"{clip}.wav" for clip in range(3)]
    captions = [[name, *(f"sound {clip} of kind {n}" for n in range(5))] for clip, name in enumerate(names)]
    columns = ("file_name", *(f"caption_{n}" for n in range(1, 6)))
    write_csv(root / "clotho_captions_evaluation.csv", [columns, *captions])
    facts = [[name, "birds", "1", "", "[0, 9]", "somebody", "none"] for name in names]
    columns = ("file_name", "keywords", "sound_id", "sound_link", "start_end_samples", "manufacturer", "license")
    write_csv(root / "clotho_metadata_evaluation.csv", [columns, *facts])
    for clip, name in enumerate(names):
        write_noise(root / "evaluation" / name, 20 + clip)


def esc50(root: Path) -> None:
    """Three classes in five folds, of one to three clips."""
    rows: list[tuple] = [("filename", "fold", "target", "category", "esc10", "src_file", "take")]
    for fold in range(1, 6):
        for clip, category in enumerate(("dog", "sea_waves", "rain")[: 1 + fold % 3]):
            name = f"{fold}-{clip}-A-0.wav"
            rows.append((name, fold, 0, category, False, 0, "A"))
            write_noise(root / "audio" / name, 100 + 10 * fold + clip)
    write_csv(root / "meta/esc50.csv", rows)


def urbansound8k(root: Path) -> None:
    """Two classes in ten folds, of one or two clips."""
    rows: list[tuple] = [("slice_file_name", "fsID", "start", "end", "salience", "fold", "classID", "class")]
    for fold in range(1, 11):
        for clip, category in enumerate(("dog_bark", "siren")[: 1 + fold % 2]):
            name = f"{fold}-{clip}.wav"
            rows.append((name, 1, 0, 1, 1, fold, 0, category))
            write_noise(root / f"audio/fold{fold}" / name, 200 + 10 * fold + clip)
    write_csv(root / "metadata/UrbanSound8K.csv", rows)


def crema_d(root: Path) -> None:
    """Six actors, two emotions each."""
    for actor in range(1001, 1007):
        for place, emotion in enumerate(("ANG", "SAD")):
            write_noise(root / f"AudioWAV/{actor}_DFA_{emotion}_XX.wav", 400 + 10 * actor + place)


def ravdess(root: Path) -> None:
    """Four actors, two emotions each, spoken."""
    for actor in range(1, 5):
        for emotion in ("03", "05"):
            path = root / f"Actor_{actor:02d}/03-01-{emotion}-01-01-01-{actor:02d}.wav"
            write_noise(path, 600 + 10 * actor + int(emotion))


def gtzan(root: Path) -> None:
    """Two genres of three pieces, and the lists of the fault-filtered split."""
    for place, genre in enumerate(("blues", "rock")):
        for number in range(3):
            write_noise(root / f"genres/{genre}/{genre}.{number:05d}.wav", 700 + 10 * place + number)
    for number, split in enumerate(("train", "valid", "test")):
        lines = [f"{genre}/{genre}.{number:05d}.wav\n" for genre in ("blues", "rock")]
        (root / f"{split}_filtered.txt").write_text("".join(lines))


def vggsound(root: Path) -> None:
    """Two classes, in both splits."""
    rows = []
    for clip in range(6):
        split = "train" if clip < 4 else "test"
        rows.append((f"video{clip}", clip, ("dog barking", "people, talking")[clip % 2], split))
        write_noise(root / f"audio/video{clip}_{clip:06d}.wav", 800 + clip)
    write_csv(root / "vggsound.csv", rows)


def nsynth(root: Path) -> None:
    """Two families, in both splits; neither is synth lead."""
    for split, count in (("train", 4), ("test", 3)):
        notes = {}
        for clip in range(count):
            family = ("bass", "guitar")[clip % 2]
            notes[f"{family}_{split}_{clip}"] = {
                "instrument_family_str": family,
                "instrument_source_str": "acoustic",
                "pitch": 60,
                "velocity": 75,
            }
            write_noise(root / f"nsynth-{split}/audio/{family}_{split}_{clip}.wav", 900 + 10 * len(split) + clip)
        write_json(root / f"nsynth-{split}/examples.json", notes)


def speech_commands(root: Path) -> None:
    """Two words by four speakers, of whom one is tested."""
    for place, word in enumerate(("yes", "zero")):
        for speaker in range(4):
            write_noise(root / f"{word}/speaker{speaker}_nohash_0.wav", 1_000 + 10 * place + speaker)
    (root / "testing_list.txt").write_text("yes/speaker3_nohash_0.wav\nzero/speaker3_nohash_0.wav\n")
    (root / "validation_list.txt").write_text("")


def fsd50k(root: Path) -> None:
    """Three classes, one to three a clip."""
    labels = ["Bark,Dog", "Rain", "Dog", "Bark,Dog,Rain", "Rain", "Bark,Dog"]
    train = [(str(clip), text, "/m/0", "val" if clip == 1 else "train") for clip, text in enumerate(labels)]
    write_csv(root / "FSD50K.ground_truth/dev.csv", [("fname", "labels", "mids", "split"), *train])
    test = [(str(100 + clip), text, "/m/0") for clip, text in enumerate(labels)]
    write_csv(root / "FSD50K.ground_truth/eval.csv", [("fname", "labels", "mids"), *test])
    for clip in range(len(labels)):
        write_noise(root / f"FSD50K.dev_audio/{clip}.wav", 1_100 + clip)
        write_noise(root / f"FSD50K.eval_audio/{100 + clip}.wav", 1_200 + clip)


def audioset(root: Path) -> None:
    """Two classes, one or both a clip; the evaluation clips have strong labels."""
    write_csv(
        root / "class_labels_indices.csv", [("index", "mid", "display_name"), (0, "/m/a", "Dog"), (1, "/m/b", "Rain")]
    )
    write_csv(root / "mid_to_display_name.tsv", [("/m/a", "Dog"), ("/m/b", "Rain")], delimiter="\t")
    strong = [("segment_id", "start_time_seconds", "end_time_seconds", "label")]
    for split, first in (("balanced_train", 0), ("eval", 4)):
        rows = ["# a header", "# another", "# YTID, start_seconds, end_seconds, positive_labels"]
        for clip in range(first, first + 4):
            mids = ("/m/a", "/m/b", "/m/a,/m/b", "/m/a")[clip % 4]
            rows.append(f'video{clip}, 0.000, 10.000, "{mids}"')
            write_noise(root / f"audio/video{clip}_0.wav", 1_300 + clip, 2.5)
            if split == "eval":
                strong += [(f"video{clip}_0", 0.0, 1.0, "/m/a"), (f"video{clip}_0", 1.2, 2.4, "/m/b")]
        (root / f"{split}_segments.csv").write_text("\n".join(rows) + "\n")
    write_csv(root / "audioset_eval_strong.tsv", strong, delimiter="\t")


def tacos(root: Path) -> None:
    """Two clips with regions whose captions occur once."""
    names = ["a.wav", "b.wav"]
    write_csv(root / "test_split.csv", [("filename",), *((name,) for name in names)])
    facts = ("filename", "keywords", "license", "superclass", "subclass", "duration", "start_time_s", "end_time_s")
    write_csv(root / "metadata.csv", [facts, *((name, "", "", "", "", 2.5, 0, 2.5) for name in names)])
    write_csv(root / "annotations_weak.csv", [("filename", "text"), *((name, f"all of {name}") for name in names)])
    strong = [("filename", "text", "onset", "offset")]
    for clip, name in enumerate(names):
        strong += [(name, f"a dog in {name}", 0.0, 0.9), (name, f"rain in {name}", 1.1, 2.4)]
        write_noise(root / "audio" / name, 1_400 + clip, 2.5)
    write_csv(root / "annotations_strong.csv", strong)


# Folder of the prepared data -> dataset, options, what writes the publisher's folder.
PUBLISHERS: dict[str, tuple[str, dict[str, str], Callable[[Path], None]]] = {
    "audiocaps": ("audiocaps", {"splits": "test"}, audiocaps),
    "clotho": ("clotho", {"splits": "evaluation"}, clotho),
    "esc50": ("esc50", {}, esc50),
    "urbansound8k": ("urbansound8k", {}, urbansound8k),
    "crema_d": ("crema_d", {}, crema_d),
    "ravdess": ("ravdess", {}, ravdess),
    "gtzan": ("gtzan", {}, gtzan),
    "gtzan_filtered": ("gtzan", {"splits": "train+valid+test"}, gtzan),
    "vggsound": ("vggsound", {}, vggsound),
    "nsynth": ("nsynth", {"splits": "train+test"}, nsynth),
    "speech_commands": ("speech_commands", {"splits": "train+test"}, speech_commands),
    "fsd50k": ("fsd50k", {}, fsd50k),
    "audioset": ("audioset", {"splits": "balanced_train+eval"}, audioset),
    "tacos": ("tacos", {"splits": "test"}, tacos),
}


def prepare_published(published: Path, prepared: Path, folders: tuple[str, ...] = tuple(PUBLISHERS)) -> Path:
    """Writes the publishers' folders below one directory and prepares them below another; returns the latter."""
    for folder in folders:
        dataset, options, write = PUBLISHERS[folder]
        root = published / folder
        root.mkdir(parents=True)
        write(root)
        opened = open_dataset(dataset, root, **options)
        prepare(opened, prepared / folder, max_rejected=2_000, workers=1, log=lambda line: None)
    return prepared
