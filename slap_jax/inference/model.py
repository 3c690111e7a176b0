"""The Python API of a trained model: audio and text in; embeddings, classes, captions and moments out.

Every method takes one clip or text as a list of one. A silent clip is an error, here as in every command, unless the
caller allows silence.
"""

import functools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from slap_jax.checkpoints.hub import find_export
from slap_jax.checkpoints.model_dir import ExportError, check_shapes, model_id
from slap_jax.checkpoints.read_model import read_model
from slap_jax.data.tokenizer import Tokenizer, load_tokenizer
from slap_jax.inference.audio_input import Audio, Recordings, as_recordings
from slap_jax.inference.bucketing import check_batch_size
from slap_jax.inference.captioner import Captioner, check_beam
from slap_jax.inference.compile_cache import use_compile_cache
from slap_jax.inference.device import choose_device
from slap_jax.inference.embedder import AudioProgram, Embedder, Output
from slap_jax.inference.long_audio import (
    WHOLE,
    Frames,
    Scores,
    WindowCaptions,
    Windows,
    WindowSpec,
    column_outputs,
    context_windows,
    longest_clip,
    mean_embedding,
    mean_over_segments,
    outputs_per_recording,
    regular_windows,
    segment_times,
    windows_of_training,
)
from slap_jax.inference.own_process import require_own_process
from slap_jax.inference.pickled import host_params, unpickled_model
from slap_jax.inference.prompts import DEFAULT_TEMPLATE, LabelEmbeddings, label_probabilities
from slap_jax.inference.text_input import TextError, as_texts, warn_truncated


