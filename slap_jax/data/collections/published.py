"""The interface of published data sets: the publisher's files in a local folder, listed as a collection.

`data/datasets/` has one implementation per data set. Besides its clips, a published data set states the facts that
`slap prepare` stores and `slap data check` compares with: version, licence, citation, and the size of each split.
"""

import abc
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from slap_jax.data.collections.entries import Entry, Rejection
from slap_jax.errors import UserError


class LayoutError(UserError, ValueError):
    """A folder that is not laid out as its publisher lays it out; the message shows what was expected and found."""


@dataclasses.dataclass(frozen=True)
class Expected:
    """The published size of a split.

    Attributes:
        clips: number of clips.
        captions: captions per clip, 0 if the data set has labels only.
        hours: of audio, None if the publisher does not state it.
    """

    clips: int
    captions: int = 0
    hours: float | None = None


class PublishedDataset(abc.ABC):
    """A data set as its publisher lays it out in a local folder; nothing is ever downloaded.

    Class attributes:
        name: of the data set, the `source` of its records, and the folder that they are written to.
        version: of the publisher, as three numbers.
        title: full name.
        homepage: where to get it.
        licence: of audio and annotations, in one line.
        citation: of the paper.
        expected: split -> its published size.
        layout: the folder as a tree, one path per line, for messages and documentation.
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
        """Reads nothing.

        Args:
            root: folder as the publisher lays it out.
            **options: values for some of `options`.

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
            LayoutError: a metadata file is missing, or its columns are not those of the publisher.
        """

    def require(self, *alternatives: str) -> Path:
        """Returns the first of several paths below the root that exists.

        Raises:
            LayoutError: none exists.
        """
        for alternative in alternatives:
            if (self.root / alternative).exists():
                return self.root / alternative
        raise LayoutError(
            f"{self.root} has no {' or '.join(alternatives)}; {self.title} from {self.homepage} is laid out as\n"
            f"{self.layout}"
        )
