"""Every setting with its default, the settings of one source of clips, and sizes that follow from them."""

import math
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from slap_jax.config.rules import require

# What `source(..., objectives=...)` and `source(..., captions=...)` may change.
OBJECTIVE_FACTORS: Mapping[str, float] = {
    "contrastive": 1.0,
    "distillation": 1.0,
    "captioning": 1.0,
    "classification": 1.0,
}
CAPTION_POLICY: Mapping[str, Any] = {
    "choice": "uniform",  # uniform | first | by_length
    "paraphrase_probability": 0.0,  # first only: of using one of the other captions
    "length_bounds": (8, 20),  # by_length only: the most words of a short and of a medium caption
    "length_shares": (1.0, 1.0, 1.0),  # by_length only: weights of short, medium and long captions
    "tag_probability": 0.0,  # of a caption made from the labels; a clip without captions always gets one
    "tag_templates": ("{}", "the sound of {}", "a recording of {}", "{} can be heard"),
    "tag_keys": ("label",),  # keys of the labels "key=value" to use; () for every key. Plain words always count
}


def default_config() -> ConfigDict:
    """Returns a new config with the paper's values; `docs/configuration.md` gives the reason for all others."""
    config = ConfigDict()
    config.seed = 0
    config.init_from = ""  # a run, checkpoint or export directory whose parameters a new run starts from
    config.init_text_from = ""  # a Hugging Face folder of ModernBERT whose weights the text tower starts from

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
            mean=-5.0,  # of the log-mel; `slap stats` prints both for a dataset
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
            evaluation=ConfigDict(),  # name -> source(...): each evaluated separately
            tokenizer="",  # a SentencePiece .model file, or a Hugging Face tokenizer.json
            rows=256,  # R, of the global batch
            columns=512,  # C
            slots=32,  # K
            text_tokens=1_024,  # T
            max_seconds=30.0,
            max_caption_tokens=128,
            virtual_shards=8,  # D
            packing_bins=16,
            read_threads=0,  # threads that read ahead from slow storage
            decode_threads=4,
            workers=0,  # processes that read, decode and pack; 0: threads of the training process
            prefetch=2,
            allow_mismatch=False,
            augment=ConfigDict(
                dict(
                    lead_in_seconds=1.5,  # longest silence before a clip; 0: none
                    gain_db=18.0,  # largest gain, up or down; never above full scale
                    noise_dir="",
                    noise_probability=0.0,
                    noise_snr_db=(5.0, 30.0),  # lowest, highest
                    room_dir="",  # folder of impulse responses
                    room_probability=0.0,
                )
            ),
        )
    )

    config.model = ConfigDict(
        dict(
            embed_dim=512,  # E
            vocab_size=32_000,
            pad_id=0,  # the three ids are the tokenizer's
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
                    rope_base_local=placeholder(float),  # for the local layers; None: rope_base
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
                    block=1_024,  # clips and captions that are scored at a time
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
                    teacher_temperature_warmup=0.1,  # fraction of all steps
                    freeze_last_layer=0.01,  # fraction of all steps
                    momentum_start=0.994,
                    sinkhorn_iterations=3,
                    token_chunk=256,  # masked patches of a row that are scored at a time; 0: all
                )
            ),
            captioning=ConfigDict(
                dict(
                    weight=0.5,
                    vocabulary_chunk=8_192,  # vocabulary tokens whose logits are computed at a time
                )
            ),
            classification=ConfigDict(
                dict(
                    weight=0.0,
                    label="",  # key of the labels "key=value" whose values are the classes
                    classes=(),  # in the order of the head's outputs; `slap finetune` reads them from the data
                    multi_label=False,  # False: one class for each clip (softmax); True: any number (sigmoids)
                    class_weights=(),  # one for each class; () weights all classes equally
                    mixup_probability=0.0,  # that another clip is mixed into a clip
                    mixup_alpha=1.0,  # mixing proportions are drawn from Beta(alpha, alpha)
                )
            ),
        )
    )

    config.optimizer = ConfigDict(
        dict(
            learning_rate=1e-4,
            schedule="cosine",  # cosine | wsd | constant
            warmup_steps=2_000,
            decay_fraction=0.2,  # wsd: fraction of the steps over which the rate decays
            final_factor=0.0,
            b1=0.9,
            b2=0.95,
            eps=1e-8,
            weight_decay=0.05,  # matrices only
            clip_norm=1.0,
            learning_rate_factors=(),  # ((path regex, factor), ...): the first that matches; 0 freezes
            layer_decay=1.0,  # learning-rate factor from each encoder layer to the one below it
            max_bad_steps=10,  # non-finite steps in a row after which the run stops
        )
    )
    config.train = ConfigDict(
        dict(
            steps=100_000,
            accumulate=1,  # parts of the batch that are computed one after the other; the gradient is exact
            log_every=10,
            evaluate_every=0,
            suite="",  # also evaluate the sets of this suite, as `slap evaluate --suite` does
            suite_data="",  # directory of their prepared data
            best_metric="",  # like retrieval/val/t2a_r1: the step with its best value is kept
            patience=0,  # evaluations without improvement after which the run ends; 0: never
            peak_flops_per_device=0.0,
            profile_start=0,  # first step of the profile
            profile_steps=0,  # length of the profile; 0: none
            watchdog_seconds=1_800.0,  # without a finished step, after which stack traces are written; 0: never
        )
    )
    config.checkpoint = ConfigDict(dict(every=1_000, keep=3))
    config.parallel = ConfigDict(dict(data=-1, fsdp=1, tensor=1))
    config.distributed = ConfigDict(
        dict(
            initialization_timeout=600,  # seconds to wait for all processes at start-up
            heartbeat_timeout=100,  # seconds of silence after which a process counts as lost and the others exit
        )
    )
    config.metrics = ConfigDict(dict(tensorboard=True))
    return config


