"""A native client in a process of its own. Its first connections and threads count, and it may have only some of the cores.

`python -m interop.bench.fresh JSON` is that process. It prints its figures as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace

from .completions import Waiter
from .figures import GIB, Figure, Round, clocked, mean

TIMEOUT_S = 300


@dataclass(frozen=True)
class Fresh:
    """Each round has a new process. It puts new chunks, batch after batch, and then gets them."""

    maker: str
    """The name in `clients.MAKERS`."""
    target: str
    """Its port, folder or URL."""
    size: int
    n: int
    """Chunks in a batch."""
    batches: int
    pause: float = 0.0
    """Seconds before each batch."""
    cores: int = 0
    """The cores of the process; 0: all of them."""

    def round(self) -> Round:
        """Runs the process. `first put` and `first get` are the first batches, a second; `put` and `get` are the later ones."""
        command = [sys.executable, "-m", "interop.bench.fresh", json.dumps(asdict(self))]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{self.maker} {self.target}: {done.stderr}")
        return {name: Figure(**figure) for name, figure in json.loads(done.stdout).items()}

    def close(self) -> None:
        """Does nothing: no process runs between rounds."""


def measured(of: Fresh) -> Round:
    """Measures in this process. Opening the client counts for the first put."""
    from .clients import MAKERS

    if of.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: of.cores])
    data = [os.urandom(of.size) for _ in range(of.n)]
    buffers = [bytearray(b"x" * of.size) for _ in range(of.n)]
    batches = [[f"bench@00000000@0@{batch * of.n + i:016x}" for i in range(of.n)] for batch in range(1 + of.batches)]
    amount = of.size * of.n / GIB
    waiter: Waiter | None = None

    def put(keys: list[str]) -> None:
        nonlocal waiter
        waiter = waiter or Waiter(MAKERS[of.maker](of.target))
        waiter.do(waiter.client.submit_batch_set, keys, [memoryview(each) for each in data])

    def get(keys: list[str]) -> None:
        assert waiter
        waiter.do(waiter.client.submit_batch_get, keys, [memoryview(each) for each in buffers])

    found = {}
    for name, work in (("put", put), ("get", get)):
        figures = []
        for keys in batches:
            time.sleep(of.pause)
            figures.append(clocked(amount, lambda work=work, keys=keys: work(keys)))
        found |= {f"first {name}": replace(figures[0], rate=figures[0].rate / amount), name: mean(figures[1:])}
    if buffers != data:
        raise RuntimeError("the bytes that were read differ from the bytes that were written")
    assert waiter
    waiter.client.close()
    return found


if __name__ == "__main__":
    print(json.dumps({name: asdict(figure) for name, figure in measured(Fresh(**json.loads(sys.argv[1]))).items()}))
