"""The groups of checks, and the environment that each one runs in.

    python -m interop.groups [--smoke] [GROUP..]

prints one line for each environment: its name, and the groups to run in it. Needs no engine.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .report import Report

Check = Callable[["Report"], None]


class Group(NamedTuple):
    """Where a group's checks are."""

    environment: str
    """The engine whose packages the checks import: `lmcache`, `vllm` or `sglang`."""
    module: str
    """The module below `interop`. It has `GROUPS`, which are checks by name, and `SMOKE`, the names that `--smoke` runs."""


GROUPS = {name: Group("lmcache", "stores") for name in "vectors fs redis resp native wheel engine faults churn tools".split()} | {
    "lmcache-server": Group("lmcache", "lmcache_server"),
    "tensors": Group("lmcache", "tensors"),
    "s3": Group("lmcache", "s3"),
    "topologies": Group("lmcache", "topologies"),
    "bench": Group("lmcache", "bench.checks"),
    "vllm": Group("vllm", "vllm"),
    "llm": Group("vllm", "llm"),
    "sglang": Group("sglang", "sglang"),
}


SMOKE = ("vectors", "fs", "redis", "resp", "native", "tensors", "s3", "topologies", "bench", "lmcache-server", "vllm", "sglang")
"""The groups that have checks in the `SMOKE` of their modules."""


class Unknown(Exception):
    """A group or a part of a group that does not exist. The message has the known names."""


def plan(names: list[str], smoke: bool) -> dict[str, list[str]]:
    """Gives the groups to run by environment. `GROUP:PART` is one check of a module's `GROUPS`."""
    for name in names:
        if name.split(":")[0] not in GROUPS:
            raise Unknown(f"unknown group {name!r}; the groups are {', '.join(GROUPS)}")
        if smoke and name.split(":")[0] not in SMOKE:
            raise Unknown(f"--smoke has no check of {name!r}; it has some of {', '.join(SMOKE)}")
    chosen = names or [name for name, group in GROUPS.items() if not smoke or name in SMOKE]
    by_environment: dict[str, list[str]] = {}
    for name in chosen:
        by_environment.setdefault(GROUPS[name.split(":")[0]].environment, []).append(name)
    return by_environment


def checks(name: str, smoke: bool) -> dict[str, Check]:
    """Imports a group's module, and gives the checks to run."""
    group, _, part = name.partition(":")
    module = importlib.import_module(f"interop.{GROUPS[group].module}")
    found: dict[str, Check] = module.GROUPS
    if GROUPS[group].module == "stores":
        found = {group: found[group]}
    if smoke:
        found = {name: check for name, check in found.items() if name in module.SMOKE}
    if part:
        if part not in found:
            raise Unknown(f"{group} has no part {part!r}; its parts are {', '.join(found)}")
        found = {part: found[part]}
    return {check if check == group else f"{group}:{check}": run for check, run in found.items()}


def main(arguments: list[str]) -> int:
    """Gives the exit code: 2 for an unknown group."""
    smoke = "--smoke" in arguments
    try:
        planned = plan([argument for argument in arguments if argument != "--smoke"], smoke)
    except Unknown as e:
        print(f"interop: {e}", file=sys.stderr)
        return 2
    for environment, names in planned.items():
        print(environment, *names)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
