"""Defaults of every setting, and the checks that an impossible setting fails before anything is built.

One source of clips in the configuration: where it is, how much of it, which captions, for which objectives.

Sizes that follow from other settings.
"""

import math
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from slap_jax.config.rules import ConfigError


def default_config() -> ConfigDict:
    """Returns the base configuration: the paper's values where it gives them, else `docs/configuration.md`."""
    config = ConfigDict()
    config.seed = 0
    config.init_from = ""  # a checkpoint or export directory whose parameters start a new run
    config.init_text_from = ""  # a Hugging Face folder of ModernBERT whose weights start the text tower

    config.audio = ConfigDict(
        dict(
            sample_rate=16_000,
            n_fft=512,
            window_length=400,
            hop_length=160,
            mels=64,
            f_min=0.0,
            f_max=8_000.0,
            log_floor=1e-5,
            mean=-5.0,  # of the log-mel; `slap stats` prints both for a data set
            std=4.0,
            dft="auto",  # auto | matmul | rfft
            frames_per_column=16,
            mels_per_patch=16,
        )
    )
    config.spec_augment = ConfigDict(dict(time_masks=2, time_fraction=0.1, frequency_masks=2, frequency_bins=8))

    config.data = ConfigDict(
        dict(
            train=ConfigDict(),  # name -> source(...): the weighted mixture
            temperature=placeholder(float),  # None: the weights as given; T: weight x clips^(1/T)
            evaluation=ConfigDict(),  # name -> source(...): each evaluated by itself
            tokenizer="",  # a SentencePiece .model file, or a Hugging Face tokenizer.json
            rows=256,  # R, of the global batch
            columns=512,  # C
            slots=32,  # K
            text_tokens=1_024,  # T
            max_seconds=30.0,
            max_caption_tokens=128,
            virtual_shards=8,  # D
            packing_bins=16,
            read_threads=0,  # that read ahead, for storage that answers slowly
            decode_threads=4,
            workers=0,  # processes that read; 0: threads of this one
            prefetch=2,
            allow_mismatch=False,
            augment=ConfigDict(
                dict(
                    gain_db=0.0,  # up or down, at most
                    noise_dir="",
                    noise_probability=0.0,
                    noise_snr_db=(5.0, 30.0),  # lowest, highest
                    room_dir="",  # of impulse responses
                    room_probability=0.0,
                )
            ),
        )
    )

    config.model = ConfigDict(
        dict(
            embed_dim=512,  # E
            vocab_size=32_000,
            pad_id=0,  # the tokenizer's
            bos_id=1,
            eos_id=2,
            compute_dtype="bfloat16",  # bfloat16 | float32
            attention="auto",  # auto | dense | blocked | chunked | splash (TPU) | flash (GPU)
            remat="none",  # none | dots | full
            scan_unroll=1,  # super-blocks per scan iteration
            audio_encoder=ConfigDict(
                dict(
                    layers=12,
                    heads=12,
                    width=768,
                    mlp_width=2_048,
                    locals_per_global=2,
                    local_window=12,
                    rope_base_time=10_000.0,
                    rope_base_frequency=100.0,
                )
            ),
            text_encoder=ConfigDict(
                dict(
                    kind="scratch",  # scratch | modernbert
                    layers=12,
                    heads=12,
                    width=768,
                    mlp_width=2_048,
                    locals_per_global=0,
                    local_window=12,
                    rope_base=10_000.0,
                    rope_base_local=placeholder(float),  # of local layers; None: rope_base
                )
            ),
            caption_decoder=ConfigDict(dict(layers=8, heads=8, width=512, mlp_width=2_048, rope_base=10_000.0)),
        )
    )

    config.objectives = ConfigDict(
        dict(
            contrastive=ConfigDict(
                dict(
                    weight=1.0,
                    form="softmax",  # softmax | sigmoid
                    init_scale=placeholder(float),  # None: 1/0.07 for softmax, 10 for sigmoid
                    init_bias=-10.0,  # sigmoid only
                    max_scale=100.0,
                    block=1_024,  # captions scored at a time
                )
            ),
            distillation=ConfigDict(
                dict(
                    weight=1.0,
                    view="separate",  # separate: the other objectives see an unmasked pass; shared: the masked one
                    mask_ratio=0.5,
                    prototypes=8_192,
                    hidden=2_048,
                    bottleneck=256,
                    student_temperature=0.1,
                    teacher_temperature_start=0.04,
                    teacher_temperature_end=0.07,
                    teacher_temperature_warmup=0.1,  # share of all steps
                    freeze_last_layer=0.01,  # share of all steps
                    momentum_start=0.994,
                    sinkhorn_iterations=3,
                    token_chunk=256,  # masked patches of a row whose prototype scores exist at a time; 0: all
                )
            ),
            captioning=ConfigDict(
                dict(
                    weight=0.5,
                    vocabulary_chunk=8_192,  # tokens of the vocabulary whose logits exist at a time
                )
            ),
            classification=ConfigDict(
                dict(
                    weight=0.0,
                    label="",  # key of the labels "key=value" whose values are the classes
                    classes=(),  # in the order of the head's outputs; `slap finetune` reads them from the data
                    multi_label=False,  # False: one class for each clip, softmax; True: any number, sigmoids
                    class_weights=(),  # one for each class; () counts all alike
                    mixup_probability=0.0,  # share of the clips into which another one is mixed
                    mixup_alpha=1.0,  # the shares of the two are drawn from Beta(alpha, alpha)
                )
            ),
        )
    )

    config.optimizer = ConfigDict(
        dict(
            learning_rate=1e-4,
            schedule="cosine",  # cosine | wsd | constant
            warmup_steps=2_000,
            decay_fraction=0.2,  # wsd: the share of the steps that decays
            final_factor=0.0,
            b1=0.9,
            b2=0.95,
            eps=1e-8,
            weight_decay=0.05,  # matrices only
            clip_norm=1.0,
            learning_rate_factors=(),  # ((path regex, factor), ...): the first that matches; 0 freezes
            layer_decay=1.0,  # factor of the learning rate from each encoder layer to the one below it
            max_bad_steps=10,  # non-finite steps in a row that stop the run
        )
    )
    config.train = ConfigDict(
        dict(
            steps=100_000,
            accumulate=1,  # parts of the batch that are computed one after the other; the gradient is the whole batch's
            log_every=10,
            evaluate_every=0,
            suite="",  # of evaluation sets, as `slap evaluate --suite` names them, evaluated too
            suite_data="",  # directory of their prepared data
            best_metric="",  # of an evaluation, like retrieval/val/t2a_r1: its best step is kept
            patience=0,  # evaluations without a new best one after which the run ends; 0: never
            peak_flops_per_device=0.0,
            profile_start=0,  # first step of a profile
            profile_steps=0,  # its length; 0: none
            watchdog_seconds=1_800.0,  # without a finished step before the stacks are written; 0: never
        )
    )
    config.checkpoint = ConfigDict(dict(every=1_000, keep=3))
    config.parallel = ConfigDict(dict(data=-1, fsdp=1, tensor=1))
    config.distributed = ConfigDict(
        dict(
            initialization_timeout=600,  # seconds to wait for all processes at the start
            heartbeat_timeout=100,  # seconds of silence after which a process counts as lost and the others end
        )
    )
    config.metrics = ConfigDict(dict(tensorboard=True))
    return config


