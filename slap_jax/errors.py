"""The base class of every error that is meant for the user, and the check that rejects URLs as paths."""

import re


class UserError(Exception):
    """An error that the user can act on.

    Its message names the file or setting, what was found, what was expected and what to do. The `slap` command prints
    it in one line; any other exception is a bug and keeps its traceback.
    """


class UrlError(UserError):
    """A URL such as gs://bucket/data where a path is expected."""


class PathNameError(UserError):
    """A path whose name is not UTF-8."""


def is_url(text: str) -> bool:
    """Returns whether a text is a URL: everything is read from and written to mounted file systems only."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text) is not None


def require_path(text: str) -> str:
    """Returns the text.

    Raises:
        UrlError: it is a URL.
        PathNameError: it is not UTF-8, so libraries could not open it.
    """
    refuse_url(text)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PathNameError(
            f"{printable(text)} is not a path in UTF-8; rename the folder or file, or give another one"
        ) from None
    return text


def refuse_url(text: str) -> None:
    """Raises `UrlError` if a text is a URL."""
    if is_url(text):
        raise UrlError(f"{text} is a URL; mount the bucket, for example with gcsfuse, and give the path of the mount")


def printable(text: str) -> str:
    """Escapes the characters of a text that UTF-8 cannot encode, such as the undecodable bytes of a file name."""
    return text.encode(errors="backslashreplace").decode()
