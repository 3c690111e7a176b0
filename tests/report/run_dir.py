"""A run directory as training writes it, and a model that returns known answers."""

import dataclasses
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from slap_jax.config.defaults import default_config, source
from slap_jax.data.tokenizer import train_tokenizer

RATE = 16_000
SOUNDS = ("kick drum", "low tone", "hiss", "bell")


@dataclasses.dataclass(frozen=True)
class EvaluationClip:
    """The fields of an evaluation clip that the report reads."""

    id: str
    waveform: np.ndarray
    captions: list[str]
    labels: list[str]
    key: int


class KnowingModel:
    """Embeds a clip and its captions to the same vector, except the clips listed in `confused`."""

    def __init__(self, clips: list[EvaluationClip], confused: tuple[int, ...] = ()):
        vectors = np.eye(len(clips), dtype=np.float32)
        self.audio = {zlib.crc32(clip.waveform.tobytes()): vectors[i] for i, clip in enumerate(clips)}
        self.text = {clip.captions[0]: vectors[i] for i, clip in enumerate(clips)}
        for index in confused:
            self.text[clips[index].captions[0]] = vectors[(index + 1) % len(clips)]
        self.captioned = {zlib.crc32(clip.waveform.tobytes()): f"{clip.captions[0]} <b>" for clip in clips}

    def embed_audio(self, audio: list[tuple[np.ndarray, int]], allow_silence: bool = False) -> np.ndarray:
        assert all(rate == RATE for _, rate in audio)
        return np.stack([self.audio[zlib.crc32(samples.tobytes())] for samples, _ in audio])

    def embed_text(self, texts: list[str]) -> np.ndarray:
        return np.stack([self.text[text] for text in texts])

    def caption(self, audio: list[tuple[np.ndarray, int]], allow_silence: bool = False) -> list[str]:
        return [self.captioned[zlib.crc32(samples.tobytes())] for samples, _ in audio]


def make_clips(count: int = 8, seed: int = 0) -> list[EvaluationClip]:
    """Clips of 0.3 to 2 s with two captions each, no two captions alike."""
    generator = np.random.default_rng(seed)
    clips = []
    for index in range(count):
        samples = generator.integers(-9_000, 9_000, int(RATE * generator.uniform(0.3, 2.0))).astype(np.int16)
        sound = SOUNDS[index % len(SOUNDS)]
        captions = [f"a {sound} & number {index}", f"number {index}, {sound}"]
        clips.append(EvaluationClip(f"clip-{index}", samples, captions, [f"sound={sound}"], index + 1))
    return clips


def write_run(directory: Path, clips: list[EvaluationClip], steps: int = 30) -> dict[str, Any]:
    """Writes config, metrics, evaluation and tokenizer; returns the evaluation."""
    (directory / "export").mkdir(parents=True)
    config = default_config()
    config.data.update(columns=64, slots=6, text_tokens=128, rows=2, virtual_shards=1, max_seconds=4.0)
    config.data.max_caption_tokens = 32
    config.train.steps = steps
    config.data.train.clips = source("data/clips", "train")
    config.data.evaluation.clips = source("data/clips", "test", label="sound")
    train_tokenizer([caption for clip in clips for caption in clip.captions], directory / "export/tokenizer.model", 60)
    (directory / "config.json").write_text(config.to_json_best_effort())
    write_metrics(directory, steps)
    chance = 1 / len(clips)
    evaluation = {
        "retrieval": {
            "clips": {
                "t2a_r1": 0.75,
                "a2t_r1": 0.5,
                "t2a_map10": 0.8,
                "t2a_r1_interval": [0.5, 0.9],
                "a2t_r1_interval": [0.3, 0.7],
                "chance_r1": chance,
                "n_clips": len(clips),
                "n_captions": 2 * len(clips),
            }
        },
        "zero_shot": {"clips": {"accuracy": 0.6, "chance": 0.25, "n": len(clips), "interval": [0.4, 0.8]}},
    }
    (directory / "evaluation.json").write_text(json.dumps(evaluation))
    return evaluation


def write_metrics(directory: Path, steps: int, objectives: tuple[str, ...] = ("contrastive", "captioning")) -> None:
    """Writes one line per step, five seconds apart, with half a line at the end as a kill leaves it."""
    lines = []
    for step in range(1, steps + 1):
        line: dict[str, Any] = {"step": step, "time": 1_000_000.0 + 5 * step, "loss/total": 5.0 / step}
        line |= {f"loss/{name}": 3.0 / step for name in objectives}
        line |= {"learning_rate": 1e-3, "gradient_norm": 1.0 + 1 / step, "packing_fill": 0.9, "audio_seconds": 20.0}
        if step > 1:
            line |= {"speed/audio_seconds_per_s": 4.0, "speed/steps_per_s": 0.2}
        lines.append(json.dumps(line))
    (directory / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 31, "ti')
