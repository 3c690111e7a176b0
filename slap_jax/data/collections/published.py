"""The base class of published datasets: facts about what the publisher distributes, and a reader of its files."""

import abc
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from slap_jax.data.collections.entries import Entry, Rejection
from slap_jax.errors import UserError


class LayoutError(UserError, ValueError):
    """A folder whose layout differs from the publisher's; the message shows what was expected and what was found."""


@dataclasses.dataclass(frozen=True)
class Expected:
    """The published size of a split.

    Attributes:
        clips: number of clips.
        captions: captions per clip, the minimum where it varies; 0 for datasets with labels only.
        hours: hours of audio; None if unknown.
    """

    clips: int
    captions: int = 0
    hours: float | None = None


class PublishedDataset(abc.ABC):
    """A dataset in a local folder, laid out as its publisher distributes it. Nothing is ever downloaded.

    `slap_jax.data.datasets.docs_page` generates docs/datasets.md from the class attributes.

    Attributes:
        name: name of the dataset, of its output folder, and the `source` of its records.
        version: the publisher's version as three numbers.
        title: full name.
        homepage: where to get it.
        licence: licence of audio and annotations, in one line.
        citation: citation of the paper.
        content: the clips, in a few words.
        annotations: the captions, labels and regions, in a few words.
        expected: split -> published size.
        size_source: where the sizes come from.
        layout: the folder as a tree, one path per line, for messages and documentation.
        options: option -> default.
        option_help: option -> meaning, in Markdown.
        notes: what users should know, as a Markdown list.
    """

    name: ClassVar[str]
    version: ClassVar[str]
    title: ClassVar[str]
    homepage: ClassVar[str]
    licence: ClassVar[str]
    citation: ClassVar[str]
    content: ClassVar[str] = ""
    annotations: ClassVar[str] = ""
    expected: ClassVar[Mapping[str, Expected]]
    size_source: ClassVar[str] = ""
    layout: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}
    option_help: ClassVar[Mapping[str, str]] = {}
    notes: ClassVar[str] = ""

    def __init__(self, root: Path, **options: Any):
        """Checks the folder and the options; reads no file.

        Args:
            root: the folder, laid out as `layout` shows.
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
            raise LayoutError(f"{self.name} has no option {unknown[0]!r}; known options: {known}")
        self.settings = {**self.options, **options}

    @abc.abstractmethod
    def entries(self) -> Iterator[Entry | Rejection]:
        """Lists the clips in the publisher's order; a clip whose audio is missing is a rejection, never an error.

        Raises:
            LayoutError: a metadata file is missing or lacks a column.
        """

    def require(self, *alternatives: str) -> Path:
        """Returns the first of some paths below the root that exists.

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
