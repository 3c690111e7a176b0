"""Suites of evaluation sets, and the usual protocol of each set: split, classes, prompts, folds.

`SETS` is the whole protocol. Its sources are WavCaps (arXiv 2303.17395) for retrieval; LAION-CLAP ("This is a sound of
{}."), EVAR (github.com/nttcslab/eval-audio-repr: "... can be heard", and a sentence for each emotion of CREMA-D),
MS-CLAP (RAVDESS) and GLAP (bare words of Speech Commands) for prompts; and the publishers for folds and splits.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from slap_jax.config.rules import ConfigError
from slap_jax.data.audio import AudioError
from slap_jax.data.datasets.registry import DATASETS
from slap_jax.data.evaluation_set import load_evaluation
from slap_jax.data.records import RecordsError
from slap_jax.evaluation.clip_set import TextEncoding, label_folds, parts_of_split, read_clip_set
from slap_jax.evaluation.scorer import filter_supported
from slap_jax.evaluation.task import (
    EvaluationTask,
    captioning_task,
    frames_task,
    probe_task,
    retrieval_task,
    zero_shot_task,
)
from slap_jax.inference.prompts import ZeroShotError

SUITES = ("paper", "retrieval", "zero_shot", "captioning", "probe", "frames", "all")


@dataclasses.dataclass(frozen=True)
class SuiteSet:
    """One row of a suite.

    Attributes:
        name: key of the results.
        kind: kind of the measure.
        dataset: name for `slap prepare --dataset`.
        split: split of the prepared data, several joined by "+".
        folder: folder below the data directory; "" for the name of the dataset.
        template: the usual prompt.
        ensemble: name of a prompt ensemble, which is reported too.
        words: class -> text that replaces its name in the prompts.
        other_classes: further candidates that no clip of the split has.
        folds: key of the label that defines folds, and their number; see `label_folds`.
        test_part: split that a probe is tested on.
        paper: whether the SLAP paper reports it.
    """

    name: str
    kind: str
    dataset: str
    split: str
    folder: str = ""
    template: str = ""
    ensemble: str = "ensemble"
    words: Mapping[str, str] = dataclasses.field(default_factory=dict)
    other_classes: Sequence[str] = ()
    folds: tuple[str, int] | None = None
    test_part: str = ""
    paper: bool = False

    @property
    def n_classes(self) -> int | None:
        """Classes of the published set; None if clips are not classified."""
        return _CLASSES.get(self.dataset) if self.kind.startswith(("zero_shot", "probe")) else None

    @property
    def n_published(self) -> int:
        """Clips of the published splits."""
        return sum(DATASETS[self.dataset].expected[split].clips for split in self.split.split("+"))

    def prepare_command(self, data_dir: str | Path) -> str:
        """Returns the command that prepares the data; the publisher's folder is left to fill in."""
        has_splits = "splits" in DATASETS[self.dataset].options
        splits = f" --option splits={self.split}" if has_splits else ""
        return f"slap prepare PUBLISHERS_FOLDER {self.path(data_dir)} --dataset {self.dataset}{splits}"

    def path(self, data_dir: str | Path) -> Path:
        """Returns the directory of the prepared data."""
        return Path(data_dir) / (self.folder or self.dataset)


_SOUND = "This is a sound of {}."
_HEARD = "{} can be heard"
_FIVE = "+".join(f"fold{fold}" for fold in range(1, 6))
_TEN = "+".join(f"fold{fold}" for fold in range(1, 11))
_EMOTIONS = {
    "anger": "angry person talking",
    "disgust": "someone talking in disgust",
    "fear": "someone talking with a sense of fear",
    "happy": "someone talking happily and joyfully",
    "neutral": "someone talking calmly",
    "sad": "someone talking sadly",
}

