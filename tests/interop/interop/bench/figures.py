"""What is measured, and how it is shown."""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

GIB = 1 << 30
# Batches that make one figure: one alone is a tenth of a second.
BATCHES = 4


@dataclass(frozen=True)
class Figure:
    """One operation in one round."""

    rate: float
    """GiB/s, or questions/s."""
    cpu: float
    """CPU seconds of the client's process for a GiB, or for a million questions."""
    held: float | None = None
    """Microseconds a key in which Python's lock may have been held: those spent in the client's calls."""


Round = dict[str, Figure]
"""By operation: get, put, exists; of one key, waited for: lookup, contains, contains_loop (`use_exists_sync: false`, LMCache's
default: through its loop); loop: a coroutine that does nothing, on LMCache's loop."""


@dataclass(frozen=True)
class Table:
    """Rounds of some clients that took turns; the first of `clients` is what the others are compared with."""

    title: str
    size: str
    against: str
    rounds: dict[str, list[Round]]

    def median(self, client: str, operation: str, what: str = "rate") -> float:
        """Of all rounds."""
        return statistics.median(getattr(figures[operation], what) for figures in self.rounds[client])

    def ratio(self, client: str, operation: str, what: str = "rate") -> float:
        """The median of what each round's figure is, divided by the other client's in the same round."""
        pairs = zip(self.rounds[client], self.rounds[self.against], strict=True)
        return statistics.median(getattr(a[operation], what) / getattr(b[operation], what) for a, b in pairs)

    def as_json(self) -> dict:
        """All rounds."""
        rounds = {name: [{op: asdict(f) for op, f in one.items()} for one in all_] for name, all_ in self.rounds.items()}
        return {"title": self.title, "size": self.size, "against": self.against, "rounds": rounds}


HEADS = {
    "get": ("get GiB/s", "CPU s/GiB"),
    "put": ("put GiB/s", "CPU s/GiB"),
    "exists": ("exists/s", "CPU s/million"),
    "lookup": ("lookups of one key/s", "CPU s/million"),
    "contains": ("contains/s", "CPU s/million"),
    "contains_loop": ("contains/s, `use_exists_sync: false`", "CPU s/million"),
    "loop": ("loop and back/s", "CPU s/million"),
}


def show(table: Table) -> None:
    """A table in Markdown: median, range, and the median of the rounds' ratios."""
    first = next(iter(table.rounds.values()))[0]
    heads = []
    for operation, figure in first.items():
        heads += [HEADS[operation][0], f"× {table.against}", HEADS[operation][1]]
        heads += ["lock µs/key"] if figure.held is not None else []
    print(f"\n{table.title}\n\n| {table.size} | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}")
    for name, rounds in table.rounds.items():
        cells = []
        for operation, figure in first.items():
            rates = sorted(figures[operation].rate for figures in rounds)
            digits = 2 if operation in ("get", "put") else 0
            low, high = f"{rates[0]:,.{digits}f}", f"{rates[-1]:,.{digits}f}"
            cells.append(f"**{statistics.median(rates):,.{digits}f}** ({low} to {high})")
            cells.append("" if name == table.against else f"{table.ratio(name, operation):.2f}")
            cells.append(f"{table.median(name, operation, 'cpu'):.2f}")
            if figure.held is not None:
                held = rounds[0][operation].held
                cells.append("" if held is None else f"{table.median(name, operation, 'held'):.1f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def clocked(amount: float, work: Callable[[], None], cpu_per: float = 1.0) -> Figure:
    """`amount` is what is done; CPU time is this process's, of all threads."""
    start, cpu = time.perf_counter(), time.process_time()
    work()
    took, cpu = time.perf_counter() - start, time.process_time() - cpu
    return Figure(amount / took, cpu / amount * cpu_per)
