"""The result of a check on one host, and the merged results of all hosts."""

import dataclasses
from collections.abc import Callable, Sequence

OK, PROBLEM, SKIPPED = "ok", "problem", "skipped"


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        check: name of the check.
        status: ok, problem or skipped.
        text: the result, or why the check was skipped.
        remedy: what to do about a problem.
    """

    check: str
    status: str
    text: str
    remedy: str = ""


def attempt(check: str, function: Callable[[], list[Finding]], remedy: str) -> list[Finding]:
    """Runs a check. An exception becomes a problem, so that the checks after it still run."""
    try:
        return function()
    except Exception as error:
        return [Finding(check, PROBLEM, f"{type(error).__name__}: {error}", remedy)]


def merge(by_process: Sequence[Sequence[Finding]], hosts: Sequence[str]) -> list[Finding]:
    """Merges the findings of all processes; a finding that only some processes have names them.

    Args:
        by_process: the findings of each process.
        hosts: the host name of each process.
    """
    merged = []
    for finding in dict.fromkeys(finding for findings in by_process for finding in findings):
        who = [process for process, findings in enumerate(by_process) if finding in findings]
        # Only process 0 runs some of the checks.
        runners = [
            process for process, findings in enumerate(by_process) if any(f.check == finding.check for f in findings)
        ]
        if who == runners:
            merged.append(finding)
            continue
        if finding.status == OK:
            # Figures differ from host to host: one of the good ones represents the others.
            if not any(other.check == finding.check and other.status == OK for other in merged):
                merged.append(dataclasses.replace(finding, text=f"{finding.text}, on {hosts[who[0]]}"))
            continue
        names = ", ".join(f"{process} ({hosts[process]})" for process in who[:4])
        more = f" and {len(who) - 4} more" if len(who) > 4 else ""
        merged.append(dataclasses.replace(finding, text=f"process {names}{more}: {finding.text}"))
    order = list(dict.fromkeys(finding.check for findings in by_process for finding in findings))
    return sorted(merged, key=lambda finding: order.index(finding.check))


def table(findings: Sequence[Finding]) -> str:
    """Formats one line for each finding, with the remedy below each problem."""
    width = max(len(finding.check) for finding in findings)
    lines = []
    for finding in findings:
        head = f"{finding.status:<8} {finding.check:<{width}}  "
        indent = "\n" + " " * len(head)
        lines.append(head + finding.text.replace("\n", indent))
        if finding.remedy:
            lines.append(" " * len(head) + f"-> {finding.remedy}".replace("\n", indent))
    return "\n".join(lines)
