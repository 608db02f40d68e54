"""The groups of the bench. Needs no engine."""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

SIZES = {"1KiB": 1 << 10, "64KiB": 64 << 10, "256KiB": 256 << 10, "1MiB": 1 << 20, "4MiB": 4 << 20, "16MiB": 16 << 20, "32MiB": 32 << 20}
LMCACHE_SIZES = ("64KiB", "1MiB", "4MiB")
OBJECT_SIZES = ("4MiB", "32MiB")
TLS_SIZES = ("1MiB", "4MiB")
CLUSTER_SIZES = ("1MiB",)
ENGINE_SIZES = ("256KiB", "1MiB", "4MiB", "16MiB")
BURST_SIZES = ("64KiB", "1MiB")
BIG_SIZES = ("4MiB", "16MiB", "32MiB")
CORE_SIZES = ("64KiB", "1MiB")
DELAYS_MS = (0.0, 0.2, 1.0)
CORES = tuple(1 << i for i in range((os.cpu_count() or 1).bit_length()))
"""1, 2, 4, .. of the machine's cores."""

Makers = dict[str, Callable[[int, int], object]]
"""By the client's name: makes a client for a chunk size and a number of chunks."""
Group = tuple[str, Makers, Callable[[], None]]
"""A title, the clients, and a function that clears the store. The bench compares all clients with the first one."""
Opened = Callable[[Path, float], AbstractContextManager[Group]]
"""Opens a group's store. Gets the folder for files, and the seconds between two batches."""


class Kind(NamedTuple):
    """Where a group's clients are, and the sizes of its chunks."""

    environment: str
    """The engine whose packages the clients import."""
    module: str
    """The module below `interop.bench`, which has the group in its `GROUPS`."""
    sizes: tuple[str, ...]
    chunks: int = 0
    """Chunks of one batch. 0: as many as fill 256 MiB, at most 2048."""

    def open(self, name: str) -> Opened:
        """Imports the module."""
        groups: dict[str, Opened] = importlib.import_module(f"interop.bench.{self.module}").GROUPS
        return groups[name]


GROUPS = {name: Kind("lmcache", "lmcache", LMCACHE_SIZES) for name in ("redis", "fs", "external")} | {
    "lmcache-server": Kind("lmcache", "server", ENGINE_SIZES),
    "s3-adapter-1": Kind("lmcache", "s3", OBJECT_SIZES),
    "s3-adapter-8": Kind("lmcache", "s3", OBJECT_SIZES),
    "s3-connector-8": Kind("lmcache", "s3", OBJECT_SIZES),
    "topology-tls": Kind("lmcache", "topologies", TLS_SIZES),
    "topology-cluster": Kind("lmcache", "topologies", CLUSTER_SIZES),
    "topology-valkey": Kind("lmcache", "topologies", LMCACHE_SIZES),
    **{f"burst-{store}": Kind("lmcache", "limits", BURST_SIZES, 16) for store in ("redis", "fs")},
    **{f"big-{store}": Kind("lmcache", "limits", BIG_SIZES) for store in ("redis", "fs")},
    **{f"latency-{delay:g}": Kind("lmcache", "limits", ("1MiB",), 64) for delay in DELAYS_MS},
    **{f"cores-{store}-{cores}": Kind("lmcache", "limits", CORE_SIZES, 64) for store in ("redis", "fs") for cores in CORES},
    **{f"scale-{store}": Kind("lmcache", "scale", ("1KiB",), 100_000) for store in ("redis", "fs")},
    **{f"cpu-{store}": Kind("lmcache", "cpu", ("1MiB",), 128) for store in ("redis", "valkey", "tls", "cluster", "fs")},
    "cpu-s3": Kind("lmcache", "cpu", ("4MiB",), 16),
    "vllm-fs": Kind("vllm", "vllm", ENGINE_SIZES),
    "vllm-redis": Kind("vllm", "vllm", ENGINE_SIZES),
    "sglang-fs": Kind("sglang", "sglang", ENGINE_SIZES),
    "sglang-redis": Kind("sglang", "sglang", ENGINE_SIZES),
}


def chosen(names: list[str]) -> list[str]:
    """The groups of these names. `vllm` is every group whose name starts with `vllm-`.

    Raises `KeyError` with the first unknown name.
    """
    found: list[str] = []
    for name in names or ["redis", "fs", "external"]:
        groups = [group for group in GROUPS if group == name or group.startswith(f"{name}-")]
        if not groups:
            raise KeyError(name)
        found += groups
    return found


@contextmanager
def files(folder: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """A directory below `folder` for the clients' files, and a function that removes the chunks in it."""
    with tempfile.TemporaryDirectory(prefix="kvconn-interop-", dir=folder) as root:

        def clear() -> None:
            for file in Path(root).rglob("*"):
                # vLLM's tier writes its `config.json` once.
                if file.is_file() and file.suffix != ".json":
                    file.unlink()

        yield root, clear
