"""Measures one operation, sums up what the rounds gave, and shows the sums as Markdown."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

GIB = 1 << 30
# Batches that make one figure: a single batch takes only a tenth of a second.
BATCHES = 4


@dataclass(frozen=True)
class Figure:
    """One operation in one round."""

    rate: float
    """GiB/s, or keys/s."""
    cpu: float
    """CPU seconds of the client's process for a GiB, or for a million keys."""
    held: float | None = None
    """Microseconds a key that the client's calls took. They bound how long the client can hold Python's lock."""


Round = dict[str, Figure]
"""By operation: get, put, exists of a batch; lookup, contains, contains_loop of one key, one call at a time; loop: a coroutine
that does nothing, on LMCache's loop. `contains_loop` runs with `use_exists_sync: false`, LMCache's default."""


@dataclass(frozen=True)
class Summary:
    """One operation of one client over all rounds. Every field but `low` and `high` is a median."""

    rate: float
    low: float
    high: float
    cpu: float
    ratio: float | None
    """Each round's rate divided by the first client's rate in the same round. The first client has none."""
    held: float | None


@dataclass(frozen=True)
class Table:
    """Clients that took turns on one store. The first client is the one that the others are compared with."""

    group: str
    title: str
    size: str
    clients: dict[str, dict[str, Summary]]

    @classmethod
    def of(cls, group: str, title: str, size: str, rounds: dict[str, list[Round]]) -> "Table":
        """Sums up the rounds of each client."""
        first = next(iter(rounds))
        clients = {
            name: {op: _summary([r[op] for r in own], None if name == first else [r[op] for r in rounds[first]]) for op in own[0]}
            for name, own in rounds.items()
        }
        return cls(group, title, size, clients)

    @classmethod
    def from_json(cls, value: dict) -> "Table":
        """The inverse of `dataclasses.asdict`."""
        clients = {name: {op: Summary(**summary) for op, summary in ops.items()} for name, ops in value["clients"].items()}
        return cls(**{**value, "clients": clients})


def _summary(figures: list[Figure], first: list[Figure] | None) -> Summary:
    rates = [figure.rate for figure in figures]
    ratio = first and statistics.median(a.rate / b.rate for a, b in zip(figures, first, strict=True))
    held = None if figures[0].held is None else statistics.median(figure.held for figure in figures)
    return Summary(statistics.median(rates), min(rates), max(rates), statistics.median(f.cpu for f in figures), ratio, held)


BATCH = {"get": "get GiB/s", "put": "put GiB/s", "exists": "exists/s"}
SINGLE = {
    "lookup": "`batched_contains`, µs",
    "contains": "`contains`, µs",
    "contains_loop": "`contains` with `use_exists_sync: false`, µs",
    "loop": "LMCache's loop and back, µs",
}


def batches(tables: list[Table]) -> str:
    """A table of the operations that move batches."""
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
    """A table of the calls for one key, if the tables have any: the time of a call, and its ratio."""
    shown = [op for op in SINGLE if any(op in ops for table in tables for ops in table.clients.values())]
    heads = [cell for op in shown for cell in (SINGLE[op], "×")]
    rows = [f"| chunk | client | {' | '.join(heads)} |", "|---|---|" + "---:|" * len(heads)]
    for table in tables:
        for name, ops in table.clients.items():
            if any(op in ops for op in shown):
                cells = [cell for op in shown for cell in (f"{1e6 / ops[op].rate:.0f}", _ratio(ops[op].ratio and 1 / ops[op].ratio))]
                rows.append(f"| {' | '.join([table.size, name, *cells])} |")
    return "\n".join(rows) if shown else ""


def _rate(summary: Summary) -> str:
    return f"**{summary.rate:.2f}** ({summary.low:.2f} to {summary.high:.2f})"


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def clocked(amount: float, work: Callable[[], None], cpu_per: float = 1.0) -> Figure:
    """Runs `work`, which does `amount` of something. The CPU time is that of all threads of this process."""
    start, cpu = time.perf_counter(), time.process_time()
    work()
    took, cpu = time.perf_counter() - start, time.process_time() - cpu
    return Figure(amount / took, cpu / amount * cpu_per)
