"""Defaults of every setting, and the checks that an impossible setting fails before anything is built."""

import math
import re

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from slap_jax.config_argument import parse_arg
from slap_jax.config_checks import ConfigError, check_choice, check_keys, require
from slap_jax.config_classification_checks import validate_classification
from slap_jax.config_data_checks import validate_data
from slap_jax.config_sizes import classes_in_batch, columns_of, patches_per_column, samples_per_column
from slap_jax.config_source import source
from slap_jax.config_tower_checks import validate_towers

__all__ = [
    "ConfigError",
    "classes_in_batch",
    "columns_of",
    "default_config",
    "parse_arg",
    "patches_per_column",
    "samples_per_column",
    "source",
    "validate",
]


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


def validate(config: ConfigDict, process_count: int = 1, device_count: int | None = None) -> None:
    """Checks a config before anything is built.

    Args:
        config: what a config file returned, overrides applied.
        process_count: hosts that will run it.
        device_count: devices over all hosts; None skips the checks of the mesh.

    Raises:
        ConfigError: names the setting, the value found and what to write instead.
    """
    check_keys(config, default_config(), named_by_user=("config.data.train", "config.data.evaluation"))
    check_choice(config, "objectives.contrastive.form", ("softmax", "sigmoid"))
    check_choice(config, "objectives.distillation.view", ("separate", "shared"))
    check_choice(config, "optimizer.schedule", ("cosine", "wsd", "constant"))
    validate_model(config)
    _validate_objectives(config)
    validate_classification(config)
    validate_data(config, process_count)
    _validate_training(config)
    if device_count is not None:
        _validate_mesh(config, device_count)


def validate_model(config: ConfigDict) -> None:
    """Rejects a front end and towers that cannot be; all that an export says of a model.

    Raises:
        ConfigError: as `validate`.
    """
    check_choice(config, "audio.dft", ("auto", "matmul", "rfft"))
    check_choice(config, "model.compute_dtype", ("bfloat16", "float32"))
    check_choice(config, "model.attention", ("auto", "dense", "blocked", "chunked", "splash", "flash"))
    check_choice(config, "model.remat", ("none", "dots", "full"))
    audio = config.audio
    require(
        audio.mels % audio.mels_per_patch == 0,
        f"config.audio.mels is {audio.mels}, not a multiple of config.audio.mels_per_patch={audio.mels_per_patch}",
    )
    require(
        audio.window_length <= audio.n_fft,
        f"config.audio.window_length is {audio.window_length}, longer than config.audio.n_fft={audio.n_fft}",
    )
    require(
        audio.n_fft <= samples_per_column(audio),
        f"config.audio.n_fft is {audio.n_fft}, longer than a column of {samples_per_column(audio)} samples",
    )
    require(audio.std > 0, f"config.audio.std is {audio.std}; write the positive value that `slap stats` prints")
    validate_towers(config)


def _validate_objectives(config: ConfigDict) -> None:
    for name, objective in config.objectives.items():
        require(objective.weight >= 0, f"config.objectives.{name}.weight is {objective.weight}; write 0 or more")
    require(
        any(objective.weight > 0 for objective in config.objectives.values()),
        "every config.objectives.*.weight is 0: nothing would be trained; set at least one above 0",
    )
    block = config.objectives.contrastive.block
    require(block >= 1, f"config.objectives.contrastive.block is {block}; write 1 or more")
    distillation = config.objectives.distillation
    for name, least in (("token_chunk", 0), ("sinkhorn_iterations", 1)):
        value = distillation[name]
        require(value >= least, f"config.objectives.distillation.{name} is {value}; write {least} or more")
    ratio = distillation.mask_ratio
    require(0 < ratio < 1, f"config.objectives.distillation.mask_ratio is {ratio}; write a value between 0 and 1")


def _validate_training(config: ConfigDict) -> None:
    optimizer = config.optimizer
    require(config.train.steps >= 1, f"config.train.steps is {config.train.steps}; write 1 or more")
    parts = config.train.accumulate
    require(
        parts >= 1 and config.data.rows % parts == 0,
        f"config.train.accumulate is {parts}; write 1 or more, a divisor of config.data.rows={config.data.rows}",
    )
    for name in ("profile_start", "profile_steps", "watchdog_seconds"):
        require(config.train[name] >= 0, f"config.train.{name} is {config.train[name]}; write 0 (for none) or more")
    best = config.train.best_metric
    require(
        config.train.patience >= 0,
        f"config.train.patience is {config.train.patience}; write evaluations to wait, or 0 for no early stopping",
    )
    require(
        best != "" or config.train.patience == 0,
        f"config.train.patience is {config.train.patience}, but config.train.best_metric is empty; name the metric, "
        "like retrieval/val/t2a_r1",
    )
    require(
        best == ""
        or (config.train.evaluate_every > 0 and (len(config.data.evaluation) > 0 or config.train.suite != "")),
        f"config.train.best_metric is {best!r}, but nothing is evaluated in the loop; set config.train.evaluate_every "
        "and config.data.evaluation",
    )
    require(
        (config.train.suite == "") == (config.train.suite_data == ""),
        f"config.train.suite is {config.train.suite!r} and suite_data is {config.train.suite_data!r}; name both, the "
        "suite and the directory of its prepared data, or neither",
    )
    for name, seconds in config.distributed.items():
        require(seconds >= 1, f"config.distributed.{name} is {seconds}; write the seconds to wait, 1 or more")
    require(config.train.log_every >= 1, f"config.train.log_every is {config.train.log_every}; write 1 or more")
    require(config.checkpoint.every >= 1, f"config.checkpoint.every is {config.checkpoint.every}; write 1 or more")
    require(
        optimizer.warmup_steps <= config.train.steps,
        f"config.optimizer.warmup_steps is {optimizer.warmup_steps}, more than config.train.steps={config.train.steps}",
    )
    require(
        0 < optimizer.layer_decay <= 1,
        f"config.optimizer.layer_decay is {optimizer.layer_decay}; write a value above 0, at most 1",
    )
    for rule in optimizer.learning_rate_factors:
        require(
            len(rule) == 2,
            f"config.optimizer.learning_rate_factors holds {rule!r}; write (path regex, factor) pairs",
        )
        try:
            re.compile(rule[0])
        except re.error as error:
            raise ConfigError(f"config.optimizer.learning_rate_factors: {rule[0]!r} is not a regex: {error}") from None


def _validate_mesh(config: ConfigDict, device_count: int) -> None:
    sizes = dict(config.parallel)
    fixed = math.prod(size for size in sizes.values() if size != -1)
    open_axes = [axis for axis, size in sizes.items() if size == -1]
    require(
        len(open_axes) <= 1, f"config.parallel has -1 for {' and '.join(open_axes)}; only one axis may take the rest"
    )
    require(
        device_count % fixed == 0 and (bool(open_axes) or fixed == device_count),
        f"config.parallel={sizes} does not divide {device_count} devices",
    )
    batch_ways = device_count // sizes["tensor"] if open_axes != ["tensor"] else sizes["data"] * sizes["fsdp"]
    require(
        config.data.rows % batch_ways == 0,
        f"config.data.rows is {config.data.rows}, not a multiple of the {batch_ways} devices over which rows are split "
        "(data x fsdp)",
    )
    parts = config.train.accumulate
    require(
        config.data.rows % (batch_ways * parts) == 0,
        f"config.data.rows is {config.data.rows}: config.train.accumulate={parts} parts on {batch_ways} devices need a "
        f"multiple of {batch_ways * parts}",
    )
