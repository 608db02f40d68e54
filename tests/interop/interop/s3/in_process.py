"""In-process mode: LMCache's `S3Connector` and kvconn, as the command, as `kvconn.Store` and as LMCache's plugin.

LMCache's object has the key's text as its name, with `_` in place of `/`, and no metadata. So kvconn lists such an object by its name,
and reads it by every key that has this name. What kvconn writes has the key in its metadata.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import kvconn

from .. import chunks, command
from ..engine import Remote, remote
from ..exchange import Pairs, kvconn_copies, kvconn_writes, lmcache_has, lmcache_writes
from ..report import Failed, Report, equal
from ..s3_server import BUCKET, REGION, SERVERS, S3Server
from ..wheel import all_methods, plugin

RAW = {"save_chunk_meta": False}
MODEL = chunks.PAGES
PAIRS = chunks.raw(MODEL)
UNUSUAL = ("org/my_model", "org/m+o d=e&l", "größe/モデル", "a%2Fb", "it's (a)~[b]{c}!$*;,", "q?u#o\"t<e>|^`")
"""Names of models with characters that a URL, XML or a signature writes in another way."""


def run(report: Report) -> None:
    """Runs all checks on each server."""
    if on_each_server(report, _command, _plugin, _names, _lengths):
        _bucket_of_the_host(report)


def on_each_server(report: Report, *checks: Callable[[Report, S3Server], None]) -> bool:
    """Runs the checks on each server, one after the other. False if kvconn has no S3."""
    if not report.has("s3: kvconn has it", lambda: command.require("s3")):
        return False
    for kind in SERVERS:
        with S3Server(kind) as server:
            for check in checks:
                check(report, server)
    return True


def flat(text: str) -> str:
    """The name of the object of an in-process key."""
    return text.replace("/", "_")


@contextmanager
def lmcache(server: S3Server, model: chunks.Model = MODEL) -> Iterator[Remote]:
    """LMCache's own connector."""
    with remote(server.theirs, model, **RAW, **server.extra_config) as opened:
        yield opened


@contextmanager
def wheel(server: S3Server, model: chunks.Model = MODEL) -> Iterator[Remote]:
    """kvconn in LMCache."""
    with remote("plugin://kv", model, **RAW, **plugin("kv", server.ours())) as opened:
        yield opened


def _command(report: Report, server: S3Server) -> None:
    texts = {text for text, _ in PAIRS}
    with report.check(f"s3: {server.kind}: LMCache writes, kvconn reads"), lmcache(server) as theirs:
        server.empty()
        lmcache_writes(theirs, server.ours(), PAIRS, raw=True, listed=flat)
        for text, chunk in PAIRS:
            equal(f"{chunk.name}: by the name that kvconn lists", command.get(server.ours(), flat(text)).data, chunk.data)
    with report.check(f"s3: {server.kind}: kvconn writes, LMCache reads"), lmcache(server) as theirs:
        server.empty()
        kvconn_writes(theirs, server.ours(), PAIRS, raw=True)
        equal("the objects on the server", server.names(), {flat(text) for text in texts})
        equal("the keys that `kvconn ls` shows", command.keys(server.ours()), texts)
    with report.check(f"s3: {server.kind}: kvconn copies what LMCache wrote, LMCache reads"):
        server.empty()
        with lmcache(server) as theirs:
            for text, chunk in PAIRS:
                theirs.put(text, chunk)
        with tempfile.TemporaryDirectory(prefix="kvconn-interop-") as folder:
            between = f"fs://{folder}?save_chunk_meta=false"
            command.copy(server.ours(), between)
            server.empty()
            with lmcache(server) as theirs:
                kvconn_copies(between, theirs, server.ours(), PAIRS)
    with report.check(f"s3: {server.kind}: kvconn.Store reads what LMCache wrote, LMCache reads what it wrote"):
        server.empty()
        with lmcache(server) as theirs, kvconn.connect(server.ours()) as store:
            for text, chunk in PAIRS[:2]:
                theirs.put(text, chunk)
                equal(f"{chunk.name}: the bytes that kvconn reads", bytes(store.get(text)), chunk.data)
            for text, chunk in PAIRS[2:]:
                store.put(text, chunk.data)
            lmcache_has(theirs, PAIRS)
            # LMCache's object has no metadata, also where it replaces one of kvconn's.
            text, other = PAIRS[2][0], MODEL.chunk("replaced")
            theirs.put(text, other)
            equal("what LMCache wrote over kvconn's", bytes(store.get(text)), other.data)
            store.put(PAIRS[0][0], other.data)
            # LMCache keeps the sizes that it has seen, so a new connector reads.
        with lmcache(server) as theirs:
            equal("what kvconn wrote over LMCache's", theirs.get(PAIRS[0][0], other), other)


