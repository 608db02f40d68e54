"""Measures one operation, and summarizes the rounds."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

GIB = 1 << 30
# Batches per figure. A single batch takes only a tenth of a second.
BATCHES = 4


@dataclass(frozen=True)
class Figure:
    """One operation in one round."""

    rate: float
    """GiB/s, or keys/s."""
    cpu: float
    """CPU seconds of the client's process per GiB, or per million keys."""
    held: float | None = None
    """Microseconds per key that the client's calls took. This is an upper bound of the time that the client holds Python's lock."""
    reads: float | None = None
    """Reads of the store's server for one call. Each is at most one round trip."""
    peak: float | None = None
    """MiB by which the client's process grows at most."""


Round = dict[str, Figure]
"""The figures by operation. `get`, `put` and `exists` are for a batch. `lookup`, `contains` and `contains_loop` are for one key, one
call at a time. `contains` runs with `use_exists_sync: true`, and `contains_loop` with `false`, LMCache's default. `loop` is an empty
coroutine on LMCache's loop. `present` and `absent` are lookups of 64 keys. `call` is the 99.9th percentile of the slowest method of
a tier with jobs of 64 rows. `busy` is that of the thread's CPU time, and `longest` is its longest call. `first get` and `first put` are
the first batches of a process. `list`, `cp`, `exists of 10,000`, `first put, ..` and `longest put, ..` are single calls on a store with
very many chunks."""


@dataclass(frozen=True)
class Summary:
    """One operation of one client over all rounds. Every field but `low` and `high` is a median."""

    rate: float
    low: float
    high: float
    cpu: float
    ratio: float | None
    """Each round's rate divided by the first client's rate in the same round. `None` without such a rate."""
    held: float | None
    reads: float | None = None
    peak: float | None = None


@dataclass(frozen=True)
class Table:
    """Clients that took turns on one store. The ratios compare them with the first client."""

    group: str
    title: str
    size: str
    clients: dict[str, dict[str, Summary]]

    @classmethod
    def of(cls, group: str, title: str, size: str, rounds: dict[str, list[Round]]) -> "Table":
        """Summarizes the rounds of each client."""
        first = next(iter(rounds))
        clients = {
            name: {op: _summary([r[op] for r in its], [r[op] for r in rounds[first] if op in r and name != first]) for op in its[0]}
            for name, its in rounds.items()
        }
        return cls(group, title, size, clients)

    @classmethod
    def from_json(cls, value: dict) -> "Table":
        """Undoes `dataclasses.asdict`."""
        clients = {name: {op: Summary(**summary) for op, summary in ops.items()} for name, ops in value["clients"].items()}
        return cls(**{**value, "clients": clients})


def _summary(figures: list[Figure], first: list[Figure]) -> Summary:
    rates = [figure.rate for figure in figures]
    ratio = statistics.median(a.rate / b.rate for a, b in zip(figures, first, strict=True)) if first else None
    medians = {
        name: None if getattr(figures[0], name) is None else statistics.median(getattr(figure, name) for figure in figures)
        for name in ("cpu", "held", "reads", "peak")
    }
    return Summary(rate=statistics.median(rates), low=min(rates), high=max(rates), ratio=ratio, **medians)


def mean(figures: list[Figure]) -> Figure:
    """One figure of several batches: the mean of their times and of their CPU times, and the highest peak."""
    peaks = [figure.peak for figure in figures if figure.peak is not None]
    rate = statistics.harmonic_mean(figure.rate for figure in figures)
    return Figure(rate, statistics.fmean(figure.cpu for figure in figures), peak=max(peaks, default=None))


def peaked(work: Callable[[], Figure]) -> Figure:
    """Adds the growth of this process's memory to the figure of `work`. Needs `/proc/self/clear_refs` of Linux."""
    # Sets the high-water mark to the current memory.
    Path("/proc/self/clear_refs").write_text("5")
    before = _high_water_kib()
    figure = work()
    return replace(figure, peak=(_high_water_kib() - before) / 1024)


def _high_water_kib() -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1])


def clocked(amount: float, work: Callable[[], None], cpu_per: float = 1.0) -> Figure:
    """Runs `work`, which does `amount` units of work. Counts the CPU time of all threads of this process."""
    start, cpu = time.perf_counter(), time.process_time()
    work()
    took, cpu = time.perf_counter() - start, time.process_time() - cpu
    return Figure(amount / took, cpu / amount * cpu_per)
