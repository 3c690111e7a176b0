"""Short names of Creative Commons licences, which publishers give as addresses."""

import re

_LICENCE = re.compile(r"creativecommons\.org/licenses/([a-z+-]+)(?:/(\d\.\d))?", re.IGNORECASE)
_WAIVER = re.compile(r"creativecommons\.org/publicdomain/zero/(\d\.\d)", re.IGNORECASE)


def licence_name(text: str) -> str:
    """Returns the SPDX-like name of a Creative Commons address, such as "CC-BY-4.0"; any other text as it is."""
    if waiver := _WAIVER.search(text):
        return f"CC0-{waiver.group(1)}"
    if licence := _LICENCE.search(text):
        kind, version = licence.groups()
        return "-".join(part for part in ("CC", kind.upper(), version) if part)
    return text.strip()
