"""TODO slap_jax/data/collections/published.py"""

import abc
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from slap_jax.data.collections.entries import Entry, Rejection
from slap_jax.errors import UserError


class LayoutError(UserError, ValueError):
    """A folder that is not laid out as the publisher lays it out; the message shows what is expected and found."""


@dataclasses.dataclass(frozen=True)
class Expected:
    """What a split holds as published.

    Attributes:
        clips: number of clips.
        captions: captions of each clip, 0 where the data set has labels only.
        hours: of audio, None where the publisher does not say.
    """

    clips: int
    captions: int = 0
    hours: float | None = None


class PublishedDataset(abc.ABC):
    """A data set as its publisher lays it out in a local folder; nothing is ever downloaded.

    Class attributes:
        name: of the data set, the `source` of its records, and the folder that they are written to.
        version: the publisher's, as three numbers.
        title: full name.
        homepage: where to get it.
        licence: of audio and annotations, in one line.
        citation: of the paper.
        expected: split -> what it holds as published.
        layout: the folder as a tree, one path a line, for messages and documentation.
        options: option -> default.
    """

    name: ClassVar[str]
    version: ClassVar[str]
    title: ClassVar[str]
    homepage: ClassVar[str]
    licence: ClassVar[str]
    citation: ClassVar[str]
    expected: ClassVar[Mapping[str, Expected]]
    layout: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, root: Path, **options: Any):
        """Takes the folder; reads nothing.

        Args:
            root: as the publisher lays it out.
            **options: of `options`.

        Raises:
            LayoutError: the folder does not exist, or an option is unknown.
        """
        self.root = Path(root)
        if not self.root.is_dir():
            raise LayoutError(
                f"{root} is not a folder; expected {self.title} from {self.homepage}, laid out as\n{self.layout}"
            )
        unknown = [name for name in options if name not in self.options]
        if unknown:
            known = ", ".join(f"{name}={value}" for name, value in self.options.items()) or "none"
            raise LayoutError(f"{self.name} has no option {unknown[0]!r}; it has: {known}")
        self.settings = {**self.options, **options}

    @abc.abstractmethod
    def entries(self) -> Iterator[Entry | Rejection]:
        """Lists the clips in the publisher's order; a clip whose audio is missing is a rejection, never an error.

        Raises:
            LayoutError: a metadata file is missing or has other columns than the publisher's.
        """

    def require(self, *alternatives: str) -> Path:
        """Returns the first of some paths below the root that exists.

        Raises:
            LayoutError: none does.
        """
        for alternative in alternatives:
            if (self.root / alternative).exists():
                return self.root / alternative
        raise LayoutError(
            f"{self.root} has no {' or '.join(alternatives)}; {self.title} from {self.homepage} is laid out as\n"
            f"{self.layout}"
        )
