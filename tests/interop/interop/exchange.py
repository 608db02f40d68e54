"""Exchanges chunks in both directions: LMCache writes and kvconn reads, kvconn writes and LMCache reads."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from . import command
from .chunks import Chunk, Model, key
from .engine import Remote, remote
from .report import Failed, Report, equal

Pairs = list[tuple[str, Chunk]]


def lmcache_writes(
    lmcache: Remote, url: str, pairs: Pairs, raw: bool = False, listed: Callable[[str], str] = lambda text: text
) -> None:
    """LMCache stores chunks. kvconn must find, list and read them, with the layout if the store keeps it.

    `listed` gives the key that kvconn lists for LMCache's chunk of a key.
    """
    for text, chunk in pairs:
        lmcache.put(text, chunk)
    equal("the keys that `kvconn ls` shows", command.keys(url), {listed(text) for text, _ in pairs})
    for text, chunk in pairs:
        if not command.exists(url, text):
            raise Failed(f"{chunk.name}: kvconn does not find {text}")
        read = command.get(url, text)
        equal(f"{chunk.name}: the bytes that kvconn reads", read.data, chunk.data)
        equal(f"{chunk.name}: the layout that kvconn reads", read.layout, chunk.raw_layout_text if raw else chunk.layout_text)
    if command.exists(url, key("never stored")):
        raise Failed("kvconn finds a key that was never stored")


def kvconn_writes(lmcache: Remote, url: str, pairs: Pairs, raw: bool = False) -> None:
    """kvconn stores chunks. LMCache must find and read them, with shapes, dtypes and format."""
    for text, chunk in pairs:
        command.put(url, text, chunk.data, None if raw else chunk.layout)
    lmcache_has(lmcache, pairs)


def kvconn_copies(source: str, lmcache: Remote, url: str, pairs: Pairs) -> None:
    """kvconn copies chunks from a store that LMCache wrote. LMCache must read the copies."""
    command.copy(source, url)
    lmcache_has(lmcache, pairs)


def lmcache_has(lmcache: Remote, pairs: Pairs) -> None:
    """Fails unless LMCache finds and reads every chunk."""
    for text, chunk in pairs:
        if not lmcache.exists(text):
            raise Failed(f"{chunk.name}: LMCache does not find {text}")
        equal(f"{chunk.name}: the chunk that LMCache reads", lmcache.get(text, chunk), chunk)


def both_ways(report: Report, name: str, fresh, model: Model, pairs: Pairs, raw: bool = False, **options) -> None:
    """Checks both directions. Each starts with an empty store: `fresh()` gives its URLs for LMCache and for kvconn."""
    scheme = fresh()[1].split("://")[0]
    if not report.has(f"{name}: kvconn has it", lambda: command.require(scheme)):
        return
    with report.check(f"{name}: LMCache writes, kvconn reads"):
        theirs, ours = fresh()
        with remote(theirs, model, **options) as lmcache:
            lmcache_writes(lmcache, ours, pairs, raw)
    with report.check(f"{name}: kvconn writes, LMCache reads"):
        theirs, ours = fresh()
        with remote(theirs, model, **options) as lmcache:
            kvconn_writes(lmcache, ours, pairs, raw)
    with report.check(f"{name}: kvconn copies what LMCache wrote, LMCache reads"):
        source = fresh()
        with remote(source[0], model, **options) as lmcache:
            for text, chunk in pairs:
                lmcache.put(text, chunk)
        with tempfile.TemporaryDirectory(prefix="kvconn-interop-") as folder:
            # Copies through files, so that one server is enough.
            between = f"fs://{Path(folder) / 'kv'}" + ("?save_chunk_meta=false" if raw else "")
            command.copy(source[1], between)
            theirs, ours = fresh()
            with remote(theirs, model, **options) as lmcache:
                kvconn_copies(between, lmcache, ours, pairs)
