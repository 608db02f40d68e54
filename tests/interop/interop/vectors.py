"""Compares the golden vectors of kvconn's tests with the bytes that this LMCache writes."""

import json
from pathlib import Path

from lmcache.utils import parse_cache_key
from lmcache.v1 import protocol
from lmcache.v1.memory_management import MemoryFormat

from . import chunks
from .engine import remote
from .report import Report, equal
from .server import RedisServer

FOLDER = Path(__file__).parents[2] / "vectors"


def run(report: Report) -> None:
    """Checks the keys and headers that LMCache writes to a redis server."""
    with RedisServer() as server:
        with report.check("vectors: the keys that LMCache writes to redis"):
            names = _rows("storage_names", "names")
            with remote(f"redis://127.0.0.1:{server.port}", chunks.PLAIN) as lmcache:
                for row in names:
                    # LMCache's parser drops leading zeros of a hash, and would then store under a different key.
                    if parse_cache_key(row["key"]).to_string() != row["key"]:
                        continue
                    server.ask("FLUSHALL")
                    lmcache.put(row["key"], chunks.PLAIN.chunk("a chunk"))
                    equal(row["key"], server.keys(), {row["redis_kv"], row["redis_metadata"]})
        for model in (chunks.PLAIN, chunks.TWO_GROUPS):
            with report.check(f"vectors: the values that LMCache writes to redis, groups: {len(model.groups)}"):
                server.ask("FLUSHALL")
                key, chunk = chunks.key("vectors"), model.chunk("vectors", tokens=7)
                with remote(f"redis://127.0.0.1:{server.port}", model) as lmcache:
                    lmcache.put(key, chunk)
                equal("kv_bytes", server.ask("GET", f"{key}kv_bytes"), chunk.data)
                equal("metadata", server.ask("GET", f"{key}metadata"), _header(chunk))
    with report.check("vectors: headers"):
        for row in _rows("remote_metadata", "records"):
            protocol.init_remote_metadata_info(row["groups"])
            read = protocol.RemoteMetadata.deserialize(bytes.fromhex(row["hex"]))
            equal("length", read.length, row["length"])
            equal("format", read.fmt, MemoryFormat[row["fmt"]])
            equal("written again", read.serialize().hex(), row["hex"])


def _header(chunk: chunks.Chunk) -> bytes:
    """Encodes a header: length, format, then the dtype and four dimensions of each group."""
    codes = json.loads((FOLDER / "remote_metadata.json").read_text())
    numbers = [len(chunk.data), codes["format_codes"][chunk.format]]
    for shape, dtype in chunk.groups:
        numbers += [codes["dtype_codes"][dtype], *shape, *[0] * (4 - len(shape))]
    return b"".join(number.to_bytes(4, "little", signed=True) for number in numbers)


def _rows(name: str, table: str) -> list[dict]:
    rows = json.loads((FOLDER / f"{name}.json").read_text())[table]
    if not rows:
        raise ValueError(f"{name}.json has no rows under {table}")
    return rows