def _plugin(report: Report, server: S3Server) -> None:
    for name, first, second in (
        ("LMCache writes, the wheel reads", lmcache, wheel),
        ("the wheel writes, LMCache reads", wheel, lmcache),
    ):
        with report.check(f"s3: {server.kind}: plugin://: {name}"):
            server.empty()
            with first(server) as writer:
                for text, chunk in PAIRS:
                    writer.put(text, chunk)
            with second(server) as reader:
                lmcache_has(reader, PAIRS)
    with report.check(f"s3: {server.kind}: plugin://: with the options of LMCache's own `s3://`"):
        server.empty()
        url = f"s3://{BUCKET}?endpoint=http://127.0.0.1:{server.port}"
        with remote("plugin://kv", MODEL, **RAW, **server.extra_config, **plugin("kv", url)) as writer:
            for text, chunk in PAIRS:
                writer.put(text, chunk)
        with lmcache(server) as reader:
            lmcache_has(reader, PAIRS)
    with report.check(f"s3: {server.kind}: plugin://: every method"), wheel(server) as store:
        server.empty()
        all_methods(store, PAIRS)


def _pair(model: str, number: int) -> tuple[str, chunks.Chunk]:
    return f"{model}@1@0@{number + 1:x}@bfloat16", MODEL.chunk(f"{model} {number}")


def _names(report: Report, server: S3Server) -> None:
    unusual: Pairs = [_pair(model, i) for i, model in enumerate(UNUSUAL)]
    with report.check(f"s3: {server.kind}: names with unusual characters: LMCache writes, kvconn reads"), lmcache(server) as theirs:
        server.empty()
        lmcache_writes(theirs, server.ours(), unusual, raw=True, listed=flat)
    with report.check(f"s3: {server.kind}: names with unusual characters: kvconn writes, LMCache reads"), lmcache(server) as theirs:
        server.empty()
        kvconn_writes(theirs, server.ours(), unusual, raw=True)
        equal("the keys that `kvconn ls` shows", command.keys(server.ours()), {text for text, _ in unusual})
    with report.check(f"s3: {server.kind}: two keys of one name"), lmcache(server) as theirs:
        server.empty()
        (slash, chunk), (line, other) = _pair("org/model", 0), _pair("org_model", 0)
        command.put(server.ours(), slash, chunk.data)
        equal("whether kvconn finds its other key", command.exists(server.ours(), line), False)
        # LMCache cannot tell them apart.
        equal("what LMCache reads by the other key", theirs.get(line, chunk), chunk)
        command.put(server.ours(), line, other.data)
        equal("whether kvconn finds the key whose object it replaced", command.exists(server.ours(), slash), False)
        theirs.put(slash, chunk)
        for text in (slash, line):
            equal(f"LMCache's object by {text}", command.get(server.ours(), text).data, chunk.data)


def _bucket_of_the_host(report: Report) -> None:
    """A bucket with the name of the first part of the server's host. A client must not take that part off the host."""
    with report.check("s3: moto: a bucket with the name of the server's first part"), S3Server("moto") as server:
        bucket, (text, chunk) = "127", PAIRS[0]
        server.create(bucket)
        url = f"s3://{bucket}?endpoint=http://127.0.0.1:{server.port}&region={REGION}&access_key_id=a&secret_access_key=b"
        command.put(url, text, chunk.data)
        equal("the bytes that kvconn reads", command.get(url, text).data, chunk.data)


def _lengths(report: Report, server: S3Server) -> None:
    """Objects of other lengths, as a torn upload or another configuration leaves them. Neither side gives a chunk of a wrong length."""
    (text, chunk), *_ = PAIRS
    for name, data in (("empty", b""), ("one byte short", chunk.data[:-1]), ("longer", chunk.data * 2)):
        with report.check(f"s3: {server.kind}: an object of another length: {name}"):
            server.empty()
            server.write(flat(text), data)
            with lmcache(server) as theirs:
                equal("what LMCache reads", theirs.get(text, chunk), None)
            with wheel(server) as ours:
                before = ours.free()
                if (read := _read(ours, text, chunk)) is not None:
                    raise Failed(f"kvconn gives {read!r}")
                equal("bytes free in LMCache's pool", ours.free(), before)


def _read(store: Remote, text: str, like: chunks.Chunk) -> chunks.Chunk | None:
    try:
        return store.get(text, like)
    except kvconn.KvconnError:
        return None  # An error is not a chunk, either.
