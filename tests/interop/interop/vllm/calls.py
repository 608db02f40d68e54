"""How long each method of a tier holds vLLM's scheduler thread, with jobs of 64 rows. Prints the times, and fails for none.

With more busy processes than cores, a thread also waits for a core. So compare the times of the tiers, and the CPU times of the thread.
"""

from __future__ import annotations

import os
import subprocess
import sys

from ..report import Report, equal
from .engine import Engine, config, keys
from .places import Place, places

ROWS_PER_JOB = 64
PROMPTS = 16


def run(report: Report) -> None:
    """`KVCONN_INTEROP_ROUNDS` stores and loads by each tier, 50 unless set, beside `KVCONN_INTEROP_BUSY` busy processes, 1 unless set."""
    rounds = int(os.environ.get("KVCONN_INTEROP_ROUNDS", "50"))
    with places("vllm", "memory", "fs", "redis", "resp") as found, _busy_cores(int(os.environ.get("KVCONN_INTEROP_BUSY", "1"))):
        for place in found:
            with report.check(f"{place.name}: calls in {rounds} rounds of {ROWS_PER_JOB} rows"):
                _print(place, _times(place, rounds))


def _times(place: Place, rounds: int) -> dict[str, list[tuple[float, float]]]:
    prompts = [keys(ROWS_PER_JOB, f"calls {i}") for i in range(PROMPTS)]
    with Engine(config([place.tier], rows=4 * ROWS_PER_JOB)) as engine:
        for i in range(rounds):
            # The primary tier holds 4 prompts, so that each of the 16 was evicted when its turn comes again.
            prompt = prompts[i % PROMPTS]
            if i >= PROMPTS:
                equal("hits", engine.found(prompt), ROWS_PER_JOB)
            else:
                engine.store(prompt)
            engine.store(keys(ROWS_PER_JOB, f"once {i}"), wait=False)
            engine.settle()
        return engine.seconds


def _print(place: Place, times: dict[str, list[tuple[float, float]]]) -> None:
    for method, calls in times.items():
        if not calls:
            continue
        texts = []
        for name, values in zip(("wall", "cpu"), zip(*calls, strict=True)):
            ordered = sorted(values)
            at = [ordered[min(len(ordered) - 1, int(len(ordered) * part))] * 1e6 for part in (0.5, 0.99, 0.999)]
            texts.append(f"{name} p50 {at[0]:>7.1f}  p99 {at[1]:>7.1f}  p99.9 {at[2]:>8.1f}  max {ordered[-1] * 1e6:>8.1f} µs")
        print(f"      {method:<19} {len(calls):>6} calls  {'  '.join(texts)}", flush=True)


class _busy_cores:
    """Processes that never wait, until the block ends."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __enter__(self) -> None:
        self.processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(self.count)]

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
