"""Uses that a type checker reports. `test_typing.py` checks that mypy and pyright report each line here."""

import kvconn

store = kvconn.connect("memory://x")
store.put("k")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
store.put("k", "text")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
store.put(1, b"1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
store.put("k", b"1", (1,), "uint8")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
store.put("k", b"1", dtyp="uint8")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
store.put("k", b"1", shape=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
store.put("k", b"1", dtype=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
store.batched_put({1: b"1"})  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
store.batched_put(5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
store.get_into("k", 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
store.get("k").tobytes()  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]
len(store.get("k"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
store.get("k").shape  # type: ignore[union-attr]  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
store.batched_get([1, 2])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
store.batched_put([("k", 5)])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
store.batched_get(["k"], return_exceptions=True)[0].tobytes()  # type: ignore[union-attr]  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
store.capabilities["lists"]  # type: ignore[typeddict-item]  # pyright: ignore[reportGeneralTypeIssues]
store.capabilities = {}  # type: ignore[misc, typeddict-item]  # pyright: ignore[reportAttributeAccessIssue]
store.no_such_method()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
kvconn.no_such_function()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
kvconn.Store("redis://h:6379")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

kvconn.Key("m@1@0@ff@half")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
kvconn.Key(model=1, world_size=1, worker_id=0, chunk_hash=1, dtype="half")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
kvconn.Key(model="m", world_size="1", worker_id=0, chunk_hash=1, dtype="half")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
kvconn.prefix_keys([1, 2], model="m", dtype="half", hash="md5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
kvconn.connect(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
kvconn.connect("memory://x", key_kind="layer")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
kvconn.connect("memory://x", pool_bytes="1GiB")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
kvconn.connect("memory://x", timeout_ms=[500])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
with kvconn.connect_async("memory://x"):  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues]
    pass


async def awaited(store: kvconn.AsyncStore) -> None:
    store.put("k", b"1")  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
    store.get("k").tobytes()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    await store.put("k", "text")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await store.list()  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]
    for _ in store.list():  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues]
        pass
    with store:  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues]
        pass
    kvconn.connect_async("memory://x").get("k")  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    async with kvconn.connect("memory://x"):  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues]
        pass
