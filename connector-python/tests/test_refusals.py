"""Every refusal is a `KvconnError`. Some are also of the class that Python programs expect."""

import asyncio
import logging
import types
import unittest

import kvconn
from kvconn import NativeClient, _kvconn
from kvconn._version import check_version
from support import TestCase, completions, engine_key, object_key, wait_until

KEY = engine_key(0)
SURROGATE = "m\ud800@1@0@ff@half"
BAD_KEYS = [SURROGATE, "no key", "", 1, None, b"m@1@0@ff@half"]


class Refusals(TestCase, unittest.IsolatedAsyncioTestCase):
    def store(self):
        store = kvconn.connect(f"memory://{self.id()}")
        self.addCleanup(store.close)
        return store

    def refused(self, call, also):
        with self.assertRaises(kvconn.InvalidError) as raised:
            call()
        self.assertIsInstance(raised.exception, also)
        self.assertTrue(str(raised.exception))
        # A `UnicodeEncodeError` would hold the whole text, such as a URL with its password.
        self.assertIsNone(raised.exception.__cause__ or raised.exception.__context__)
        return raised.exception

    def test_bad_arguments(self):
        store, client = self.store(), NativeClient(f"memory://{self.id()}")
        self.addCleanup(client.close)
        for call, also in [
            (lambda: kvconn.connect("memory://\ud800"), ValueError),
            (lambda: kvconn.connect(5), TypeError),
            (lambda: _kvconn.connect(5), TypeError),
            (lambda: kvconn.connect("memory://x", pool_bytes=-1), ValueError),
            (lambda: kvconn.connect("memory://x", pool_bytes="1"), TypeError),
            (lambda: kvconn.connect("memory://x", timeout_ms="\ud800"), ValueError),
            (lambda: kvconn.connect("memory://x", timeout_ms=[1]), TypeError),
            (lambda: kvconn.connect("memory://x?timeout_ms=5", timeout_ms=6), ValueError),
            (lambda: NativeClient("memory://\ud800"), ValueError),
            (lambda: _kvconn.NativeClient(None), TypeError),
            (lambda: store.put(KEY, b"1", shape=[1]), ValueError),
            (lambda: store.put(KEY, b"1", shape=[-1], dtype="uint8", format="BINARY"), ValueError),
            (lambda: store.put(KEY, b"1", shape=5, dtype="uint8", format="BINARY"), TypeError),
            (lambda: store.put(KEY, b"1", shape=[1], dtype="uint9", format="BINARY"), ValueError),
            (lambda: store.put(KEY, "text"), TypeError),
            (lambda: store.put(KEY, memoryview(b"1234")[::2]), ValueError),
            (lambda: store.get_into(KEY, b"1"), ValueError),
            (lambda: store.list("\ud800"), ValueError),
            (lambda: store.list(1), TypeError),
            (lambda: store.batched_get(KEY), TypeError),
            (lambda: store.batched_get(5), TypeError),
            (lambda: store.batched_get([KEY], return_exceptions=1), TypeError),
            (lambda: store.batched_put([KEY]), TypeError),
            (lambda: store.batched_get_into([KEY], []), ValueError),
            (lambda: store.batched_contains([KEY, SURROGATE]), ValueError),
            (lambda: client.submit_batch_exists([1]), TypeError),
            (lambda: client.submit_batch_get([object_key(1)], []), ValueError),
            (lambda: kvconn.carry(asyncio), TypeError),
        ]:
            with self.subTest(line=call.__code__.co_firstlineno):
                self.refused(call, also)

    def test_what_an_argument_raises_is_not_taken_for_another_error(self):
        class Raising:
            def __init__(self, error):
                self.error = error

            def raise_it(self, *_):
                raise self.error

            __index__ = __iter__ = __float__ = raise_it

        store = self.store()
        for call in (
            lambda error: kvconn.connect("memory://x", timeout_ms=Raising(error)),
            lambda error: kvconn.connect("memory://x", pool_bytes=Raising(error)),
            lambda error: store.batched_get(Raising(error)),
            lambda error: store.put(KEY, b"1", shape=[Raising(error)], dtype="uint8"),
        ):
            with self.subTest(line=call.__code__.co_firstlineno):
                self.assertIs(type(self.refused(lambda: call(RuntimeError("wrong")), ValueError)), kvconn.InvalidError)
                with self.assertRaises(KeyboardInterrupt):
                    call(KeyboardInterrupt())

    def test_a_number_out_of_range_is_shown(self):
        for call, shown in (
            (lambda: kvconn.connect("memory://x", pool_bytes=-1), "-1 is out of range"),
            (lambda: kvconn.connect("memory://x", pool_bytes=2**70), f"{2**70} is out of range"),
            (lambda: self.store().put(KEY, b"1", shape=(1, -1), dtype="uint8"), r"\(1, -1\) is out of range"),
        ):
            with self.subTest(shown=shown), self.assertRaisesRegex(kvconn.InvalidError, shown):
                call()

    def test_the_message_names_the_argument(self):
        store = self.store()
        for call, message in (
            (lambda: kvconn.connect(None), "a URL is a str, not a NoneType"),
            (lambda: store.put(KEY, memoryview(b"1234")[::2]), "`data` is not contiguous"),
            (lambda: store.batched_put([(KEY, b"1"), (KEY, 5)]), "buffer 1 is of the type int; give bytes, an array or a tensor"),
        ):
            with self.subTest(message=message):
                self.assertIn(message, str(self.refused(call, Exception)))
        with self.assertRaises(kvconn.InvalidError) as raised:
            store.put("hello", b"1")
        self.assertIn("kvconn.Key(", raised.exception.hint)
        with self.assertRaises(kvconn.InvalidError) as raised:
            kvconn.connect("memory://x", timout_ms=5)
        self.assertEqual(raised.exception.hint, "write `timeout_ms`")

    def test_bad_keys(self):
        store = self.store()
        for key in BAD_KEYS:
            with self.subTest(key=key):
                also = ValueError if isinstance(key, str) else TypeError
                for call in (
                    lambda: store.put(key, b"1"),
                    lambda: store.get(key),
                    lambda: store.get_into(key, bytearray(1)),
                    lambda: store.exists(key),
                    lambda: store.remove(key),
                    lambda: store.batched_get([KEY, key]),
                ):
                    self.assertEqual(self.refused(call, also).kind, "invalid_key")

    def test_a_batch_has_each_refusal_in_its_place(self):
        store = self.store()
        for bad in BAD_KEYS:
            with self.subTest(bad=bad):
                good = [engine_key(1), engine_key(2)]
                first, refused, second = store.batched_put(
                    [(good[0], b"1"), (bad, b"x"), (good[1], b"22")], return_exceptions=True
                )
                self.assertEqual((first, refused.kind, second), (None, "invalid_key", None))
                keys = [bad, good[0], bad, bad, good[1], bad]
                self.shown(store.batched_get(keys, return_exceptions=True), [b"1", b"22"])
                self.shown(store.batched_exists(keys, return_exceptions=True), [True, True])
                memory = [bytearray(2) for _ in keys]
                self.shown(store.batched_get_into(keys, memory, return_exceptions=True), [1, 2])
                self.assertEqual(memory[4], b"22")
                self.shown(store.batched_remove(keys, return_exceptions=True), [True, True])
        self.assertIsInstance(store.batched_get([SURROGATE], return_exceptions=True)[0], kvconn.InvalidError)

    def shown(self, answers, good):
        kinds = [getattr(answer, "kind", None) for answer in answers]
        self.assertEqual(kinds, ["invalid_key", None, "invalid_key", "invalid_key", None, "invalid_key"])
        self.assertEqual([answers[1], answers[4]], good)

    def test_a_batch_has_each_bad_buffer_in_its_place(self):
        store = self.store()
        keys = [engine_key(i) for i in range(5)]
        store.batched_put([(key, b"12") for key in keys])
        memory, shared = bytearray(2), bytearray(3)
        buffers = [memory, b"12", memoryview(shared)[:2], memoryview(shared)[1:], 5]
        answers = store.batched_get_into(keys, buffers, return_exceptions=True)
        self.assertEqual([answers[0], answers[2]], [2, 2])
        self.assertEqual([bytes(memory), bytes(shared)], [b"12", b"12\0"])
        for place, why in ((1, "read-only"), (3, "buffer 2 and buffer 3 overlap"), (4, "buffer 4 is of the type int")):
            self.assertIsInstance(answers[place], kvconn.InvalidError)
            self.assertIn(why, str(answers[place]))
        # A refused buffer is not held, and neither is one of the others after the call.
        buffers.clear()
        memory.append(1)
        shared.append(1)
        answers = store.batched_put([(keys[0], b"1"), (keys[1], 5)], return_exceptions=True)
        self.assertEqual((answers[0], type(answers[1]).__mro__[1]), (None, kvconn.InvalidError))
        with self.assertRaises(kvconn.InvalidError):
            store.batched_put([(keys[0], b"1"), (keys[1], 5)])

    def test_a_bad_key_of_a_submit_fails_alone(self):
        client = NativeClient(f"memory://{self.id()}")
        self.addCleanup(client.close)
        keys = [object_key(1), "m\udcff@00000001@0@00ff", object_key(2)]
        client.submit_batch_set(keys, [b"1"] * 3)
        ((_, ok, error, _),) = completions(client)
        self.assertFalse(ok)
        self.assertIn("surrogate", error)
        client.submit_batch_exists(keys)
        self.assertEqual(completions(client)[0][3], [True, False, True])

    async def test_the_calls_of_lmcache(self):
        remote = _kvconn.LMCacheRemote(f"memory://{self.id()}", None, [], None, None)
        self.assertEqual([e.kind for e in await remote.batched_get(["no key", SURROGATE])], ["invalid_key"] * 2)
        self.assertEqual(await remote.contains([KEY, SURROGATE]), 0)
        self.assertEqual(remote.contains_sync([KEY, SURROGATE]), 0)
        for key in BAD_KEYS:
            for call in (remote.exists, remote.exists_sync, remote.get, remote.remove_sync):
                with self.assertRaises(kvconn.InvalidError):
                    call(key)
        await remote.close()

    async def test_a_call_outside_of_a_loop(self):
        store = self.store()

        def call():
            with self.assertRaises(kvconn.KvconnError) as raised:
                store.aio.exists(KEY).send(None)
            self.assertIsInstance(raised.exception, RuntimeError)

        await asyncio.to_thread(call)


