"""Runs all checks, or the groups in the arguments."""

import sys

from . import command
from .report import Report
from .stores import GROUPS


def main(names: list[str]) -> int:
    """Gives the exit code: 1 if a check failed, 2 for an unknown group."""
    unknown = [name for name in names if name not in GROUPS]
    if unknown:
        print(f"interop: unknown group {unknown[0]!r}; the groups are {', '.join(GROUPS)}", file=sys.stderr)
        return 2
    report = Report()
    for name in names or GROUPS:
        print(f"== {name}", flush=True)
        try:
            GROUPS[name](report)
        except Exception as e:  # noqa: BLE001: the other groups still run
            with report.check(f"{name}: the group runs"):
                raise RuntimeError(f"the group ended early: {e}") from e
    print(f"== {report.passed} passed, {len(report.failed)} failed")
    if report.failed:
        print(f"the command is {command.path()}; it has connectors for {', '.join(sorted(command.schemes()))}")
    return 1 if report.failed else 0


sys.exit(main(sys.argv[1:]))
