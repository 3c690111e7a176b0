"""Exports on the Hugging Face hub: a model is named by a local directory, by an id such as "owner/name", or by a URL.

`huggingface_hub` downloads and caches. Its environment variables hold: `HF_HUB_OFFLINE`, `HF_HOME`, `HF_TOKEN`,
`HF_ENDPOINT`.
"""

import json
import os
import re
from pathlib import Path

from slap_jax.checkpoints.model_dir import CARD, CONFIG, FINGERPRINT, FORMAT, TOKENIZER, TOKENIZER_JSON, WEIGHTS
from slap_jax.errors import UserError

_FILES = (CONFIG, WEIGHTS, TOKENIZER, TOKENIZER_JSON, FINGERPRINT, CARD)
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HOSTS = ("https://huggingface.co", "https://www.huggingface.co", "https://hf.co")
_URL = re.compile(rf"(?P<host>https?://[^/]+)/(?P<id>{_ID.pattern})(?:/tree/(?P<revision>[^?#]+?))?/?")


class HubError(UserError, OSError):
    """A model on the hub that cannot be downloaded."""


def find_export(source: str | os.PathLike[str], revision: str | None = None) -> Path:
    """Returns the directory of an export, downloaded if it is on the hub.

    Args:
        source: a directory; or an id "owner/name" or a URL "https://huggingface.co/owner/name" of the hub. A local
            file or directory of that name, or a local directory "owner", comes first. A path object is always local.
        revision: branch, tag or commit on the hub; None for the main branch.

    Raises:
        HubError: there is no such model or revision, it is not an export, access needs permission, or the hub cannot
            be reached and the files are not in its cache.
    """
    name = os.fspath(source)
    if not isinstance(source, str) or os.path.lexists(name):
        return Path(name)
    if "://" in name:
        repository, revision = _parse_url(name, revision)
    elif _ID.fullmatch(name) and not os.path.isdir(name.partition("/")[0]):
        repository = name
    else:
        return Path(name)
    # The description is small: another kind of model is recognised before its weights are downloaded.
    directory = _download(name, repository, revision, (CONFIG,))
    _check_is_export(name, directory / CONFIG)
    return _download(name, repository, directory.name, _FILES)


def _parse_url(url: str, revision: str | None) -> tuple[str, str | None]:
    from huggingface_hub import constants

    match = _URL.fullmatch(url)
    if match is None or match["host"] not in (*_HOSTS, constants.ENDPOINT.rstrip("/")):
        raise HubError(
            f"{url} is not the URL of a model on the hub, such as https://huggingface.co/owner/name; download the "
            "export and give its directory"
        )
    return match["id"], revision or match["revision"]


def _download(name: str, repository: str, revision: str | None, files: tuple[str, ...]) -> Path:
    """Returns the directory of the cache that holds these files of a repository."""
    from huggingface_hub import constants, errors, snapshot_download

    at = f" at revision {revision}" if revision else ""
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(files)))
    except errors.GatedRepoError:
        reason = "is gated: ask for access on its page, then log in with `hf auth login`, or set HF_TOKEN"
    except errors.RevisionNotFoundError:
        reason = "has no such revision on the hub; give a branch, tag or commit of it"
    except errors.RepositoryNotFoundError:
        reason = (
            "is neither a local directory nor a public model on the hub; correct the name, or for a private model log "
            "in with `hf auth login`, or set HF_TOKEN"
        )
    except errors.HFValidationError as error:
        reason = f"is neither a local directory nor an id on the hub ({error})"
    except Exception as error:  # the kinds of failure of a connection depend on the transport
        if not isinstance(error, (OSError, errors.HfHubHTTPError)) and "httpx" not in type(error).__module__:
            raise
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} cannot be reached"
        detail = "" if constants.HF_HUB_OFFLINE else f" ({_first_line(error)})"
        reason = (
            f"is not a local directory, and not in the cache of the hub, and {why}{detail}; connect, or give the "
            "directory of an export"
        )
    raise HubError(f"{name}{at} {reason}") from None


def _check_is_export(name: str, path: Path) -> None:
    if not path.is_file():
        raise HubError(f"{name} on the hub has no {CONFIG}, so it is not a model that `slap export` wrote")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise HubError(f"{name} on the hub has a damaged {CONFIG} ({error})") from None
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        kind = description.get("model_type") if isinstance(description, dict) else None
        advice = {
            "slap": "it is the folder of an export for transformers: load it with transformers, as its card shows",
            "clap": f"write clap:{name} to load it as a ClapModel",
        }.get(str(kind), "give a model that `slap export` wrote")
        raise HubError(f"{name} on the hub is not an export of slap_jax (model_type {kind!r}); {advice}")


def _first_line(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]
