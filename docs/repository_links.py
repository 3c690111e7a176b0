"""MkDocs hook: pages link as GitHub resolves them, to any file of the repository; the site has fewer files.

CONTRIBUTING.md and CHANGELOG.md become pages of the site. A link to another file outside docs/ keeps only its text.
"""

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
ROOT_PAGES = ("CONTRIBUTING.md", "CHANGELOG.md")
LINK = re.compile(r"\[([^\]]*)\]\(([\w./-]+)(#[\w-]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    for page in ROOT_PAGES:
        files.append(File.generated(config, page, abs_src_path=str(ROOT / page)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    uri = page.file.src_uri
    folder = posixpath.dirname(uri if uri in ROOT_PAGES else f"docs/{uri}")

    def adapt(link: re.Match[str]) -> str:
        text, target, anchor = link.groups()
        path = posixpath.normpath(posixpath.join(folder, target))
        if not (ROOT / path).exists():
            logging.getLogger("mkdocs.hooks").warning("%s links to %s, which does not exist", uri, target)
        elif path.startswith("docs/") or path in ROOT_PAGES:
            on_site = posixpath.relpath(path.removeprefix("docs/"), posixpath.dirname(uri) or ".")
            return f"[{text}]({on_site}{anchor or ''})"
        return text

    return LINK.sub(adapt, markdown)
