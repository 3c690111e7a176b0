"""Figures that others published, each with its source and how it was read. Data only; `comparison` uses it.

Values are in percent (CIDEr-D, SPICE and mAP times 100). `read` says how sure a value is:

- "paper": in that system's own paper, README or code;
- "digest": in a public summary of the paper's full text (github.com/nanless/audio-paper-digest-blog, 2026-04-29);
- "table of X": in a table of another paper, X, which may have measured anew or copied;
- "index": on a page that collects results (wizwand.com);
- "recalled": from memory of the paper. Check before quoting.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

# What a model had seen of the evaluation set's data when the value was measured.
ZERO_SHOT = "zero-shot"  # nothing of this data set
IN_TRAINING = "in training"  # its training split was a part of the pretraining data
FINE_TUNED = "fine-tuned"  # trained on its training split at last
UNKNOWN = "not stated"


@dataclasses.dataclass(frozen=True)
class Published:
    """One number.

    Attributes:
        model: that was measured.
        kind: of evaluation, as in the results.
        set: as in the results.
        metric: as in the results.
        value: in percent.
        setting: one of the four above.
        source: where it was published.
        read: see the module's docstring.
        n: clips it was measured on, None where the source does not say.
        template: prompt, "" where the source does not say or there is none.
    """

    model: str
    kind: str
    set: str
    metric: str
    value: float
    setting: str
    source: str
    read: str
    n: int | None = None
    template: str = ""


_SLAP = "SLAP, arXiv 2601.12594"
_SLAP_1, _SLAP_2, _SLAP_3 = f"{_SLAP}, table 1", f"{_SLAP}, table 2", f"{_SLAP}, table 3"
_WAVLINK = "table of WavLink"
_GLAP = "table of GLAP"

# model, setting, AudioCaps T2A and A2T, Clotho T2A and A2T, source, read. R@1 in percent.
_RETRIEVAL: Sequence[tuple[str, str, float | None, float | None, float | None, float | None, str, str]] = (
    ("SLAP", ZERO_SHOT, 35.1, 44.8, 18.9, 23.5, _SLAP_1, "digest"),
    ("SLAP", FINE_TUNED, 47.5, 63.4, 27.2, 36.8, _SLAP_1, "digest"),
    ("WavCaps", ZERO_SHOT, 28.6, 40.2, 16.5, 20.0, _SLAP_1, "digest"),
    ("LAION-CLAP", FINE_TUNED, 36.2, 45.0, 17.2, 24.2, _SLAP_1, "digest"),
    ("M2D2-CLAP", FINE_TUNED, 41.9, 59.2, 20.0, 24.9, _SLAP_1, "digest"),
    ("CED-LE", FINE_TUNED, 45.6, 60.7, 25.0, 30.9, f"{_SLAP_1}; ML-CLAP, arXiv 2406.07012", "digest"),
    ("LAION-CLAP", IN_TRAINING, 36.1, 46.8, 16.1, 22.7, "WavLink", _WAVLINK),
    ("LAION-CLAP, fusion", IN_TRAINING, 35.1, 45.8, 18.2, 25.7, "LAION-CLAP, arXiv 2211.06687", "recalled"),
    ("WavCaps HTSAT", IN_TRAINING, 39.7, 51.7, 20.2, 26.5, "GLAP", _GLAP),
    ("WavCaps HTSAT-BERT", FINE_TUNED, 42.2, 54.6, 19.7, 26.9, "WavCaps, arXiv 2303.17395", "recalled"),
    ("FLAP", IN_TRAINING, 41.5, 53.0, 20.3, 25.5, "FLAP", "index"),
    ("Cacophony", IN_TRAINING, 41.0, 55.3, 20.2, 26.5, "Cacophony", "paper"),
    ("MGA-CLAP", IN_TRAINING, 41.8, 54.4, 20.4, 25.3, "WavLink", _WAVLINK),
    ("MLCLAP", IN_TRAINING, 40.7, 50.1, 18.8, 21.1, "GLAP", _GLAP),
    ("GLAP", IN_TRAINING, 41.7, 54.4, 19.4, 21.8, "GLAP", "table of a reader's notes"),
    ("WavLink S", FINE_TUNED, 44.5, 54.3, 21.2, 25.3, "WavLink", "table of a reader's notes"),
    ("WavLink L", FINE_TUNED, 46.7, 60.0, 22.4, 27.4, "WavLink", "table of a reader's notes"),
    ("PE-AV S", UNKNOWN, 41.8, None, 23.9, None, "facebookresearch/perception_models", "paper"),
    ("PE-AV B", UNKNOWN, 42.7, None, 23.8, None, "facebookresearch/perception_models", "paper"),
    ("PE-AV L", UNKNOWN, 45.8, None, 23.0, None, "facebookresearch/perception_models", "paper"),
    ("AuroLA-3B", FINE_TUNED, 44.9, 60.5, 25.6, 34.9, "AuroLA, arXiv 2602.18010, its README", "paper"),
    ("AuroLA-7B", FINE_TUNED, 46.8, 64.0, 26.7, 36.5, "AuroLA, arXiv 2602.18010, its README", "paper"),
    ("AuroLA-7B", ZERO_SHOT, 43.3, 53.0, 26.0, 34.4, "AuroLA, arXiv 2602.18010, its README", "paper"),
)

_ZERO_SHOT_SETS = ("esc50", "urbansound8k", "vggsound", "gtzan", "crema_d", "ravdess")
# model, setting, then the sets above, source, read. Top-1 in percent.
_ZERO_SHOT: Sequence[
    tuple[str, str, float | None, float | None, float | None, float | None, float | None, float | None, str, str]
] = (
    ("SLAP", ZERO_SHOT, 88.6, 81.6, None, 56.8, 28.1, 26.4, _SLAP_2, "digest"),
    ("SLAP, then WavCaps", ZERO_SHOT, 95.5, 83.5, None, 80.5, 32.2, 29.8, _SLAP_2, "digest"),
    ("M2D2-CLAP", ZERO_SHOT, 94.3, 82.9, None, 79.3, 28.6, None, _SLAP_2, "digest"),
    ("LAION-CLAP", ZERO_SHOT, 89.1, 73.2, 29.1, None, None, None, "WavLink", _WAVLINK),
    ("LAION-CLAP, fusion", ZERO_SHOT, 91.0, 77.0, 46.2, None, None, None, "LAION-CLAP, arXiv 2211.06687", "recalled"),
    ("MS-CLAP 2023", ZERO_SHOT, 93.9, 82.3, None, None, 30.0, 31.5, "MS-CLAP, arXiv 2309.05767", "recalled"),
    ("MS-CLAP 2023", ZERO_SHOT, None, None, None, 58.4, None, None, "GLAP", _GLAP),
    ("WavCaps HTSAT", ZERO_SHOT, 94.8, 80.6, 29.6, None, None, None, "WavCaps, arXiv 2303.17395", "recalled"),
    ("Cacophony", ZERO_SHOT, 93.4, 77.1, 27.1, None, None, None, "Cacophony, its README", "paper"),
    ("MGA-CLAP", ZERO_SHOT, 94.9, 83.7, 31.8, None, None, None, "WavLink", _WAVLINK),
    ("ReCLAP", ZERO_SHOT, 92.8, 95.2, 29.2, None, None, None, "WavLink", _WAVLINK),
    ("GLAP", ZERO_SHOT, 88.8, 78.9, None, 69.6, None, None, "GLAP", "table of a reader's notes"),
    ("WavLink S", ZERO_SHOT, 80.3, 75.0, 31.8, None, None, None, "WavLink", "table of a reader's notes"),
    ("WavLink L", ZERO_SHOT, 83.0, 74.5, 31.7, None, None, None, "WavLink", "table of a reader's notes"),
    # Its clips and prompt are those of EVAR's code, by the same authors.
    ("M2D-CLAP 2024", ZERO_SHOT, None, None, None, 75.2, None, None, "M2D-CLAP 2024, evaluated in EVAR", "paper"),
)

_N_OF: Mapping[tuple[str, str], int] = {("Cacophony", "vggsound"): 12_722, ("M2D-CLAP 2024", "gtzan"): 290}
_TEMPLATE_OF: Mapping[tuple[str, str], str] = {
    ("WavCaps HTSAT", "esc50"): "{} can be heard",
    ("WavCaps HTSAT", "urbansound8k"): "{}",
    ("WavCaps HTSAT", "vggsound"): "{} can be heard",
    ("M2D-CLAP 2024", "gtzan"): "{} music can be heard",
    ("GLAP", "esc50"): "The sound of {} can be heard.",
    ("GLAP", "gtzan"): "The music in the style of {}.",
    ("MS-CLAP 2023", "esc50"): "this is the sound of {}",
    ("LAION-CLAP, fusion", "esc50"): "This is a sound of {}.",
    ("Cacophony", "esc50"): "This is a sound of {}",
}

_OTHERS: Sequence[Published] = (
    Published("LAION-CLAP, music", "zero_shot", "gtzan_all", "accuracy", 71.0, ZERO_SHOT,
              "LAION-AI/CLAP, its README", "paper", 1_000, "This audio is a {} song."),
    Published("GLAP", "zero_shot", "speech_commands", "accuracy", 95.8, ZERO_SHOT, "GLAP", "table of a reader's notes",
              None, "{}"),
    Published("M2D-CLAP, in EVAR", "zero_shot", "nsynth", "accuracy", 31.9, ZERO_SHOT,
              "nttcslab/eval-audio-repr, a comment in zeroshot.py", "paper", 4_096,
              "the musical instrument sound of {} can be heard"),
    Published("MS-CLAP 2023", "zero_shot_multi_label", "fsd50k", "map", 48.6, ZERO_SHOT, "MS-CLAP, arXiv 2309.05767",
              "recalled"),
    Published("MGA-CLAP", "zero_shot_multi_label", "fsd50k", "map", 54.5, ZERO_SHOT, "WavLink", _WAVLINK),
    Published("GLAP", "zero_shot_multi_label", "fsd50k", "map", 40.9, ZERO_SHOT, "GLAP", "recalled"),
    Published("SLAP", "captioning", "audiocaps", "cider_d", 75.1, FINE_TUNED, _SLAP_3, "digest"),
    Published("SLAP", "captioning", "audiocaps", "spice", 18.1, FINE_TUNED, _SLAP_3, "digest"),
    Published("SLAP", "captioning", "clotho", "cider_d", 43.7, FINE_TUNED, _SLAP_3, "digest"),
    Published("SLAP", "captioning", "clotho", "spice", 13.1, FINE_TUNED, _SLAP_3, "digest"),
    Published("M2D2-CLAP", "captioning", "audiocaps", "cider_d", 72.4, FINE_TUNED, _SLAP_3, "digest"),
    Published("M2D2-CLAP", "captioning", "audiocaps", "spice", 17.6, FINE_TUNED, _SLAP_3, "digest"),
    Published("M2D2-CLAP", "captioning", "clotho", "cider_d", 43.5, FINE_TUNED, _SLAP_3, "digest"),
    Published("M2D2-CLAP", "captioning", "clotho", "spice", 12.4, FINE_TUNED, _SLAP_3, "digest"),
    Published("Cacophony", "captioning", "audiocaps", "cider_d", 72.8, FINE_TUNED, _SLAP_3, "digest"),
    Published("Cacophony", "captioning", "audiocaps", "spice", 16.8, FINE_TUNED, _SLAP_3, "digest"),
    Published("Cacophony", "captioning", "clotho", "cider_d", 41.5, FINE_TUNED, _SLAP_3, "digest"),
    Published("Cacophony", "captioning", "clotho", "spice", 10.6, FINE_TUNED, _SLAP_3, "digest"),
    Published("WavCaps HTSAT-BART", "captioning", "audiocaps", "cider_d", 78.7, FINE_TUNED,
              "WavCaps, arXiv 2303.17395", "recalled"),
    Published("WavCaps HTSAT-BART", "captioning", "clotho", "cider_d", 48.8, FINE_TUNED, "WavCaps, arXiv 2303.17395",
              "recalled"),
    Published("SLAP", "probe", "esc50", "accuracy", 98.2, FINE_TUNED, f"{_SLAP}, table 4", "index"),
    Published("SLAP", "probe", "speech_commands", "accuracy", 98.5, FINE_TUNED, f"{_SLAP}, table 4", "index"),
    Published("AudioMAE B", "probe", "esc50", "accuracy", 94.1, FINE_TUNED, "AudioMAE", "recalled"),
    Published("BEATs iter3", "probe", "esc50", "accuracy", 95.6, FINE_TUNED, "BEATs", "recalled"),
    Published("SupMAM-CLAP", "probe", "esc50", "accuracy", 97.6, FINE_TUNED, "MAM-CLAP, arXiv 2401.15953", "index"),
    Published("AudioMAE B", "probe", "speech_commands", "accuracy", 98.3, FINE_TUNED, "AudioMAE", "recalled"),
    Published("BEATs iter3", "probe", "speech_commands", "accuracy", 98.3, FINE_TUNED, "BEATs", "recalled"),
    Published("SupMAM-CLAP", "probe", "speech_commands", "accuracy", 98.7, FINE_TUNED, "MAM-CLAP, arXiv 2401.15953",
              "index"),
    Published("AudioMAE B", "probe", "audioset", "map", 37.0, FINE_TUNED, "AudioMAE, AS-20K", "recalled"),
    Published("BEATs iter3", "probe", "audioset", "map", 38.3, FINE_TUNED, "BEATs, AS-20K", "recalled"),
    Published("EAT B", "probe", "audioset", "map", 41.3, FINE_TUNED, "EAT, AS-20K", "paper"),
    Published("EAT L", "probe", "audioset", "map", 42.0, FINE_TUNED, "EAT, AS-20K", "paper"),
    Published("SupMAM-CLAP", "probe", "audioset", "map", 38.6, FINE_TUNED, "MAM-CLAP, arXiv 2401.15953, AS-20K",
              "index"),
)  # fmt: skip


def figures() -> Iterator[Published]:
    """All figures, those of the same set and metric in the order of the tables above."""
    for model, setting, *values, source, read in _RETRIEVAL:
        columns = [(name, metric) for name in ("audiocaps", "clotho") for metric in ("t2a_r1", "a2t_r1")]
        for (name, metric), value in zip(columns, values, strict=True):
            if value is not None:
                yield Published(model, "retrieval", name, metric, float(value), setting, source, read)
    for model, setting, *values, source, read in _ZERO_SHOT:
        for name, value in zip(_ZERO_SHOT_SETS, values, strict=True):
            if value is not None:
                about = (_N_OF.get((model, name)), _TEMPLATE_OF.get((model, name), ""))
                yield Published(model, "zero_shot", name, "accuracy", float(value), setting, source, read, *about)
    yield from _OTHERS
