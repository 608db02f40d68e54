"""Runs the checks: all of them, or the groups that are named."""

import sys

from . import command
from .report import Report
from .stores import GROUPS


def main(names: list[str]) -> int:
    """Exit code 1 if a check failed, 2 for a group that does not exist."""
    unknown = [name for name in names if name not in GROUPS]
    if unknown:
        print(f"interop: no group {unknown[0]!r}; there are {', '.join(GROUPS)}", file=sys.stderr)
        return 2
    report = Report()
    for name in names or GROUPS:
        print(f"== {name}", flush=True)
        try:
            GROUPS[name](report)
        except Exception as e:  # noqa: BLE001: the other groups go on
            with report.check(f"{name}: the group runs"):
                raise RuntimeError(f"the group ended early: {e}") from e
    print(f"== {report.passed} passed, {len(report.failed)} failed")
    if report.failed:
        print(f"the command is {command.path()}; it has connectors for {', '.join(sorted(command.schemes()))}")
    return 1 if report.failed else 0


sys.exit(main(sys.argv[1:]))
