"""Runs groups of checks in one environment: `python -m interop [--smoke] [--totals FILE] GROUP..`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import command
from .groups import GROUPS, Unknown, checks
from .report import Report


def main() -> int:
    """Gives the exit code: 1 if a check failed, 2 for an unknown group."""
    parser = argparse.ArgumentParser(prog="python -m interop")
    parser.add_argument("groups", nargs="+", metavar="GROUP", help=f"{', '.join(GROUPS)}, or GROUP:PART")
    parser.add_argument("--smoke", action="store_true", help="only the checks that a group marks for the smoke test")
    parser.add_argument("--totals", type=Path, metavar="FILE", help="append the numbers of passed and of failed checks to this file")
    args = parser.parse_args()
    report = Report()
    for group in args.groups:
        try:
            chosen = checks(group, args.smoke)
        except Unknown as e:
            parser.error(str(e))
        except Exception as e:  # noqa: BLE001: the other groups still run
            with report.check(f"{group}: the group loads"):
                raise RuntimeError(f"its module does not load: {e}") from e
            continue
        for name, check in chosen.items():
            print(f"== {name}", flush=True)
            before = report.ended
            try:
                check(report)
                if report.ended == before:
                    raise RuntimeError("it made no check")
            except Exception as e:  # noqa: BLE001: the other groups still run
                with report.check(f"{name}: the group runs"):
                    raise RuntimeError(f"the group ended early: {e}") from e
    print(f"== {report.passed} passed, {len(report.failed)} failed")
    if report.failed:
        print(f"the command is {command.path()}; it has connectors for {', '.join(sorted(command.schemes()))}")
    if args.totals:
        with args.totals.open("a") as totals:
            print(report.passed, len(report.failed), file=totals)
    return 1 if report.failed else 0


sys.exit(main())
