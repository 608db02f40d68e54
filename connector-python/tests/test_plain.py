"""kvconn.connect and connect_async: the API for Python programs."""

import asyncio
import gc
import logging
import os
import pickle
import threading
import time
import unittest

import kvconn
from support import TestCase, engine_key, run_child, wait_until

KEY = engine_key(1)


class Blocking(TestCase):
    def store(self, url=None, **options):
        store = kvconn.connect(url or f"memory://{self.id()}", **options)
        self.addCleanup(store.close)
        return store

    def test_a_chunk_is_bytes_like(self):
        store = self.store()
        for data in [b"hello", bytearray(b"hello"), memoryview(b"hello"), memoryview(b"..hello..")[2:7]]:
            store.put(KEY, data)
            chunk = store.get(KEY)
            self.assertIsInstance(chunk, kvconn.Chunk)
            self.assertEqual(chunk, b"hello")
            self.assertEqual((bytes(chunk), chunk.tobytes(), len(chunk)), (b"hello", b"hello", 5))
            view = memoryview(chunk)
            self.assertTrue(view.readonly and view.contiguous)
            with self.assertRaises(TypeError):
                view[0] = 1
        self.assertNotEqual(chunk, b"hellO")
        self.assertNotEqual(chunk, "hello")
        self.assertIsNone(store.get(engine_key(2)))

    def test_a_chunk_outlives_its_store(self):
        store = self.store(f"fs://{self.directory()}")
        store.put(KEY, b"hello")
        view = memoryview(store.get(KEY))
        store.close()
        del store
        gc.collect()
        self.assertEqual(bytes(view), b"hello")

    def test_shape_dtype_and_format_come_back_where_the_store_keeps_them(self):
        store = self.store(f"fs://{self.directory()}")
        store.put(KEY, bytes(2 * 3 * 4 * 5 * 2), shape=(2, 3, 4, 5), dtype="bfloat16", format="KV_2LTD")
        chunk = store.get(KEY)
        self.assertEqual((chunk.shapes, chunk.dtypes, chunk.format), ([(2, 3, 4, 5)], ["bfloat16"], "KV_2LTD"))
        store.put(KEY, b"hello")
        chunk = store.get(KEY)
        self.assertEqual((chunk.shapes, chunk.format), ([(5, 0, 0, 0)], "BINARY"))
        for wrong in [
            {"shape": (2, 3)},
            {"shape": (2, 3), "dtype": "bfloat17", "format": "KV_2LTD"},
            {"shape": (2, 3), "dtype": "bfloat16", "format": "KV"},
            {"shape": (2, 3), "dtype": "bfloat16", "format": "KV_2LTD"},
        ]:
            with self.assertRaises(ValueError):
                store.put(KEY, b"hello", **wrong)

    def test_get_into_fills_the_callers_memory(self):
        store = self.store()
        store.put(KEY, b"hello")
        memory = bytearray(8)
        self.assertEqual(store.get_into(KEY, memory), 5)
        self.assertEqual(memory[:5], b"hello")
        self.assertIsNone(store.get_into(engine_key(2), memory))
        with self.assertRaises(kvconn.KvconnError) as raised:
            store.get_into(KEY, bytearray(4))
        self.assertEqual((raised.exception.kind, raised.exception.operation), ("size_mismatch", "get_into"))
        with self.assertRaises(ValueError):
            store.get_into(KEY, bytes(8))
        # The buffer is free after the call.
        memory.append(1)

    def test_the_rest_of_the_operations(self):
        store = self.store()
        self.assertFalse(store.exists(KEY))
        store.put(KEY, b"hello")
        self.assertTrue(store.exists(KEY))
        store.ping()
        self.assertTrue(store.remove(KEY))
        self.assertFalse(store.remove(KEY))
        self.assertTrue(store.capabilities["remove"])
        self.assertEqual(store.name, "kvconn.memory/MemoryConnector")

    def test_batches_keep_order_and_length(self):
        store = self.store()
        keys = [engine_key(i) for i in range(5)]
        self.assertEqual(store.batched_put([(k, k.encode()) for k in keys[:3]]), [None] * 3)
        self.assertEqual(store.batched_get(keys), [k.encode() for k in keys[:3]] + [None] * 2)
        memory = [bytearray(100) for _ in keys]
        self.assertEqual(store.batched_get_into(keys, memory), [len(k) for k in keys[:3]] + [None] * 2)
        self.assertTrue(memory[2].startswith(keys[2].encode()))
        self.assertEqual(store.batched_exists(keys[::-1]), [False] * 2 + [True] * 3)
        self.assertEqual(store.batched_contains(keys), 3)
        small = [bytearray(100), bytearray(1)]
        with self.assertRaises(kvconn.KvconnError):
            store.batched_get_into(keys[:2], small)
        first, second = store.batched_get_into(keys[:2], small, return_exceptions=True)
        self.assertEqual((first, second.kind), (len(keys[0]), "size_mismatch"))
        self.assertEqual(store.batched_remove(keys), [True] * 3 + [False] * 2)
        with self.assertRaisesRegex(ValueError, "overlap"):
            store.batched_get_into(keys[:2], [small[0], small[0]])

    def test_list_gives_every_key_once(self):
        store = self.store()
        keys = {engine_key(i) for i in range(700)}
        store.batched_put([(k, b"x") for k in keys])
        listed = list(store.list())
        self.assertEqual((set(listed), len(listed)), (keys, 700))
        self.assertEqual(list(store.list("no-such-model")), [])
        self.assertIn(next(store.list("test-model")), keys)

    def test_list_entries_gives_sizes_and_times(self):
        store = self.store()
        before = time.time()
        store.batched_put([(engine_key(i), bytes(100 + i)) for i in range(300)])
        entries = list(store.list_entries())
        self.assertEqual({(e.key, e.size) for e in entries}, {(engine_key(i), 100 + i) for i in range(300)})
        self.assertTrue(all(isinstance(e, kvconn.ListEntry) for e in entries))
        # The two clocks may differ in their resolution.
        self.assertTrue(all(before - 1 < e.modified < time.time() + 1 for e in entries))
        self.assertEqual(list(store.list_entries("no-such-model")), [])

    def test_get_prefix_gives_the_chunks_before_the_first_hole(self):
        store = self.store()
        keys = [engine_key(i) for i in range(6)]
        store.batched_put([(k, k.encode()) for k in keys if k != keys[4]])
        self.assertEqual(store.get_prefix(keys), [k.encode() for k in keys[:4]])
        self.assertEqual([store.get_prefix(keys[4:]), store.get_prefix([])], [[], []])
        with self.assertRaises(kvconn.InvalidError):
            store.get_prefix([keys[0], "not a key"])

    def test_a_closed_store_says_so_and_may_be_closed_again(self):
        with kvconn.connect(f"memory://{self.id()}") as store:
            store.put(KEY, b"x")
        with self.assertRaises(kvconn.ClosedError):
            store.get(KEY)
        store.close()

    def test_errors_have_a_kind_and_a_hint(self):
        with self.assertRaises(kvconn.KvconnError) as raised:
            kvconn.connect("external://localhost:0/kvconn.fss/?connector_name=FSConnector")
        e = raised.exception
        self.assertEqual(e.kind, "not_found")
        self.assertIn("kvconn.fs", str(e) + (e.hint or ""))
        again = pickle.loads(pickle.dumps(e))
        self.assertEqual((type(again), str(again), again.hint), (type(e), str(e), e.hint))
        store = self.store()
        with self.assertRaises(kvconn.InvalidError) as raised:
            store.get("m@01@0@ff@half")
        self.assertIsInstance(raised.exception, ValueError)
        self.assertIn("write `1`", str(raised.exception))

    def test_a_lost_server_is_a_connection_error(self):
        server = self.redis()
        store = self.store(f"redis://127.0.0.1:{server.port}")
        store.put(KEY, b"hello")
        self.assertEqual(store.get(KEY), b"hello")
        server.kill()
        with self.assertRaises(kvconn.UnavailableError) as raised:
            store.get(KEY)
        self.assertIsInstance(raised.exception, ConnectionError)
        self.assertTrue(raised.exception.temporary)

    def test_the_pool_is_bounded_and_a_dropped_chunk_makes_room(self):
        store = self.store(f"fs://{self.directory()}", pool_bytes=1 << 20)
        store.put(KEY, bytes(600 << 10))
        held = store.get(KEY)
        with self.assertRaises(kvconn.KvconnError) as raised:
            store.get(KEY)
        self.assertEqual((raised.exception.kind, raised.exception.temporary), ("pool_full", True))
        del held
        self.assertEqual(len(store.get(KEY)), 600 << 10)

    def test_many_threads_share_a_store(self):
        store = self.store(f"resp://127.0.0.1:{self.redis().port}")
        failures = []

        def work(n):
            try:
                for i in range(30):
                    key = engine_key(n * 100 + i)
                    store.put(key, key.encode())
                    assert store.get(key) == key.encode()
            except BaseException as e:
                failures.append(e)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])

    def test_other_threads_run_while_a_call_waits(self):
        server = self.redis()
        store = self.store(f"resp://127.0.0.1:{server.port}?timeout_ms=20000")
        server.stop_answering()
        raised = []
        waiting = threading.Thread(target=lambda: raised.append(self.assertRaises(kvconn.KvconnError, store.get, KEY)))
        waiting.start()
        # Python gets here only if the waiting thread does not hold the interpreter's lock.
        server.kill()
        waiting.join(30)
        self.assertFalse(waiting.is_alive())

    def test_ctrl_c_ends_a_call_that_waits(self):
        server = self.redis()
        code = """
import os, signal, sys, threading, kvconn
store = kvconn.connect(f"resp://127.0.0.1:{sys.argv[1]}")
os.kill(int(sys.argv[2]), signal.SIGSTOP)
threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    store.get_into("m@1@0@ff@half", bytearray(10))
except KeyboardInterrupt:
    print("interrupted")
"""
        self.assertEqual(run_child(code, str(server.port), str(server.process.pid)), "interrupted\n")

    def test_connectors_lists_the_connectors_of_the_wheel(self):
        found = {(c.module, c.name): c for c in kvconn.connectors()}
        redis = found["kvconn.redis", "RedisConnector"]
        self.assertIn("redis", redis.schemes)
        self.assertTrue(redis.summary)
        self.assertIn("type", next(iter(found["kvconn.fs", "FSConnector"].options.values())))

    def logged(self, level):
        """The records that the logger `kvconn` gets, and the logger, at this level."""
        records, logger = [], logging.getLogger("kvconn")
        keep = logging.Handler()
        keep.emit = records.append
        self.addCleanup(logger.setLevel, logger.level)
        self.addCleanup(logger.removeHandler, keep)
        logger.addHandler(keep)
        logger.setLevel(level)
        return records, logger

    def test_a_level_that_is_changed_while_a_store_is_open_counts(self):
        records, logger = self.logged(logging.ERROR)
        store = self.store(f"audit://?actual_remote_url=memory%3A%2F%2F{self.id()}")
        store.put(KEY, b"hello")
        logger.setLevel(logging.DEBUG)

        def heard():
            store.get(KEY)
            return records

        wait_until(heard, "a log line at the new level")

    def test_log_lines_reach_pythons_logging(self):
        records, _ = self.logged(logging.DEBUG)
        store = self.store(f"audit://?actual_remote_url=memory%3A%2F%2F{self.id()}")
        store.put(KEY, b"hello")
        store.get(KEY)
        wait_until(lambda: records, "a log line")
        self.assertTrue(all(r.name.startswith("kvconn.") for r in records))
        self.assertTrue(all(r.getMessage() for r in records))

    def test_a_level_that_changes_counts_from_the_next_store_on(self):
        logger = logging.getLogger("kvconn")
        self.addCleanup(logger.setLevel, logger.level)
        # Each place that logs must not keep the first level for ever.
        logger.setLevel(logging.WARNING)
        self.store("memory://quiet")
        with self.assertLogs("kvconn", logging.DEBUG) as logged:
            self.store("memory://loud")
            wait_until(lambda: any("opened" in line for line in logged.output), "a log line")

    def test_the_import_is_light(self):
        code = "import sys, kvconn; print(kvconn.__version__, 'asyncio' in sys.modules, 'lmcache' in sys.modules)"
        self.assertEqual(run_child(code), f"{kvconn.__version__} False False\n")