def source(
    path: str,
    split: str,
    weight: float = 1.0,
    label: str = "",
    objectives: Mapping[str, float] | None = None,
    captions: Mapping[str, Any] | None = None,
) -> ConfigDict:
    """Describes one prepared dataset for `config.data.train` or `config.data.evaluation`.

    Args:
        path: directory that `slap prepare` wrote.
        split: one of its splits, or several joined by "+".
        weight: weight in the training mixture, relative to the other sources.
        label: evaluation only; the key of `labels` that zero-shot classification predicts, "" for none.
        objectives: training only; the weight of this source's clips in each objective, relative to the other
            sources. Objectives that are not given have weight 1; weight 0 hides the clips from the objective.
        captions: training only; how a caption is chosen for each clip: the entries of `CAPTION_POLICY` to change.

    Raises:
        ConfigError: `objectives` or `captions` has an unknown key.
    """
    factors = {key: float(factor) for key, factor in (objectives or {}).items()}
    return ConfigDict(
        dict(
            path=path,
            split=split,
            weight=float(weight),
            label=label,
            objectives=_complete("objectives", OBJECTIVE_FACTORS, factors),
            captions=_complete("captions", CAPTION_POLICY, captions or {}),
        )
    )


def samples_per_column(audio: ConfigDict) -> int:
    """Returns the samples in one time column (2,560 with the paper's settings)."""
    return audio.frames_per_column * audio.hop_length


def patches_per_column(audio: ConfigDict) -> int:
    """Returns F, the frequency patches in one column."""
    return audio.mels // audio.mels_per_patch


def columns_of(seconds: float, audio: ConfigDict) -> int:
    """Returns the columns of a clip: `max(1, ceil(samples / samples_per_column))`."""
    return max(1, math.ceil(round(seconds * audio.sample_rate) / samples_per_column(audio)))


def classes_in_batch(config: ConfigDict) -> int:
    """Returns Y, the classes whose labels are in the batch; 0 unless classification is trained."""
    settings = config.objectives.classification
    return len(settings.classes) if settings.weight > 0 else 0


def mesh_sizes(parallel: ConfigDict, device_count: int) -> tuple[int, int, int]:
    """Returns the sizes of the mesh axes data, fsdp and tensor.

    Args:
        parallel: `config.parallel`; one axis may be -1 and takes the devices that the others leave.
        device_count: devices over all hosts.

    Raises:
        ConfigError: two axes are -1, or the sizes do not multiply to `device_count`.
    """
    sizes = [parallel[axis] for axis in ("data", "fsdp", "tensor")]
    fixed = math.prod(size for size in sizes if size != -1)
    free = sizes.count(-1)
    require(free <= 1, f"config.parallel={dict(parallel)} has -1 for {free} axes; write it for one axis at most")
    require(
        device_count % fixed == 0 and (free == 1 or fixed == device_count),
        f"config.parallel={dict(parallel)} describes {fixed} devices, but there are {device_count}; write sizes whose "
        f"product is {device_count}, or -1 for one axis",
    )
    data, fsdp, tensor = (device_count // fixed if size == -1 else size for size in sizes)
    return data, fsdp, tensor


def _complete(name: str, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> ConfigDict:
    for key in given:
        require(
            key in defaults,
            f"source(..., {name}={{{key!r}: ...}}) is not a setting; it takes: {', '.join(defaults)}",
        )
    return ConfigDict({**defaults, **given})
