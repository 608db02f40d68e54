"""Every group of the bench for LMCache runs, with few and small chunks. Asserts no time."""

from __future__ import annotations

import math
from pathlib import Path

from ..report import Report, equal
from .groups import GROUPS as MEASURED
from .groups import SIZES

CHUNKS = 4
# A group of each kind whose clients no other group has, and the operations of its last client.
MOVED = {"get", "put"}
FIRST = {"first get", "first put"}
SMALL = {
    "burst-fs": MOVED | FIRST,
    "big-redis": MOVED | {"exists"},
    "latency-0.2": MOVED | {"exists"},
    "cores-redis-1": MOVED | FIRST,
    "scale-redis": {"exists of 10,000", "list", "cp"},
    "scale-fs": {
        "exists of 10,000",
        "list",
        "first put, scan",
        "longest put, scan",
        "first put, evict",
        "longest put, evict",
    },
    "cpu-redis": MOVED | {"exists"},
    "cpu-fs": MOVED | {"exists"},
    "cpu-tls": MOVED | {"exists"},
}


def small(report: Report) -> None:
    """One round of each client."""
    for name, operations in SMALL.items():
        with report.check(f"bench {name}"):
            kind = MEASURED[name]
            with kind.open(name)(Path("/dev/shm"), 0.01) as (_, makers, clear):
                # Their processes take seconds to import LMCache, so only the last client runs.
                for make in [*makers.values()][-1 if name.startswith(("burst", "cores")) else 0 :]:
                    client = make(SIZES["1KiB"] if name.startswith("scale") else SIZES["64KiB"], CHUNKS)
                    figures = client.round()
                    clear()
                    client.close()
                    for figure in figures.values():
                        equal("the rate is a number", math.isfinite(figure.rate) and figure.rate > 0, True)
            equal("the operations of the last client", set(figures), operations)


GROUPS = {"small": small}
SMOKE = ("small",)
