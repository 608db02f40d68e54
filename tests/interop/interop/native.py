"""LMCache's C++ client of its multiprocess mode: raw values with object keys and with in-process keys."""

import select

from lmcache.lmcache_redis import LMCacheRedisClient
from lmcache.v1.distributed.api import ObjectKey
from lmcache.v1.distributed.l2_adapters.native_connector_l2_adapter import _object_key_to_string

from . import chunks, command
from .report import Failed, Report, equal
from .server import RedisServer

TIMEOUT_S = 30
THREADS = 4


class Client:
    """Calls the C++ client, one call at a time."""

    def __init__(self, port: int) -> None:
        self.client = LMCacheRedisClient("127.0.0.1", port, THREADS)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def set(self, items: dict[str, bytes]) -> None:
        """Writes each value in a separate call, because the values of a batch must have the same length."""
        for key, data in items.items():
            # The client's threads read this memory, but the client keeps no reference to it.
            memory = bytearray(data)
            self._wait(self.client.submit_batch_set([key], [memoryview(memory)]))

    def get(self, sizes: dict[str, int]) -> dict[str, bytes]:
        """Reads values of known lengths."""
        buffers = {key: bytearray(size) for key, size in sizes.items()}
        for key, buffer in buffers.items():
            self._wait(self.client.submit_batch_get([key], [memoryview(buffer)]))
        return {key: bytes(buffer) for key, buffer in buffers.items()}

    def exists(self, keys: list[str]) -> list[bool]:
        """Whether the store has each key."""
        return [bool(found) for found in self._wait(self.client.submit_batch_exists(keys))]

    def _wait(self, call: int) -> list[bool]:
        while True:
            if not select.select([self.client.event_fd()], [], [], TIMEOUT_S)[0]:
                raise Failed(f"LMCache's client did not answer within {TIMEOUT_S} s")
            for done, ok, error, bools in self.client.drain_completions():
                if done == call:
                    if not ok:
                        raise Failed(f"LMCache's client: {error}")
                    return bools


def items() -> dict[str, bytes]:
    """Makes object keys with and without group and salt, and in-process keys. The values have unusual lengths."""
    keys = [
        ObjectKey(bytes.fromhex("9b259e14"), "meta-llama/Llama-3.1-8B", 0x01050805),
        ObjectKey(bytes.fromhex("00ff10"), "opt", 0, 0x1F),
        ObjectKey(bytes(range(32)), "opt", 0xFFFFFFFF, 2, "tenant-7.~"),
    ]
    texts = [_object_key_to_string(key) for key in keys] + [chunks.key("native"), chunks.key("tags", rest="@a%b")]
    sizes = [1, 4096, 100_003, 1 << 20, 77]
    made = [chunks.Chunk.of(text, (((size,), "uint8"),), "BINARY") for text, size in zip(texts, sizes, strict=True)]
    return {text: chunk.data for text, chunk in zip(texts, made, strict=True)}


def run(report: Report) -> None:
    """Checks both directions on `resp://`."""
    if not report.has("native: kvconn has resp", lambda: command.require("resp")):
        return
    wanted = items()
    with RedisServer() as server, Client(server.port) as client:
        url = f"resp://127.0.0.1:{server.port}"
        with report.check("native: LMCache's client writes, kvconn reads"):
            client.set(wanted)
            equal("the keys that `kvconn ls` shows", command.keys(url), set(wanted))
            for key, data in wanted.items():
                equal(f"{key}: the bytes that kvconn reads", command.get(url, key).data, data)
        with report.check("native: kvconn writes, LMCache's client reads"):
            server.ask("FLUSHALL")
            for key, data in wanted.items():
                command.put(url, key, data)
            equal("the keys on the server", server.keys(), set(wanted))
            equal("the keys that exist", client.exists([*wanted, "absent"]), [True] * len(wanted) + [False])
            read = client.get({key: len(data) for key, data in wanted.items()})
            for key, data in wanted.items():
                equal(f"{key}: the bytes that LMCache's client reads", read[key], data)
