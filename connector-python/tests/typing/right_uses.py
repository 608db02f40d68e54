"""Uses that a type checker accepts, and the types that it finds. `test_typing.py` checks this file."""

import array
import asyncio
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, assert_type

import kvconn
import ml_dtypes
import numpy


def blocking(keys: list[str]) -> None:
    with kvconn.connect("memory://x", pool_bytes=1 << 20, key_kind="engine", timeout_ms=500, save=None) as store:
        assert_type(store, kvconn.Store)
        assert_type(store.aio, kvconn.AsyncStore)
        assert_type(store.capabilities["keeps_layout"], bool)
        assert_type(store.put("k", b"1", shape=(1,), dtype="uint8", format="KV_2LTD"), None)
        store.put("k", memoryview(bytearray(1)))
        assert_type(store.get("k"), kvconn.Chunk | None)
        assert_type(store.get_into("k", bytearray(1)), int | None)
        assert_type(store.exists("k"), bool)
        assert_type(store.list("prefix"), kvconn.Listing[str])
        for entry in store.list_entries():
            assert_type((entry.key, entry.size, entry.modified), tuple[str, int | None, float | None])
        with store.list() as listing:
            assert_type(next(listing), str)
        assert_type(store.servers()[0]["error"], kvconn.KvconnError | None)
        assert_type(store.batched_put([("k", b"1")]), list[None])
        assert_type(store.batched_get(keys), list[kvconn.Chunk | None])
        assert_type(store.batched_get(keys, return_exceptions=True), list[kvconn.Chunk | kvconn.KvconnError | None])
        assert_type(store.batched_get_into(keys, [bytearray(1)], return_exceptions=False), list[int | None])
        assert_type(store.batched_exists(keys, return_exceptions=bool(keys)), list[bool | kvconn.KvconnError])
        assert_type(store.batched_contains(keys), int)
        for chunk in store.get_prefix(keys):
            assert_type(memoryview(chunk), memoryview)
            assert_type(bytes(chunk) + chunk.tobytes(), bytes)
            assert_type(chunk.dtypes, list[str | None])


def arrays(store: kvconn.Store, keys: Iterator[str]) -> None:
    rows = numpy.zeros((2, 3), "float32")
    store.put("k", rows, shape=(6,), dtype=rows.dtype)
    store.put("k", rows.astype(ml_dtypes.bfloat16), dtype=ml_dtypes.bfloat16)
    store.put("k", array.array("d"), dtype=numpy.float64)
    assert_type(store.get_into("k", rows), int | None)
    assert_type(store.batched_put({"k": rows}, shape=(3, 2), dtype="float32", format="KV_T2D"), list[None])
    assert_type(store.batched_put(((key, rows) for key in keys), return_exceptions=True), list[kvconn.KvconnError | None])
    key = kvconn.Key(model="m", world_size=1, worker_id=0, chunk_hash=1, dtype="float32")
    by_key = {key: rows}
    assert_type(store.batched_put(by_key), list[None])
    assert_type(store.batched_put({key: rows, "k": rows}), list[None])
    store.batched_get_into(keys, iter([rows]))
    for chunk in store.get_prefix(keys):
        assert_type(chunk.numpy("bfloat16", (2, 3), group=0), numpy.ndarray[tuple[Any, ...], numpy.dtype[Any]])
        numpy.from_dlpack(chunk)
        chunk.torch(shape=(3, -1))


async def awaited(keys: list[str]) -> None:
    async with kvconn.connect_async("memory://x", timeout_ms=500) as store:
        assert_type(store, kvconn.AsyncStore)
        assert_type(store.blocking, kvconn.Store)
        assert_type(await store.get("k"), kvconn.Chunk | None)
        assert_type(await store.batched_get(keys), list[kvconn.Chunk | None])
        await store.put("k", numpy.zeros(3))
        assert_type(await store.batched_put({"k": numpy.zeros(3)}), list[None])
        assert_type(
            await store.batched_get(keys, return_exceptions=True), list[kvconn.Chunk | kvconn.KvconnError | None]
        )
        assert_type(store.list(), kvconn.AsyncListing[str])
        async with asyncio.TaskGroup() as group:
            task = group.create_task(store.get_into("k", bytearray(1)))
        assert_type(task.result(), int | None)
    async with await kvconn.connect_async("memory://x") as store:
        assert_type(store, kvconn.AsyncStore)


def of_keys(tokens: list[int]) -> None:
    key = kvconn.Key(model="m", world_size=1, worker_id=0, chunk_hash=b"\x1f\x2e", dtype="half", tags={"user": "ann"})
    assert_type(key.with_layer(1), kvconn.Key)
    assert_type(kvconn.Key.parse(key).tags, tuple[tuple[str, str], ...])
    assert_type(kvconn.ObjectKey(model="m", kv_rank=1, chunk_hash="1f2e").chunk_hash, bytes)
    keys = kvconn.prefix_keys(tokens, model="m", dtype="bfloat16", hash="builtin")
    assert_type(keys, list[kvconn.Key])
    with kvconn.connect("fs:///kv", tls_ca=Path("ca.pem"), timeout_ms=Fraction(1, 2)) as store:
        assert_type(store.get_prefix(keys), list[kvconn.Chunk])
        assert_type(key in store, bool)


assert_type(asyncio.run(kvconn.connect_async("memory://x")), kvconn.AsyncStore)
assert_type(kvconn.connectors()[0].options["timeout_ms"]["unit"], str | None)
