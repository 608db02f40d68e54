"""Measures one operation, summarizes the rounds, and formats the summaries as Markdown."""

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
a tier with jobs of 64 rows. `busy` is that of the thread's CPU time, and `longest` is its longest call."""


@dataclass(frozen=True)
class Summary:
    """One operation of one client over all rounds. Every field but `low` and `high` is a median."""

    rate: float
    low: float
    high: float
    cpu: float
    ratio: float | None
    """Each round's rate divided by the first client's rate in the same round. `None` for the first client."""
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
            name: {op: _summary([r[op] for r in its], None if name == first else [r[op] for r in rounds[first]]) for op in its[0]}
            for name, its in rounds.items()
        }
        return cls(group, title, size, clients)

    @classmethod
    def from_json(cls, value: dict) -> "Table":
        """Undoes `dataclasses.asdict`."""
        clients = {name: {op: Summary(**summary) for op, summary in ops.items()} for name, ops in value["clients"].items()}
        return cls(**{**value, "clients": clients})


def _summary(figures: list[Figure], first: list[Figure] | None) -> Summary:
    rates = [figure.rate for figure in figures]
    ratio = first and statistics.median(a.rate / b.rate for a, b in zip(figures, first, strict=True))
    medians = {
        name: None if getattr(figures[0], name) is None else statistics.median(getattr(figure, name) for figure in figures)
        for name in ("cpu", "held", "reads", "peak")
    }
    return Summary(rate=statistics.median(rates), low=min(rates), high=max(rates), ratio=ratio, **medians)


BATCH = {"get": "get GiB/s", "put": "put GiB/s", "exists": "exists/s"}
SINGLE = {
    "lookup": "`batched_contains`, µs",
    "contains": "`contains`, µs",
    "contains_loop": "`contains` with `use_exists_sync: false`, µs",
    "loop": "round trip of LMCache's loop, µs",
}


def batches(tables: list[Table]) -> str:
    """Makes a table of the operations on batches."""
    rows = ["| store | chunk | client | get GiB/s | × | CPU s/GiB | put GiB/s | × | CPU s/GiB | exists/s | × |", "|---|---|---|" + "---:|" * 8]
    for table in tables:
        for name, ops in table.clients.items():
            cells = [table.group, table.size, name]
            for op in ("get", "put"):
                cells += [_rate(ops[op]), _ratio(ops[op].ratio), f"{ops[op].cpu:.2f}"]
            cells += [f"{ops['exists'].rate:,.0f}", _ratio(ops["exists"].ratio)]
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def singles(tables: list[Table]) -> str:
    """Makes a table of the calls for one key: the time of a call, and its ratio. Empty if the tables have no such calls."""
    shown = [op for op in SINGLE if any(op in ops for table in tables for ops in table.clients.values())]
    heads = [cell for op in shown for cell in (SINGLE[op], "×")]
    rows = [f"| chunk | client | {' | '.join(heads)} |", "|---|---|" + "---:|" * len(heads)]
    for table in tables:
        for name, ops in table.clients.items():
            if any(op in ops for op in shown):
                cells = [cell for op in shown for cell in (f"{1e6 / ops[op].rate:.0f}", _ratio(ops[op].ratio and 1 / ops[op].ratio))]
                rows.append(f"| {' | '.join([table.size, name, *cells])} |")
    return "\n".join(rows) if shown else ""


CALLS = {
    "present": "lookup of 64 present keys, µs",
    "absent": "of 64 absent keys, µs",
    "call": "longest of 99.9 % of its calls, µs",
    "busy": "CPU of 99.9 % of its calls, µs",
    "longest": "longest, µs",
}


def calls(tables: list[Table]) -> str:
    """Makes a table of the calls that an engine waits for. Empty if the tables have no such calls."""
    tables = [table for table in tables if any("present" in ops for ops in table.clients.values())]
    shown = [op for op in CALLS if any(op in ops for table in tables for ops in table.clients.values())]
    heads = [CALLS[op] for op in shown] + ["reads of the server, present and absent"]
    rows = [f"| store | chunk | client | {' | '.join(heads)} |", "|---|---|---|" + "---:|" * len(heads)]
    for table in tables:
        for name, ops in table.clients.items():
            cells = [f"{1e6 / ops[op].rate:,.0f}" if op in ops else "" for op in shown]
            trips = [f"{ops[op].reads:g}" for op in ("present", "absent") if ops[op].reads is not None]
            rows.append(f"| {' | '.join([table.group, table.size, name, *cells, ' and '.join(trips)])} |")
    return "\n".join(rows) if tables else ""


def costs(tables: list[Table]) -> str:
    """Makes a table of the clients' CPU time beside the first one's, that of a lookup, and memory. Empty if no table has a peak."""
    tables = [table for table in tables if all(ops["get"].peak is not None for ops in table.clients.values())]
    heads = ["get, CPU ×", "put, CPU ×", "exists, CPU µs", "get, peak MiB", "put, peak MiB"]
    rows = [f"| store | chunk | client | {' | '.join(heads)} |", "|---|---|---|" + "---:|" * len(heads)]
    for table in tables:
        first, *_ = table.clients.values()
        for name, ops in table.clients.items():
            cells = ["" if ops is first else f"{ops[op].cpu / first[op].cpu:.2f}" for op in ("get", "put")]
            cells.append(f"{ops['exists'].cpu:.0f}")
            cells += [f"{ops[op].peak:.0f}" for op in ("get", "put")]
            rows.append(f"| {' | '.join([table.group, table.size, name, *cells])} |")
    return "\n".join(rows) if tables else ""


def _rate(summary: Summary) -> str:
    return f"**{summary.rate:.2f}** ({summary.low:.2f} to {summary.high:.2f})"


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


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