class KeyKinds(TestCase, unittest.IsolatedAsyncioTestCase):
    # The second field, the number of workers, has eight digits as an object key's has.
    ENGINE = "ann@example.com/opt@1@0@1f2e3d@bfloat16"
    OBJECT = "opt@00000001@0@00ff"

    def test_a_store_reads_keys_as_its_caller_says(self):
        url = f"memory://{self.id()}"
        with kvconn.connect(url, key_kind="engine") as engine, kvconn.connect(url, key_kind="object") as objects:
            engine.put(self.ENGINE, b"1")
            objects.put(self.OBJECT, b"2")
            for store, key in ((engine, self.OBJECT), (objects, self.ENGINE), (engine.aio.blocking, self.OBJECT)):
                with self.assertRaises(kvconn.InvalidError):
                    store.get(key)
                (refused,) = store.batched_get([key], return_exceptions=True)
                self.assertEqual(refused.kind, "invalid_key")
            with kvconn.connect(url) as store:
                self.assertEqual(store.batched_get([self.ENGINE, self.OBJECT]), [b"1", b"2"])
                self.assertEqual(set(store.list()), {self.ENGINE, self.OBJECT})
        with self.assertRaisesRegex(kvconn.InvalidError, "write `engine` or `object`"):
            kvconn.connect(url, key_kind="layer")

    async def test_lmcaches_classes_read_their_own_kind(self):
        url = f"memory://{self.id()}"
        remote, client = _kvconn.LMCacheRemote(url, None, [], None, None), NativeClient(url)
        self.addCleanup(client.close)
        client.submit_batch_set([self.OBJECT, self.ENGINE], [b"2", b"1"])
        self.assertFalse(completions(client)[0][1])
        client.submit_batch_exists([self.OBJECT])
        self.assertEqual(completions(client)[0][3], [True])
        self.assertFalse(await remote.exists(self.ENGINE))
        with self.assertRaises(kvconn.InvalidError):
            await remote.exists(self.OBJECT)
        await remote.close()