class SlapModel:
    """Embeds, compares, classifies and captions audio of any sample rate, number of channels and duration.

    Everything is deterministic: an input gives the same bits alone, in a list, and in any order (on CPU). Nothing is
    cropped or repeated.

    Attributes:
        config: config of the export.
        embed_dim: E, the size of the embeddings.
        params: on the device, `{"model": ..., "objectives": ...}`.
        source: the directory or the id on the hub that it was loaded from; "" for a model made in memory.
    """

    def __init__(
        self,
        config: ConfigDict,
        params: dict[str, Any],
        tokenizer: Tokenizer,
        device: str | None = None,
        source: str = "",
    ):
        """Wraps an in-memory model; `SlapModel.load` reads one from a directory.

        Args:
            config: `audio`, `model`, `objectives.contrastive` and `data.max_caption_tokens` are read.
            params: `{"model": ..., "objectives": ...}`; the caption decoder is optional.
            tokenizer: tokenizer of the run.
            device: see `load`.
            source: see the attribute.

        Raises:
            ExportError: the parameters do not have the shapes that the config describes.
            DeviceError: there is no such device.
            ForkError: see `require_own_process`.
        """
        require_own_process()
        self.config = config
        self.source = source
        self._device = device
        self.embed_dim: int = config.model.embed_dim
        self._tokenizer = tokenizer
        self._tokenizer_file = (Path(tokenizer.path).name, Path(tokenizer.path).read_bytes())
        self._max_tokens: int = config.data.max_caption_tokens
        self._rate: int = config.audio.sample_rate
        if tokenizer.vocab_size > config.model.vocab_size:
            raise ExportError(
                f"tokenizer {tokenizer.path} has {tokenizer.vocab_size} ids, the model only {config.model.vocab_size}; "
                "use the vocabulary that the model was trained with"
            )
        on = None if device is None else choose_device(device)
        self._embedder = Embedder(config, device=on)
        check_shapes(params["model"], self._embedder.abstract_params(), "model")
        self.params = jax.device_put({"model": params["model"], "objectives": dict(params.get("objectives", {}))}, on)
        objectives = self.params["objectives"]
        self._labels = LabelEmbeddings()
        self._captioners: dict[int, Captioner] = {}  # by beam width
        self._decoder_params = objectives.get("captioning", {}).get("decoder")
        if self._decoder_params is not None:
            self._captioners[1] = Captioner(self._embedder, self._max_tokens)
            check_shapes(self._decoder_params, self._captioners[1].abstract_params, "caption decoder")
        contrastive = objectives.get("contrastive", {})
        scale = float(np.exp(contrastive["log_scale"])) if "log_scale" in contrastive else 1 / 0.07
        self._scale = min(scale, float(config.objectives.contrastive.max_scale))

    @classmethod
    def load(
        cls,
        source: str | os.PathLike[str],
        compute_dtype: str | None = None,
        device: str | None = None,
        revision: str | None = None,
    ) -> "SlapModel":
        """Reads an export, or the newest checkpoint of a run.

        Args:
            source: directory that `slap export` or `slap train` wrote, or the `best` of a run; or the id "owner/name"
                or the URL of an export on the Hugging Face hub, see `slap_jax.checkpoints.hub.find_export`.
            compute_dtype: "float32" or "bfloat16"; None for the precision of training.
            device: device of JAX, such as "cpu" or "gpu:1"; None for JAX's default, an accelerator if there is one.
            revision: branch, tag or commit on the hub; None for the main branch.

        Raises:
            ExportError: a file is missing or damaged, or has another version.
            HubError: the model cannot be downloaded.
            DeviceError: there is no such device.
            ForkError: see `slap_jax.inference.own_process.require_own_process`.
        """
        exported = read_model(find_export(source, revision))
        if compute_dtype is not None:
            if compute_dtype not in ("float32", "bfloat16"):
                raise ExportError(f"compute_dtype is {compute_dtype!r}; write 'float32' or 'bfloat16'")
            exported.config.model.compute_dtype = compute_dtype
        use_compile_cache()
        return cls(exported.config, exported.params, load_tokenizer(exported.tokenizer_path), device, os.fspath(source))

    def __reduce__(self) -> tuple[Any, ...]:
        require_own_process()
        state = (self.config, host_params(self.params), self._tokenizer_file, self._device, self.source)
        return unpickled_model, (type(self), *state)

    def __repr__(self) -> str:
        size = sum(array.size for array in jax.tree.leaves(self.params))
        return (
            f"{type(self).__name__}(id={self.model_id!r}, embed_dim={self.embed_dim}, parameters={size:,}, "
            f"sample_rate={self.sample_rate}, max_seconds={self.max_seconds:g}, can_caption={self.can_caption}, "
            f"source={self.source!r})"
        )

    @property
    def sample_rate(self) -> int:
        """Sample rate of the model in Hz; audio of another rate is resampled to it."""
        return self._rate

    @property
    def max_seconds(self) -> float:
        """Duration in seconds of the longest clip that is embedded whole; longer recordings are cut into windows."""
        return longest_clip(self.config)

    @property
    def can_caption(self) -> bool:
        """Whether the model was trained with a caption decoder."""
        return self._decoder_params is not None

    @functools.cached_property
    def model_id(self) -> str:
        """A short hash of weights, settings and vocabulary; a search index identifies its model by it."""
        require_own_process()
        return model_id(self.config, self.params, self._tokenizer_file[1])

    def embed_audio(
        self,
        audio: Audio | Iterable[Audio],
        sample_rate: int | None = None,
        window_seconds: float | Literal["trained"] | None = "trained",
        *,
        batch_size: int | None = None,
        show_progress: bool = False,
        normalize: bool = True,
        allow_silence: bool = False,
    ) -> Float[np.ndarray, "n E"]:
        """Embeds clips and recordings of any length.

        Args:
            audio: one clip or several. A clip is a path, the bytes of an audio file, a pair (samples, sample rate), or
                bare samples. Samples are [n] or [n, channels], as soundfile returns them. Integers are scaled by the
                range of their type; floats have full scale 1. Channels are averaged and the rate is converted.
            sample_rate: sample rate of bare samples, in Hz.
            window_seconds: longer recordings are embedded in windows of this length. "trained" means the longest
                clips of training; None embeds every recording whole.
            batch_size: largest number of clips per program; None chooses it by device and length. A CPU runs one clip
                at a time in any case, so there the vectors do not depend on it.
            show_progress: whether to show a progress bar on standard error.
            normalize: whether the vectors have unit length. False returns the projections before that, and for a
                recording of several windows the mean of theirs, weighted by duration.
            allow_silence: whether a silent clip gets a vector, which means nothing, instead of an error.

        Returns:
            fp32 vectors, one per clip; one clip gives an array of one row.

        Raises:
            AudioError: a clip is unreadable, empty or silent, or contains NaN; the message gives its index in the list.
            WindowError: `window_seconds` is too short, or not a number.
            BatchSizeError: `batch_size` is not a positive integer.
            ForkError: the model was loaded before this process was forked.
        """
        recordings, spec = as_recordings(audio, sample_rate, allow_silence), self._window_spec(window_seconds)
        embedder, program = self._limited(batch_size), self._program("audio" if normalize else "projection")
        outputs = outputs_per_recording(embedder, program, recordings, spec, show_progress)
        mean = mean_embedding if normalize else mean_over_segments
        return np.stack([mean(parts) for parts in outputs]) if outputs else np.zeros((0, self.embed_dim), np.float32)

    def windows(
        self,
        clip: Audio,
        seconds: float = 10.0,
        hop: float | None = None,
        sample_rate: int | None = None,
        *,
        allow_silence: bool = False,
    ) -> Windows:
        """Embeds overlapping windows of one recording of any length.

        Args:
            clip: one clip, as in the list for `embed_audio`.
            seconds: length of a window.
            hop: seconds from the start of a window to the start of the next; None for half a window.
            sample_rate: sample rate of bare samples, in Hz.
            allow_silence: as for `embed_audio`.

        Returns:
            Windows that start at 0, hop, 2 hop, ...; the last one ends with the recording and may be shorter. A
            recording of up to `seconds` is one window.

        Raises:
            AudioError: see `embed_audio`.
            WindowError: unless 0 < hop <= seconds.
        """
        spec, program = regular_windows(seconds, hop, self._rate, overlap=0.5), self._program("audio")
        recording = Recordings([clip], sample_rate, False, allow_silence)
        (parts,) = outputs_per_recording(self._embedder, program, recording, spec)
        times = segment_times([segment for segment, _ in parts], self._rate)
        return Windows(*times, np.stack([vector for _, vector in parts]))

    def frames(self, clip: Audio, sample_rate: int | None = None, *, allow_silence: bool = False) -> Frames:
        """Computes dense features of one recording of any length, one for each 160 ms.

        Args:
            clip: one clip, as in the list for `embed_audio`.
            sample_rate: sample rate of bare samples, in Hz.
            allow_silence: as for `embed_audio`.

        Raises:
            AudioError: see `embed_audio`.
        """
        program, spec = self._program("frames"), self._window_spec("trained")
        recording = Recordings([clip], sample_rate, False, allow_silence)
        return Frames(*column_outputs(self._embedder, program, recording, spec, lambda columns: columns))

    def scores(
        self,
        clip: Audio,
        texts: str | Iterable[str],
        sample_rate: int | None = None,
        *,
        allow_silence: bool = False,
    ) -> Scores:
        """Computes the similarity of every 160 ms of one recording of any length with texts.

        Args:
            clip: one clip, as in the list for `embed_audio`.
            texts: as for `embed_text`.
            sample_rate: sample rate of bare samples, in Hz.
            allow_silence: as for `embed_audio`.

        Raises:
            AudioError: see `embed_audio`.
            TextError: see `embed_text`.
        """
        text = self.embed_text(texts)
        program, spec = self._program("frame_embeddings"), self._window_spec("trained")
        recording = Recordings([clip], sample_rate, False, allow_silence)
        return Scores(*column_outputs(self._embedder, program, recording, spec, lambda own: own @ text.T))

    def embed_text(
        self,
        texts: str | Iterable[str],
        *,
        batch_size: int | None = None,
        show_progress: bool = False,
        normalize: bool = True,
    ) -> Float[np.ndarray, "m E"]:
        """Embeds texts.

        A text of more than `data.max_caption_tokens` tokens is truncated, with a warning in the log.

        Args:
            texts: one text or several.
            batch_size: as for `embed_audio`.
            show_progress: as for `embed_audio`.
            normalize: as for `embed_audio`.

        Returns:
            fp32 vectors, one per text; one text gives an array of one row.

        Raises:
            TextError: `texts` is neither a string nor a list of strings, or a string is blank or not UTF-8.
            BatchSizeError: `batch_size` is not a positive integer.
            ForkError: the model was loaded before this process was forked.
        """
        texts = as_texts(texts)
        captions = [self._tokenizer.encode(text, self._max_tokens) for text in texts]
        for index, (text, tokens) in enumerate(zip(texts, captions, strict=True)):
            if len(tokens) == self._max_tokens and (length := self._tokenizer.length(text)) > self._max_tokens:
                warn_truncated(index, length, self._max_tokens)
        vectors = self._limited(batch_size).text(self.params["model"], captions, normalize, show_progress)
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            index = int(finite.argmin())
            raise TextError(f"text {index} has no finite vector: the weights are damaged, which `slap doctor` shows")
        return vectors

    @staticmethod
    def similarity(audio: Float[np.ndarray, "n E"], text: Float[np.ndarray, "m E"]) -> Float[np.ndarray, "n m"]:
        """Returns the cosine similarity, -1 to 1, of embeddings."""
        return np.asarray(audio, np.float32) @ np.asarray(text, np.float32).T

    def classify(
        self,
        audio: Audio | Iterable[Audio],
        labels: Iterable[str],
        template: str = DEFAULT_TEMPLATE,
        sample_rate: int | None = None,
        **settings: Any,
    ) -> list[dict[str, float]]:
        """Classifies clips without training: how well each label fits, relative to the other labels.

        Args:
            audio: as for `embed_audio`.
            labels: the classes; one of them is assumed to be right.
            template: a name of `slap_jax.inference.prompts.TEMPLATES`, or a prompt with {}, like "the sound of {}".
            sample_rate: as for `embed_audio`.
            **settings: `batch_size`, `show_progress` and `allow_silence`, as for `embed_audio`.

        Returns:
            For each clip label -> probability, the most probable label first; one clip gives a list of one.
            Probabilities are the softmax over the labels of the cosine similarity times the scale (inverse
            temperature) that the contrastive objective learned.

        Raises:
            AudioError: see `embed_audio`.
            ZeroShotError: there are no labels, a label occurs twice, or the template is unknown.
        """
        names, classes = self._labels.embed(labels, template, self.embed_text)
        similarity = self.similarity(self.embed_audio(audio, sample_rate, **settings), classes)
        return label_probabilities(similarity, names, self._scale)

    def caption(
        self,
        audio: Audio | Iterable[Audio],
        beam: int = 1,
        sample_rate: int | None = None,
        *,
        batch_size: int | None = None,
        show_progress: bool = False,
        allow_silence: bool = False,
    ) -> list[str]:
        """Describes each clip in words.

        A recording longer than the clips of training gets the caption of one of its windows: the one whose text
        embedding is nearest to the embedding of the recording. `caption_windows` returns all of them.

        Args:
            audio: as for `embed_audio`.
            beam: beam width; 1 is greedy decoding.
            sample_rate: as for `embed_audio`.
            batch_size: as for `embed_audio`.
            show_progress: as for `embed_audio`.
            allow_silence: as for `embed_audio`.

        Returns:
            One caption per clip; one clip gives a list of one.

        Raises:
            AudioError: see `embed_audio`.
            BatchSizeError: see `embed_audio`.
            BeamError: `beam` is not a positive integer.
            ExportError: the model has no caption decoder.
        """
        recordings, embedder = as_recordings(audio, sample_rate, allow_silence), self._limited(batch_size)
        program, spec = self._caption_program(beam), self._window_spec("trained")
        captions = []
        outputs = outputs_per_recording(embedder, program, recordings, spec, show_progress)
        for clip, parts in zip(recordings.clips, outputs, strict=True):
            texts = [self._text(ids.tolist()) for _, ids in parts]
            distinct = sorted({text for text in texts if text.strip()})
            if len(texts) > 1 and distinct:
                recording = self.embed_audio([clip], sample_rate, batch_size=batch_size, allow_silence=allow_silence)
                captions.append(distinct[int(self.similarity(recording, self.embed_text(distinct)).argmax())])
            else:
                captions.append(texts[0])
        return captions

    def caption_windows(
        self,
        clip: Audio,
        seconds: float = 10.0,
        hop: float | None = None,
        beam: int = 1,
        sample_rate: int | None = None,
        *,
        allow_silence: bool = False,
    ) -> WindowCaptions:
        """Describes the windows of one recording of any length.

        Args:
            clip: one clip, as in the list for `embed_audio`.
            seconds: length of a window.
            hop: seconds from the start of a window to the start of the next; None for windows without overlap.
            beam: as for `caption`.
            sample_rate: sample rate of bare samples, in Hz.
            allow_silence: as for `embed_audio`.

        Raises:
            AudioError: see `embed_audio`.
            BeamError: `beam` is not a positive integer.
            ExportError: the model has no caption decoder.
            WindowError: unless 0 < hop <= seconds.
        """
        spec = regular_windows(seconds, hop, self._rate)
        program = self._caption_program(beam)
        recording = Recordings([clip], sample_rate, False, allow_silence)
        (parts,) = outputs_per_recording(self._embedder, program, recording, spec)
        times = segment_times([segment for segment, _ in parts], self._rate)
        return WindowCaptions(*times, [self._text(ids.tolist()) for _, ids in parts])

    # The names that transformers gives these methods.
    from_pretrained = load
    get_audio_features = embed_audio
    get_text_features = embed_text

    def _program(self, output: Output) -> AudioProgram:
        return self._embedder.audio_program(self.params["model"], output)

    def _limited(self, batch_size: int | None) -> Embedder:
        size = check_batch_size(batch_size)
        return self._embedder if size is None else self._embedder.with_batch_size(size)

    def _caption_program(self, beam: int) -> AudioProgram:
        if self._decoder_params is None:
            raise ExportError(
                "this model has no caption decoder: it was trained with config.objectives.captioning.weight=0; train "
                "with a weight above 0 to get captions"
            )
        check_beam(beam)  # before the lookup, where 2.0 == 2
        if beam not in self._captioners:
            self._captioners[beam] = Captioner(self._embedder, self._max_tokens, beam)
        return self._captioners[beam].program(self.params["model"], self._decoder_params)

    def _text(self, ids: Sequence[int]) -> str:
        # The model may have more ids than the vocabulary has pieces; the surplus ids have no text.
        return self._tokenizer.decode([i for i in ids if i < self._tokenizer.vocab_size])

    def _window_spec(self, window_seconds: float | Literal["trained"] | None) -> WindowSpec:
        if window_seconds is None:
            return WHOLE
        if window_seconds == "trained":
            return windows_of_training(self.config)
        return context_windows(window_seconds, self._rate, self._embedder.per_column)
