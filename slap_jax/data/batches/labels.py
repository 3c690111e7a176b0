"""The classes of a clip as numbers, from its labels; and whether a run needs captions at all."""

from ml_collections import ConfigDict

from slap_jax.data.records import Record


class LabelError(ValueError):
    """Labels that the classification objective cannot use; the message says what to change."""


class LabelReader:
    """Reads which of the classes of `config.objectives.classification` a clip has.

    Attributes:
        mixup: probability that another clip is mixed in, and alpha of the Beta distribution of the shares.
    """

    def __init__(self, settings: ConfigDict):
        """Keeps the settings as plain values: looking into a config takes long."""
        self._key, self._multi_label = settings.label, settings.multi_label
        self._number = {name: number for number, name in enumerate(settings.classes)}
        self.mixup = (float(settings.mixup_probability), float(settings.mixup_alpha))

    def __call__(self, record: Record) -> tuple[int, ...]:
        """Returns the numbers of the clip's classes, ascending; () for a clip without the label.

        Raises:
            LabelError: a value that is no class, or several where one is expected.
        """
        values = class_names(record.labels, self._key)
        name = f"record {record.source}/{record.id}"
        unknown = [value for value in values if value not in self._number]
        if unknown:
            raise LabelError(
                f"{name} has {self._key}={unknown[0]}, which is none of the {len(self._number)} classes of "
                "config.objectives.classification.classes; add it there, or leave the record out"
            )
        if len(values) > 1 and not self._multi_label:
            raise LabelError(
                f"{name} has {len(values)} values of the label {self._key!r} ({', '.join(values)}); for any number of "
                "classes a clip set config.objectives.classification.multi_label=True"
            )
        return tuple(sorted(self._number[value] for value in values))


def class_names(labels: tuple[str, ...], key: str) -> list[str]:
    """Returns the distinct values of the labels "key=value", in their order."""
    pairs = (label.partition("=") for label in labels)
    return list(dict.fromkeys(value for name, separator, value in pairs if separator and name == key))


def reads_captions(config: ConfigDict) -> bool:
    """Whether captions are drawn: always, but where classification is all that is trained beside the audio tower."""
    objectives = config.objectives
    return (
        objectives.classification.weight == 0 or objectives.contrastive.weight > 0 or objectives.captioning.weight > 0
    )