class OnAsyncio(TestCase, unittest.IsolatedAsyncioTestCase):
    async def test_every_operation_can_be_awaited(self):
        async with kvconn.connect_async(f"fs://{self.directory()}") as store:
            await store.put(KEY, b"hello")
            self.assertEqual(await store.get(KEY), b"hello")
            memory = bytearray(5)
            self.assertEqual(await store.get_into(KEY, memory), 5)
            memory.append(1)
            self.assertTrue(await store.exists(KEY))
            keys = [engine_key(i) for i in range(300)]
            await store.batched_put([(k, k.encode()) for k in keys])
            self.assertEqual(await store.batched_get(keys), [k.encode() for k in keys])
            self.assertEqual(await store.batched_contains(keys), 300)
            self.assertEqual(await store.get_prefix(keys[:3]), [k.encode() for k in keys[:3]])
            self.assertEqual({k async for k in store.list()}, set(keys))
            self.assertEqual({e.key async for e in store.list_entries()}, set(keys))
            self.assertEqual(await store.batched_remove(keys[:2]), [True, True])
            self.assertFalse(await store.remove(keys[0]))
            self.assertEqual(store.blocking.exists(keys[5]), True)
            with self.assertRaises(TypeError):
                iter(store.list())
        with self.assertRaises(kvconn.ClosedError):
            await store.get(KEY)

    async def test_concurrent_calls_share_threads(self):
        store = await kvconn.connect_async("mock://1?peeking_latency=20")
        await asyncio.gather(*(store.exists(engine_key(i)) for i in range(8)))
        before = len(os.listdir("/proc/self/task"))
        await asyncio.gather(*(store.exists(engine_key(i)) for i in range(500)))
        self.assertLessEqual(len(os.listdir("/proc/self/task")) - before, 4)
        await store.close()

    async def test_errors_come_out_of_the_await(self):
        with self.assertRaises(kvconn.UnavailableError):
            await kvconn.connect_async("resp://127.0.0.1:1")
        store = await kvconn.connect_async(f"memory://{self.id()}")
        await store.put(KEY, b"hello")
        with self.assertRaises(kvconn.KvconnError):
            await store.get_into(KEY, bytearray(1))
        await store.close()

    async def test_ten_thousand_calls_are_cancelled(self):
        server = self.redis()
        store = await kvconn.connect_async(f"resp://127.0.0.1:{server.port}")
        await store.put(KEY, b"hello" * 1000)
        for round in range(100):
            memory = [bytearray(5000) for _ in range(101)]
            tasks = [asyncio.ensure_future(store.get_into(KEY, m)) for m in memory]
            if round % 2:
                await asyncio.sleep(0)
            for task in tasks[1:]:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            self.assertTrue(all(isinstance(d, asyncio.CancelledError) or d == 5000 for d in done), done)
            self.assertEqual(done[0], 5000)
        self.assertEqual(await store.get(KEY), b"hello" * 1000)
        await store.close()

    async def test_a_call_outside_of_a_loop_says_so(self):
        store = await kvconn.connect_async(f"memory://{self.id()}")
        with self.assertRaisesRegex(RuntimeError, "event loop"):
            await asyncio.to_thread(lambda: store.exists(KEY).send(None))
        await store.close()


if __name__ == "__main__":
    unittest.main()