class Versions(TestCase):
    def test_the_versions_of_lmcache(self):
        with self.assertNoLogs("kvconn.lmcache", logging.INFO):
            for good in ("0.5", "0.5rc1", "0.5.0a1", "0.5.6", "v0.5.6", "0.5.6.post1", "0.5.7.dev3+g1a2b3c", "0.5+cu128", "0.5b2.dev1"):
                check_version(good)
        for old in ("0.4", "0.4.9", "0.4rc1", "0.1.9"):
            with self.assertRaisesRegex(kvconn.KvconnError, "needs LMCache 0.5 or newer"):
                check_version(old)
        for new in ("0.6rc1", "0.6", "0.10", "1.0", "2024.1"):
            with self.assertLogs("kvconn.lmcache", logging.WARNING):
                check_version(new)
        for unknown in ("0+unknown", "0.1.dev1+g1a2b3c", "main", ""):
            with self.assertLogs("kvconn.lmcache", logging.INFO):
                check_version(unknown)


class Logging(TestCase):
    def test_the_level_of_a_child_logger_counts(self):
        parent = logging.getLogger("kvconn")
        child = logging.getLogger("kvconn.connector_core")
        for logger in (parent, child):
            self.addCleanup(logger.setLevel, logger.level)
        parent.setLevel(logging.WARNING)
        with kvconn.connect(f"memory://{self.id()}"):
            records = []
            handler = logging.Handler()
            handler.emit = records.append
            parent.addHandler(handler)
            self.addCleanup(parent.removeHandler, handler)
            child.setLevel(logging.DEBUG)

            def heard():
                kvconn.connect(f"memory://{self.id()}-2").close()
                return records

            wait_until(heard, "a log line of the child")
            self.assertTrue(all(record.name.startswith("kvconn.connector_core") for record in records))


