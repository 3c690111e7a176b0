"""Pipelines of other libraries as their users write them: from FLAC files to batches of 32 padded log-mels and tokens.

Each function yields the seconds of audio in each batch, without end, in a seeded random order, in one thread of one
process. All use our sizes (16 kHz, 25 ms window, 10 ms hop, 64 mel bands), so that the work is the same.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from slap_jax.data.tokenizer import PAD, load_tokenizer

BATCH = 32
LONGEST_SECONDS = 30.0
MAX_TOKENS = 128


def endless_order(count: int) -> Iterator[int]:
    """Yields clip numbers, shuffled again for each epoch."""
    generator = np.random.default_rng(0)
    while True:
        yield from generator.permutation(count).tolist()


def torch_dataloader(directory: Path) -> Iterator[float]:
    """Uses a map-style dataset with soundfile and the mel of torchaudio, and a collate function that pads."""
    import librosa
    import soundfile
    import torch

    torch.set_num_threads(1)
    window = torch.hann_window(400)
    filters = torch.from_numpy(librosa.filters.mel(sr=16_000, n_fft=512, n_mels=64)).T.contiguous()
    files = sorted((directory / "files").iterdir())
    captions = json.loads((directory / "captions.json").read_text())
    tokenizer = load_tokenizer(directory / "tokenizer.model")

    class Clips(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, float]:
            samples, _ = soundfile.read(files[index], dtype="float32")
            spectrum = torch.stft(
                torch.from_numpy(samples), 512, 160, 400, window, pad_mode="constant", return_complex=True
            )
            log_mel = torch.log(torch.clamp(spectrum.abs().square().T @ filters, min=1e-5))
            tokens = tokenizer.encode(captions[index][0], MAX_TOKENS)
            return log_mel, torch.tensor(tokens), len(samples) / 16_000

    def collate(clips: list) -> tuple[torch.Tensor, torch.Tensor, float]:
        pad = torch.nn.utils.rnn.pad_sequence
        log_mels, tokens, seconds = zip(*clips, strict=True)
        return pad(log_mels, batch_first=True), pad(tokens, batch_first=True, padding_value=PAD), sum(seconds)

    while True:
        loader = torch.utils.data.DataLoader(Clips(), BATCH, shuffle=True, collate_fn=collate, drop_last=True)
        for _, _, seconds in loader:
            yield seconds


def librosa_numpy(directory: Path) -> Iterator[float]:
    """Uses `librosa.load` and `librosa.feature.melspectrogram`, and pads with NumPy."""
    import librosa

    def log_mel(file: Path) -> tuple[np.ndarray, float]:
        samples, _ = librosa.load(file, sr=16_000, mono=True)
        power = librosa.feature.melspectrogram(
            y=samples, sr=16_000, n_fft=512, win_length=400, hop_length=160, n_mels=64
        )
        return np.log(np.maximum(power, 1e-5)).T, len(samples) / 16_000

    yield from numpy_batches(directory, log_mel)


def clap_feature_extractor(directory: Path) -> Iterator[float]:
    """Reads with soundfile and uses the CLAP feature extractor of transformers, which cuts or repeats clips to 10 s."""
    import soundfile
    import torch
    from transformers import ClapFeatureExtractor

    torch.set_num_threads(1)
    extractor = ClapFeatureExtractor(
        feature_size=64,
        sampling_rate=16_000,
        hop_length=160,
        fft_window_size=512,
        max_length_s=10,
        frequency_max=8_000,
        truncation="rand_trunc",
        padding="repeatpad",
    )

    def log_mel(file: Path) -> tuple[np.ndarray, float]:
        samples, _ = soundfile.read(file, dtype="float32")
        features = extractor(samples, sampling_rate=16_000, return_tensors="np")["input_features"]
        return np.asarray(features).reshape(-1, 64), min(len(samples) / 16_000, 10.0)

    yield from numpy_batches(directory, log_mel)


def numpy_batches(directory: Path, log_mel: Callable[[Path], tuple[np.ndarray, float]]) -> Iterator[float]:
    """Pads log-mels and tokens to the longest clip of each batch."""
    files = sorted((directory / "files").iterdir())
    captions = json.loads((directory / "captions.json").read_text())
    tokenizer = load_tokenizer(directory / "tokenizer.model")
    order = endless_order(len(files))
    while True:
        chosen = [next(order) for _ in range(BATCH)]
        mels, seconds = zip(*(log_mel(files[index]) for index in chosen), strict=True)
        texts = [tokenizer.encode(captions[index][0], MAX_TOKENS) for index in chosen]
        batch = np.zeros((BATCH, max(map(len, mels)), 64), np.float32)
        tokens = np.full((BATCH, max(map(len, texts))), PAD, np.int32)
        for number, (mel, text) in enumerate(zip(mels, texts, strict=True)):
            batch[number, : len(mel)] = mel
            tokens[number, : len(text)] = text
        yield sum(seconds)


PEERS: dict[str, Callable[[Path], Iterator[float]]] = {
    "torch_dataloader": torch_dataloader,
    "librosa": librosa_numpy,
    "transformers_clap_feature_extractor": clap_feature_extractor,
}
