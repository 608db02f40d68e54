"""A connector that panics: every call is an error that says which connector and which operation."""

import os
import unittest

import faulty
import kvconn
from kvconn import NativeClient, _libraries
from support import TestCase, completions, engine_key, object_key

# A backtrace for each panic would hide the tests' own output.
os.environ["RUST_BACKTRACE"] = "0"

KEY = engine_key(0)
NAME = "faulty/PanickingConnector"
LISTED = 700
OPERATIONS = {
    "put": lambda store: store.put(KEY, b"1"),
    "get": lambda store: store.get(KEY),
    "get_into": lambda store: store.get_into(KEY, bytearray(1)),
    "exists": lambda store: store.exists(KEY),
    "remove": lambda store: store.remove(KEY),
    "ping": lambda store: store.ping(),
    "batched_put": lambda store: store.batched_put([(KEY, b"1")]),
    "batched_get": lambda store: store.batched_get([KEY]),
    "batched_get_into": lambda store: store.batched_get_into([KEY], [bytearray(1)]),
    "batched_exists": lambda store: store.batched_exists([KEY]),
    "batched_contains": lambda store: store.batched_contains([KEY]),
    "batched_remove": lambda store: store.batched_remove([KEY]),
}


class Panics(TestCase, unittest.IsolatedAsyncioTestCase):
    def setUp(self):
        libraries = [*_libraries._libraries]
        self.addCleanup(lambda: setattr(_libraries, "_libraries", libraries))
        _libraries._libraries = [*libraries]
        kvconn.carry(faulty)

    def check(self, error, operation):
        self.assertEqual((error.kind, error.operation, error.connector), ("other", operation, NAME))
        self.assertIn("panicked", str(error))
        self.assertNotIn("exit", str(error))

    def test_a_blocking_call(self):
        with kvconn.connect("panics://h") as store:
            for operation, call in OPERATIONS.items():
                with self.subTest(operation), self.assertRaises(kvconn.KvconnError) as raised:
                    call(store)
                self.check(raised.exception, operation)

    async def test_an_awaited_call(self):
        async with await kvconn.connect_async("panics://h") as store:
            for operation, call in OPERATIONS.items():
                with self.subTest(operation), self.assertRaises(kvconn.KvconnError) as raised:
                    await call(store)
                self.check(raised.exception, operation)

    async def test_a_listing_does_not_look_whole(self):
        with kvconn.connect("panics://h") as store:
            keys = []
            with self.assertRaises(kvconn.KvconnError) as raised:
                for key in store.list():
                    keys.append(key)
            self.check(raised.exception, "list")
            self.assertEqual(len(keys), LISTED)
            keys = []
            with self.assertRaises(kvconn.KvconnError) as raised:
                async for key in store.aio.list():
                    keys.append(key)
            self.check(raised.exception, "list")
            self.assertEqual(len(keys), LISTED)

    def test_opening(self):
        for opener in (kvconn.connect, NativeClient, lambda url: faulty.LMCacheRemote(url, None, [], None, None)):
            with self.assertRaises(kvconn.KvconnError) as raised:
                opener("panics://open")
            self.check(raised.exception, "open")

    async def test_the_calls_of_lmcache(self):
        remote = faulty.LMCacheRemote("panics://h", None, [], None, None)
        calls = {
            "exists": lambda: remote.exists(KEY),
            "get": lambda: remote.get(KEY),
            "batched_contains": lambda: remote.contains([KEY]),
            "list": lambda: remote.list(),
            "ping": lambda: remote.ping(),
        }
        for operation, call in calls.items():
            with self.subTest(operation), self.assertRaises(kvconn.KvconnError) as raised:
                await call()
            self.check(raised.exception, operation)
        (error,) = await remote.batched_get([KEY])
        self.check(error, "batched_get")
        for operation, call in (
            ("exists", lambda: remote.exists_sync(KEY)),
            ("batched_contains", lambda: remote.contains_sync([KEY])),
            ("remove", lambda: remote.remove_sync(KEY)),
        ):
            with self.subTest(operation), self.assertRaises(kvconn.KvconnError) as raised:
                call()
            self.check(raised.exception, operation)
        await remote.close()

    def test_a_completion(self):
        client = NativeClient("panics://h")
        self.addCleanup(client.close)
        for operation, submit in (
            ("batched_get_into", lambda: client.submit_batch_get([object_key(1)], [bytearray(1)])),
            ("batched_put", lambda: client.submit_batch_set([object_key(1)], [b"1"])),
            ("batched_exists", lambda: client.submit_batch_exists([object_key(1)])),
            ("batched_remove", lambda: client.submit_batch_delete([object_key(1)])),
        ):
            submit()
            ((_, ok, error, _),) = completions(client)
            self.assertFalse(ok)
            self.assertIn(f"{operation} ({NAME}): the connector panicked", error)


if __name__ == "__main__":
    unittest.main()