class Pool(TestCase):
    def test_a_store_on_a_closed_pool_does_not_open(self):
        closed = []
        allocator = types.SimpleNamespace(close=lambda: closed.append(1), size=1 << 20)
        backend = types.SimpleNamespace(memory_allocator=allocator, allocate=lambda *_, **__: None)
        url = f"memory://{self.id()}"
        older = _kvconn.LMCacheRemote(url, backend, [], None, None)
        allocator.close()
        self.assertEqual(closed, [1])
        with self.assertRaisesRegex(kvconn.ClosedError, "CPU backend was closed"):
            _kvconn.LMCacheRemote(url, backend, [], None, None)
        # Also when no older one lives.
        del older
        with self.assertRaisesRegex(kvconn.ClosedError, "CPU backend was closed"):
            _kvconn.LMCacheRemote(url, backend, [], None, None)

    def test_a_store_on_a_pool_that_was_closed_before_does_not_open(self):
        # As LMCache's `MixedMemoryAllocator` after its `close`.
        allocator = types.SimpleNamespace(close=lambda: None, size=1 << 20, _unregistered=True)
        backend = types.SimpleNamespace(memory_allocator=allocator, allocate=lambda *_, **__: None)
        with self.assertRaisesRegex(kvconn.ClosedError, "CPU backend was closed"):
            _kvconn.LMCacheRemote(f"memory://{self.id()}", backend, [], None, None)


if __name__ == "__main__":
    unittest.main()
