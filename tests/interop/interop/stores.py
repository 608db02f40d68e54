"""The groups of checks. Has the checks of the stores that LMCache and kvconn both have."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from . import cache_engine, chunks, churn, command, native, tools, vectors, wheel, wheel_faults
from .engine import remote
from .exchange import both_ways, kvconn_copies, lmcache_writes
from .report import Report
from .server import RedisServer

RAW = {"save_chunk_meta": False}


def fs(report: Report) -> None:
    """Checks files: with header, raw, with several groups, in several directories."""
    with _folders() as fresh:
        both_ways(report, "fs", fresh, chunks.PLAIN, chunks.with_header())
        by_copy(report, "fs, two groups", fresh, chunks.TWO_GROUPS, chunks.two_groups())
    with _folders("?save_chunk_meta=false") as fresh:
        both_ways(report, "fs, raw", fresh, chunks.PLAIN, chunks.raw(), raw=True, **RAW)
    with _folders(beside=["b", "c"]) as fresh:
        both_ways(report, "fs, three directories", fresh, chunks.PLAIN, chunks.with_header())


def redis(report: Report) -> None:
    """Checks the two keys of each chunk: over TCP, with password and database, and over a unix socket."""
    with RedisServer() as server:
        fresh = _flushed(server, f"redis://127.0.0.1:{server.port}")
        both_ways(report, "redis", fresh, chunks.PLAIN, chunks.with_header())
        by_copy(report, "redis, two groups", fresh, chunks.TWO_GROUPS, chunks.two_groups())
        both_ways(report, "redis, unix", _flushed(server, f"unix://{server.socket}"), chunks.PLAIN, chunks.with_header())
    password = "p@ss/w%rd"
    with RedisServer("--requirepass", password) as server:
        url = f"redis://:{quote(password, safe='')}@127.0.0.1:{server.port}/3"
        few = chunks.with_header()[:2]
        both_ways(report, "redis, password and database", _flushed(server, url, password), chunks.PLAIN, few)


def resp(report: Report) -> None:
    """Checks the one plain value of each full chunk."""
    with RedisServer() as server:
        fresh = _flushed(server, f"resp://127.0.0.1:{server.port}")
        both_ways(report, "resp", fresh, chunks.PLAIN, chunks.raw(), raw=True, **RAW)
    user, password = "lmcache", "s3cret"
    with RedisServer("--user", user, "on", f">{password}", "~*", "&*", "+@all") as server:
        address = f"127.0.0.1:{server.port}"

        def fresh() -> tuple[str, str]:
            server.ask("FLUSHALL")
            return f"resp://{address}", f"resp://{user}:{password}@{address}"

        both_ways(
            report, "resp, user", fresh, chunks.PLAIN, chunks.raw()[:1], raw=True, username=user, password=password, **RAW
        )


GROUPS = {
    "vectors": vectors.run,
    "fs": fs,
    "redis": redis,
    "resp": resp,
    "native": native.run,
    "wheel": wheel.run,
    "engine": cache_engine.run,
    "faults": wheel_faults.run,
    "churn": churn.run,
    "tools": tools.run,
}
SMOKE = ("vectors", "fs", "redis", "resp", "native")
"""The bytes that LMCache and kvconn share."""


def by_copy(report: Report, name: str, fresh, model: chunks.Model, pairs: list) -> None:
    """Checks chunks of several groups by a copy, because `kvconn put` takes only one group."""
    scheme = fresh()[1].split("://")[0]
    if not report.has(f"{name}: kvconn has it", lambda: command.require(scheme)):
        return
    with report.check(f"{name}: LMCache writes, kvconn reads"):
        theirs, ours = fresh()
        with remote(theirs, model) as lmcache:
            lmcache_writes(lmcache, ours, pairs)
    with report.check(f"{name}: kvconn copies, LMCache reads"), tempfile.TemporaryDirectory() as folder:
        source = f"fs://localhost:0{folder}"
        with remote(source, model) as lmcache:
            for text, chunk in pairs:
                lmcache.put(text, chunk)
        theirs, ours = fresh()
        with remote(theirs, model) as lmcache:
            kvconn_copies(source, lmcache, ours, pairs)


@contextmanager
def _folders(query: str = "", beside: list[str] | None = None) -> Iterator:
    with tempfile.TemporaryDirectory(prefix="kvconn-interop-") as root:
        made = 0

        def fresh() -> tuple[str, str]:
            nonlocal made
            made += 1
            paths = [str(Path(root) / f"{made}" / name) for name in ["a", *(beside or [])]]
            return f"fs://localhost:0{','.join(paths)}", f"fs://{','.join(paths)}{query}"

        yield fresh


def _flushed(server: RedisServer, url: str, password: str = ""):
    def fresh() -> tuple[str, str]:
        server.ask("FLUSHALL", password=password)
        return url, url

    return fresh
