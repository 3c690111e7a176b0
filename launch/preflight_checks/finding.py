"""What a check has found, on one host and on all of them."""

import dataclasses
from collections.abc import Callable, Sequence

OK, PROBLEM, SKIPPED = "ok", "problem", "skipped"


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the result.

    Attributes:
        check: its name.
        status: ok, problem or skipped.
        text: what was found; for skipped, why.
        remedy: what to do about a problem.
    """

    check: str
    status: str
    text: str
    remedy: str = ""


def attempt(check: str, function: Callable[[], list[Finding]], remedy: str) -> list[Finding]:
    """Runs a check; whatever it raises becomes a problem, so that the checks after it still run."""
    try:
        return function()
    except Exception as error:
        return [Finding(check, PROBLEM, f"{type(error).__name__}: {error}", remedy)]


def merge(of_hosts: Sequence[Sequence[Finding]], hosts: Sequence[str]) -> list[Finding]:
    """Joins the findings of all processes: what all found alike is told once, the rest with who found it.

    Args:
        of_hosts: the findings of every process.
        hosts: their names.
    """
    merged = []
    for finding in dict.fromkeys(finding for findings in of_hosts for finding in findings):
        who = [process for process, findings in enumerate(of_hosts) if finding in findings]
        # Checks that only process 0 makes say nothing elsewhere.
        makers = [
            process for process, findings in enumerate(of_hosts) if any(f.check == finding.check for f in findings)
        ]
        if who == makers:
            merged.append(finding)
            continue
        if finding.status == OK:
            # Figures that differ from host to host: one of them stands for all that are well.
            if not any(other.check == finding.check and other.status == OK for other in merged):
                merged.append(dataclasses.replace(finding, text=f"{finding.text}, on {hosts[who[0]]}"))
            continue
        names = ", ".join(f"{process} ({hosts[process]})" for process in who[:4])
        more = f" and {len(who) - 4} more" if len(who) > 4 else ""
        merged.append(dataclasses.replace(finding, text=f"process {names}{more}: {finding.text}"))
    order = list(dict.fromkeys(finding.check for findings in of_hosts for finding in findings))
    return sorted(merged, key=lambda finding: order.index(finding.check))


def table(findings: Sequence[Finding]) -> str:
    """Returns one line for each finding, and below a problem what to do."""
    width = max(len(finding.check) for finding in findings)
    lines = []
    for finding in findings:
        head = f"{finding.status:<8} {finding.check:<{width}}  "
        indent = "\n" + " " * len(head)
        lines.append(head + finding.text.replace("\n", indent))
        if finding.remedy:
            lines.append(" " * len(head) + f"-> {finding.remedy}".replace("\n", indent))
    return "\n".join(lines)
