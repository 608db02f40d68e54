"""Single puts in a process of their own: `python -m interop.bench.puts URL`.

Prints two figures as JSON: the first put, with the growth of the memory in all puts, and the longest other put.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict

from kvconn import NativeClient

from .completions import Waiter
from .figures import Figure, clocked, peaked

PUTS_S = 2.0


def keys(first: int, count: int) -> list[str]:
    """Keys of multiprocess mode."""
    return [f"bench@00000000@0@{i:016x}" for i in range(first, first + count)]


def measured(url: str) -> list[Figure]:
    """Puts single chunks for a time. Opening the store counts for the first put."""
    found: list[Figure] = []
    value = memoryview(bytes(1024))

    def work() -> Figure:
        end = time.monotonic() + PUTS_S
        waiter: Waiter | None = None

        def put() -> None:
            nonlocal waiter
            waiter = waiter or Waiter(NativeClient(url))
            waiter.do(waiter.client.submit_batch_set, keys((1 << 40) + len(found), 1), [value])

        while not found or time.monotonic() < end:
            found.append(clocked(1, put))
        assert waiter
        waiter.client.close()
        return found[0]

    first = peaked(work)
    return [first, min(found[1:] or found, key=lambda figure: figure.rate)]


if __name__ == "__main__":
    print(json.dumps([asdict(figure) for figure in measured(sys.argv[1])]))