SETS: Sequence[SuiteSet] = (
    SuiteSet("audiocaps", "retrieval", "audiocaps", "test", paper=True),
    SuiteSet("clotho", "retrieval", "clotho", "evaluation", paper=True),
    SuiteSet("audiocaps", "captioning", "audiocaps", "test", paper=True),
    SuiteSet("clotho", "captioning", "clotho", "evaluation", paper=True),
    SuiteSet("esc50", "zero_shot", "esc50", _FIVE, template=_SOUND, folds=("fold", 0), paper=True),
    SuiteSet("urbansound8k", "zero_shot", "urbansound8k", _TEN, template=_SOUND, folds=("fold", 0), paper=True),
    SuiteSet("crema_d", "zero_shot", "crema_d", "full", template=_HEARD, words=_EMOTIONS, paper=True),
    SuiteSet(
        "ravdess",
        "zero_shot",
        "ravdess",
        "speech",
        template="this person is feeling {}",
        ensemble="ensemble_emotion",
        paper=True,
    ),
    SuiteSet(
        "gtzan",
        "zero_shot",
        "gtzan",
        "test",
        folder="gtzan_filtered",
        template="{} music can be heard",
        ensemble="ensemble_music",
        paper=True,
    ),
    SuiteSet(
        "gtzan_all",
        "zero_shot",
        "gtzan",
        "full",
        template="{} music can be heard",
        ensemble="ensemble_music",
        paper=True,
    ),
    SuiteSet("vggsound", "zero_shot", "vggsound", "test", template=_SOUND),
    SuiteSet(
        "nsynth",
        "zero_shot",
        "nsynth",
        "test",
        template="the musical instrument sound of {} can be heard",
        ensemble="ensemble_instrument",
        other_classes=("synth lead",),
    ),
    SuiteSet("speech_commands", "zero_shot", "speech_commands", "test", template="{}", ensemble="ensemble_word"),
    SuiteSet("fsd50k", "zero_shot_multi_label", "fsd50k", "eval", template=_HEARD),
    SuiteSet("audioset", "zero_shot_multi_label", "audioset", "eval", template=_HEARD),
    SuiteSet("esc50", "probe", "esc50", _FIVE, folds=("fold", 0)),
    SuiteSet("urbansound8k", "probe", "urbansound8k", _TEN, folds=("fold", 0)),
    SuiteSet("gtzan", "probe", "gtzan", "train+valid+test", folder="gtzan_filtered", test_part="test"),
    # These two have no official folds; folds of actors keep every voice in a single fold.
    SuiteSet("crema_d", "probe", "crema_d", "full", folds=("actor", 5)),
    SuiteSet("ravdess", "probe", "ravdess", "speech", folds=("actor", 4)),
    SuiteSet("vggsound", "probe", "vggsound", "train+test", test_part="test"),
    SuiteSet("nsynth", "probe", "nsynth", "train+test", test_part="test"),
    SuiteSet("speech_commands", "probe", "speech_commands", "train+test", test_part="test"),
    SuiteSet("fsd50k", "probe", "fsd50k", "train+val+eval", test_part="eval"),
    SuiteSet("audioset", "probe", "audioset", "balanced_train+eval", test_part="eval"),
    SuiteSet("audioset", "frames", "audioset", "eval"),
    SuiteSet("tacos", "frames", "tacos", "test"),
)

_MULTI_LABEL = ("fsd50k", "audioset")
_WITHOUT_LABEL = {"retrieval": retrieval_task, "captioning": captioning_task, "frames": frames_task}

# Classes of the published sets. A set with fewer, because clips are missing, is easier.
_CLASSES = {
    "esc50": 50,
    "urbansound8k": 10,
    "crema_d": 6,
    "ravdess": 8,
    "gtzan": 10,
    "vggsound": 309,
    "nsynth": 11,
    "speech_commands": 35,
    "fsd50k": 200,
    "audioset": 527,
}


def suite_sets(suite: str) -> list[SuiteSet]:
    """Returns the rows of a suite.

    Raises:
        ConfigError: the suite is unknown.
    """
    if suite not in SUITES:
        raise ConfigError(f"there is no suite {suite!r}; choose one of {', '.join(SUITES)}")
    if suite == "all":
        return list(SETS)
    if suite == "paper":
        return [row for row in SETS if row.paper]
    return [row for row in SETS if row.kind.removesuffix("_multi_label") == suite]


