"""Both directions of one store: LMCache writes and kvconn reads, kvconn writes and LMCache reads."""

import tempfile
from pathlib import Path

from . import command
from .chunks import Chunk, Model, key
from .engine import Remote, remote
from .report import Failed, Report, equal

Pairs = list[tuple[str, Chunk]]


def lmcache_writes(lmcache: Remote, url: str, pairs: Pairs, raw: bool = False) -> None:
    """What LMCache has stored, kvconn finds, lists and reads: bytes, and the layout where the store has it."""
    for text, chunk in pairs:
        lmcache.put(text, chunk)
    equal("the keys that `kvconn ls` shows", command.keys(url), {text for text, _ in pairs})
    for text, chunk in pairs:
        if not command.exists(url, text):
            raise Failed(f"{chunk.name}: kvconn does not find {text}")
        read = command.get(url, text)
        equal(f"{chunk.name}: the bytes that kvconn reads", read.data, chunk.data)
        equal(f"{chunk.name}: the layout that kvconn reads", read.layout, chunk.said_raw if raw else chunk.said)
    if command.exists(url, key("nobody has put this")):
        raise Failed("kvconn finds what nobody has put")


def kvconn_writes(lmcache: Remote, url: str, pairs: Pairs, raw: bool = False) -> None:
    """What kvconn has stored, LMCache finds and reads: bytes, shapes, dtypes and format."""
    for text, chunk in pairs:
        command.put(url, text, chunk.data, None if raw else chunk.layout)
    lmcache_has(lmcache, pairs)


def kvconn_copies(source: str, lmcache: Remote, url: str, pairs: Pairs) -> None:
    """What kvconn has copied from a store that LMCache wrote, LMCache reads."""
    command.copy(source, url)
    lmcache_has(lmcache, pairs)


def lmcache_has(lmcache: Remote, pairs: Pairs) -> None:
    """LMCache finds and reads each of them."""
    for text, chunk in pairs:
        if not lmcache.exists(text):
            raise Failed(f"{chunk.name}: LMCache does not find {text}")
        equal(f"{chunk.name}: the chunk that LMCache reads", lmcache.get(text, chunk), chunk)


def both_ways(report: Report, name: str, fresh, model: Model, pairs: Pairs, raw: bool = False, **options) -> None:
    """Both directions, each on an empty store: `fresh()` gives the URLs for LMCache and for kvconn of one."""
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
            # By way of files, so that one server is enough.
            between = f"fs://{Path(folder) / 'kv'}" + ("?save_chunk_meta=false" if raw else "")
            command.copy(source[1], between)
            theirs, ours = fresh()
            with remote(theirs, model, **options) as lmcache:
                kvconn_copies(between, lmcache, ours, pairs)
