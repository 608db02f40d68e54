"""`tests/interop/bench`."""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date
from importlib.metadata import version
from pathlib import Path

from .. import command
from ..server import RedisServer
from . import native
from .backend import Backend
from .commands import Command
from .figures import Table, batches, singles

SIZES = {"64KiB": 64 << 10, "1MiB": 1 << 20, "4MiB": 4 << 20}
# Bytes of one batch. Small enough for every pool, and large enough to be timed.
BATCH_BYTES = 256 << 20
MAX_BATCH = 2048

Makers = dict[str, Callable[[int, int], object]]
"""By the client's name: makes a client for a chunk size and a number of chunks."""
Group = tuple[str, Makers, Callable[[], None]]
"""A title, the clients, and a function that clears the store. The bench compares all clients with the first one."""


@contextmanager
def redis(_folder: Path, pause: float) -> Iterator[Group]:
    """Multiprocess mode on a redis server, and kvconn's stores on the same server without Python."""
    with RedisServer() as server:
        address = f"127.0.0.1:{server.port}?connections={native.CONNECTIONS}"
        clients = {
            "LMCache C++": lambda size, n: native.Native(native.cpp_redis(server.port), size, n, pause),
            "kvconn resp": lambda size, n: native.Native(native.kvconn(f"resp://{address}"), size, n, pause),
            "kvconn redis": lambda size, n: native.Native(native.kvconn(f"redis://{address}"), size, n, pause),
            "resp without Python": lambda size, n: Command(f"resp://{address}", size, n),
            "redis without Python": lambda size, n: Command(f"redis://{address}", size, n),
        }
        title = "redis server: LMCache's `resp` adapter, kvconn's `native_plugin` on `resp://` and `redis://`, and `kvconn bench`"
        yield title, clients, lambda: server.ask("FLUSHALL")


@contextmanager
def fs(folder: Path, pause: float) -> Iterator[Group]:
    """Multiprocess mode on files."""
    with tempfile.TemporaryDirectory(prefix="kvconn-interop-", dir=folder) as root:

        def clear() -> None:
            for file in Path(root).rglob("*"):
                if file.is_file():
                    file.unlink()

        # LMCache's client does not overwrite a file.
        clients = {
            "LMCache C++": lambda size, n: native.Native(native.cpp_fs(f"{root}/c++"), size, n, pause, clear),
            "kvconn fs": lambda size, n: native.Native(native.kvconn(f"fs://{root}/kvconn"), size, n, pause, clear),
        }
        title = f"files in {folder}: LMCache's `fs_native` adapter with {native.WORKERS} workers, kvconn's `native_plugin` on `fs://`"
        yield title, clients, clear


@contextmanager
def external(_folder: Path, _pause: float) -> Iterator[Group]:
    """In-process mode on a redis server."""
    with RedisServer() as server:
        address = f"127.0.0.1:{server.port}"
        ours = f"external://{address}/kvconn.redis/?connector_name=RedisConnector"
        clients = {
            "LMCache Python": lambda size, n: Backend(f"redis://{address}", size, n),
            "kvconn external": lambda size, n: Backend(ours, size, n),
        }
        title = "redis server, inside vLLM's process: LMCache's own `redis://`, kvconn's `external://..kvconn.redis`"
        yield title, clients, lambda: server.ask("FLUSHALL")


GROUPS = {"redis": redis, "fs": fs, "external": external}


def measure(group: str, title: str, makers: Makers, clear: Callable[[], None], size: str, rounds: int) -> Table:
    """Measures the clients in turn. The first client of a round alternates."""
    n = min(BATCH_BYTES // SIZES[size], MAX_BATCH)
    clients = {name: make(SIZES[size], n) for name, make in makers.items()}
    found = defaultdict(list)
    for number in range(rounds + 1):
        first = number % len(clients)
        for name in [*clients][first:] + [*clients][:first]:
            figures = clients[name].round()
            # The chunks of one client must not slow down the next one.
            clear()
            if number > 0:
                found[name].append(figures)
    for client in clients.values():
        client.close()
    return Table.of(group, title, size, {name: found[name] for name in clients})


def results(tables: list[Table], rounds: int) -> dict:
    """Gives the input of `publish.py`: the tables, and the conditions of the measurement."""
    kernel = ".".join(platform.release().split(".")[:2])
    return {
        "measured": date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.system()} {kernel}, {platform.machine()}",
        "lmcache": version("lmcache"),
        "rounds": rounds,
        "tables": [asdict(table) for table in tables],
    }


def main() -> int:
    """Gives the exit code: 2 for a wrong argument."""
    parser = argparse.ArgumentParser(prog="tests/interop/bench", description="Measures LMCache's clients and kvconn's in turn")
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"{', '.join(GROUPS)}; default: all")
    parser.add_argument("--rounds", type=int, default=7, help="rounds to measure, after a warm-up round")
    parser.add_argument("--sizes", default=",".join(SIZES), help="chunk sizes")
    parser.add_argument("--pause", type=float, default=0.0, metavar="SECONDS", help="pause before each batch of a native client; default: 0")
    parser.add_argument("--clients", default="", help="only these clients, by their names in the tables")
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="folder for the files of `fs`; default: a tmpfs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file, for tests/interop/publish.py")
    args = parser.parse_args()
    groups, sizes = args.groups or [*GROUPS], args.sizes.split(",")
    only = args.clients.split(",") if args.clients else None
    for given, known in ((groups, GROUPS), (sizes, SIZES)):
        if unknown := [name for name in given if name not in known]:
            parser.error(f"{unknown[0]!r} is not one of {', '.join(known)}")
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    caller = Path(os.environ.get("KVCONN_BENCH_CALLER", "."))
    args.folder = caller / args.folder
    if not args.folder.is_dir():
        parser.error(f"--folder: {args.folder} is not a directory")
    # Checked first: the measurement takes minutes.
    if args.json:
        args.json = caller / args.json
        if not args.json.parent.is_dir():
            parser.error(f"--json: {args.json.parent} is not a directory")
    for scheme in ("resp", "redis", "fs"):
        command.require(scheme)
    print(f"rounds: {args.rounds}, after a warm-up; median (range); ×: the median of the rounds' ratios")
    tables = []
    for group in groups:
        for size in sizes:
            with GROUPS[group](args.folder, args.pause) as (title, makers, clear):
                chosen = {name: make for name, make in makers.items() if only is None or name in only}
                if only is not None and (unknown := [name for name in only if name not in makers]) and len(groups) == 1:
                    parser.error(f"{unknown[0]!r} is not one of {', '.join(makers)}")
                if chosen:
                    tables.append(measure(group, title, chosen, clear, size, args.rounds))
                    print(f"\n{title}\n\n{batches(tables[-1:])}\n\n{singles(tables[-1:])}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(results(tables, args.rounds), indent=1) + "\n")
    # Other load on the machine hurts a client with one thread more than a client with eight.
    print(f"\nload {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; with a load of several per core, compare only the CPU columns")
    return 0


if __name__ == "__main__":
    sys.exit(main())