def load_suite(
    rows: Sequence[SuiteSet], data_dir: str | Path, tokenizer: TextEncoding, max_tokens: int
) -> tuple[list[EvaluationTask], dict[str, str]]:
    """Opens the sets of a suite that are prepared.

    Args:
        rows: result of `suite_sets`.
        data_dir: contains a folder for each dataset, as written by `slap prepare`.
        tokenizer: tokenizer of the model.
        max_tokens: `config.data.max_caption_tokens`.

    Returns:
        The tasks, and "NAME, KIND" -> reason and advice for each set that cannot be evaluated.
    """
    tasks, missing = [], {}
    for row in rows:
        try:
            tasks.append(_task(row, str(row.path(data_dir)), tokenizer, max_tokens))
        except (RecordsError, ConfigError, ZeroShotError, AudioError) as error:
            reason = str(error) if row.path(data_dir).is_dir() else f"{row.path(data_dir)} does not exist"
            missing[f"{row.name}, {row.kind}"] = f"{reason}; prepare it with `{row.prepare_command(data_dir)}`"
    return tasks, missing


def loop_tasks(config: ConfigDict, tokenizer: TextEncoding) -> tuple[list[EvaluationTask], dict[str, tuple[str, str]]]:
    """Opens the sets of `config.train.suite` for the training loop; logs a warning for each that cannot be evaluated.

    Args:
        config: config of the run.
        tokenizer: tokenizer of the run.

    Returns:
        The tasks, and "suite SET, KIND" -> (path, split) of the data that the run must not be trained on.

    Raises:
        ConfigError: the suite is unknown, none of its sets can be evaluated, or a set has the name of a set of the
            config.
    """
    suite, data_dir = config.train.suite, config.train.suite_data
    if not suite:
        return [], {}
    rows = suite_sets(suite)
    tasks, missing = load_suite(rows, data_dir, tokenizer, config.data.max_caption_tokens)
    tasks, unsupported = filter_supported(tasks, decoder=config.objectives.captioning.weight > 0)
    for name, reason in (missing | unsupported).items():
        logging.warning("suite %s: %s is not evaluated: %s", suite, name, reason)
    if not tasks:
        raise ConfigError(
            f"config.train.suite is {suite!r}, and none of its sets "
            f"({', '.join(sorted({row.dataset for row in rows}))}) can be evaluated: they are not prepared in "
            f"config.train.suite_data={data_dir!r}, or the warnings above say what is missing; see docs/evaluation.md"
        )
    taken = {task.name for task in tasks} & set(config.data.evaluation)
    if taken:
        raise ConfigError(
            f"config.data.evaluation.{min(taken)} has the name of a set of suite {suite!r}; give it another name, or "
            "remove it"
        )
    opened = {(task.name, *task.kinds) for task in tasks}
    data = {  # a probe may train on splits that the run was trained on too
        f"suite {row.name}, {row.kind}": (str(row.path(data_dir)), row.test_part or row.split)
        for row in rows
        if (row.name, row.kind) in opened
    }
    return tasks, data


def _task(row: SuiteSet, path: str, tokenizer: TextEncoding, max_tokens: int) -> EvaluationTask:
    clips = load_evaluation(path, row.split)
    data = read_clip_set(row.name, clips, tokenizer, max_tokens, row.split, row.n_published)
    if row.kind in _WITHOUT_LABEL:
        return _WITHOUT_LABEL[row.kind](data)
    multi_label = row.dataset in _MULTI_LABEL
    folds = label_folds(data, *row.folds) if row.folds else ()
    if row.kind == "probe":
        parts = parts_of_split(path, row.split) if row.test_part else folds
        return probe_task(data, "label", parts, row.test_part, multi_label=multi_label, n_published=row.n_classes)
    return zero_shot_task(
        data,
        "label",
        (row.template, row.ensemble),
        multi_label=multi_label,
        words=row.words,
        other_classes=row.other_classes,
        folds=folds,
        n_published=row.n_classes,
    )