OBJECTIVE_FACTORS: Mapping[str, float] = {
    "contrastive": 1.0,
    "distillation": 1.0,
    "captioning": 1.0,
    "classification": 1.0,
}
CAPTION_POLICY: Mapping[str, Any] = {
    "choice": "uniform",  # uniform | first | by_length
    "paraphrase_probability": 0.0,  # first only: of one of the other captions
    "length_bounds": (8, 20),  # by_length only: the most words of a short and of a medium caption
    "length_shares": (1.0, 1.0, 1.0),  # by_length only: of short, medium and long captions
    "tag_probability": 0.0,  # of a caption made from the labels; a clip without captions always gets one
    "tag_templates": ("{}", "the sound of {}", "a recording of {}", "{} can be heard"),
    "tag_keys": ("label",),  # labels "key=value" that are tags; () for every key. Plain words always are
}


def source(
    path: str,
    split: str,
    weight: float = 1.0,
    label: str = "",
    objectives: Mapping[str, float] | None = None,
    captions: Mapping[str, Any] | None = None,
) -> ConfigDict:
    """Describes one prepared data set for `config.data.train` or `config.data.evaluation`.

    Args:
        path: directory that `slap prepare` wrote.
        split: which of its splits.
        weight: share in the training mixture, relative to the other sources.
        label: evaluation only; the key of `labels` that zero-shot classification predicts, "" for none.
        objectives: training only; what the clips of this source count in each objective, relative to those of the
            other sources, as far as it is not 1. With 0 an objective does not see them.
        captions: training only; which caption a clip gets, as far as it differs from `CAPTION_POLICY`.

    Raises:
        ConfigError: `objectives` or `captions` hold a name that is no setting.
    """
    return ConfigDict(
        dict(
            path=path,
            split=split,
            weight=float(weight),
            label=label,
            objectives=_complete(
                "objectives", OBJECTIVE_FACTORS, {key: float(factor) for key, factor in (objectives or {}).items()}
            ),
            captions=_complete("captions", CAPTION_POLICY, captions or {}),
        )
    )


def _complete(name: str, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> ConfigDict:
    for key in given:
        if key not in defaults:
            raise ConfigError(f"source(..., {name}={{{key!r}: ...}}) is not a setting; it takes: {', '.join(defaults)}")
    return ConfigDict({**defaults, **given})


def samples_per_column(audio: ConfigDict) -> int:
    """Samples that one time column covers (2,560 in the paper's set-up)."""
    return audio.frames_per_column * audio.hop_length


def patches_per_column(audio: ConfigDict) -> int:
    """F, the frequency patches of one column."""
    return audio.mels // audio.mels_per_patch


def columns_of(seconds: float, audio: ConfigDict) -> int:
    """Columns that a clip of that duration owns: `max(1, ceil(samples / samples_per_column))`."""
    return max(1, math.ceil(round(seconds * audio.sample_rate) / samples_per_column(audio)))


def classes_in_batch(config: ConfigDict) -> int:
    """Y, the classes whose labels are in the batch; 0 where no classification is trained."""
    settings = config.objectives.classification
    return len(settings.classes) if settings.weight > 0 else 0
