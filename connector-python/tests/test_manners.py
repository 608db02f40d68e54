"""A store behaves as other Python objects: repr, `in`, copies, pickles, options of any class, iterators that close, warnings."""

import asyncio
import copy
import gc
import multiprocessing
import os
import pathlib
import pickle
import unittest
import warnings
from fractions import Fraction
from textwrap import dedent

import numpy

import kvconn
from support import TestCase, engine_key, run_child

KEY = engine_key(1)
PASSWORD = "hunter2"


def put_from_child(store, key):
    store.put(key, b"from the child")
    store.close()


class Manners(TestCase):
    def store(self, url=None, **options):
        store = kvconn.connect(url or f"memory://{self.id()}", **options)
        self.addCleanup(store.close)
        return store

    def test_repr_and_url_say_which_store_it_is_without_secrets(self):
        store = self.store("redis://user:hunter2@127.0.0.1:1/2", password_file=None, connect="lazy", timeout_ms=500)
        self.assertEqual(store.url, "redis://***@127.0.0.1:1/2?connect=lazy&timeout_ms=500")
        self.assertEqual(repr(store), f"<kvconn.Store {store.url}>")
        self.assertEqual(repr(store.aio), f"<kvconn.AsyncStore {store.url}>")
        store.close()
        self.assertEqual(repr(store), f"<kvconn.Store {store.url} (closed)>")

    def test_closed_and_use_after_close(self):
        store = self.store()
        asynchronous = store.aio
        self.assertEqual((store.closed, asynchronous.closed), (False, False))
        store.close()
        store.close()
        self.assertEqual((store.closed, asynchronous.closed, asynchronous.blocking.closed), (True, True, True))
        with self.assertRaises(kvconn.ClosedError):
            store.get(KEY)
        with self.assertRaises(kvconn.ClosedError):
            store.batched_get([KEY])
        with self.assertRaises(kvconn.ClosedError):
            next(iter(store.list()))
        with self.assertRaises(kvconn.ClosedError), store:
            self.fail("a closed store was entered")

    def test_a_with_block_in_another_and_after_another(self):
        with self.store() as store, store as same:
            self.assertIs(same, store)
        self.assertTrue(store.closed)

    def test_capabilities(self):
        self.assertEqual(
            self.store(capacity=1000).capabilities,
            {"remove": True, "list": True, "ping": True, "keeps_layout": True, "max_key_bytes": None, "max_chunk_bytes": 1000},
        )

    def test_in_asks_for_the_key(self):
        store = self.store()
        store.put(KEY, b"x")
        self.assertTrue(KEY in store and engine_key(2) not in store)
        with self.assertRaises(kvconn.InvalidError):
            7 in store

    def test_in_an_async_store_says_what_to_write(self):
        with self.assertRaisesRegex(TypeError, "await store.exists"):
            KEY in self.store().aio

    def test_a_store_is_neither_a_sequence_nor_a_sized_thing(self):
        for store in (self.store(), self.store().aio):
            self.assertTrue(store)
            for wrong in (len, iter):
                with self.assertRaises(TypeError):
                    wrong(store)

    def test_numbers_and_paths_of_any_class_are_options(self):
        for number in (numpy.int64(1000), numpy.array(1000), numpy.uint16(1000)):
            self.assertEqual(self.store("memory://", capacity=number).capabilities["max_chunk_bytes"], 1000)
        for number in (numpy.float32(0.5), numpy.float64(0.5), Fraction(1, 2)):
            self.assertEqual(self.store("mock://1", peeking_latency=number).url, "mock://1?peeking_latency=0.5")
        directory = self.directory()
        for value in (numpy.bool_(False), False):
            self.assertIn("save_chunk_meta=false", self.store(f"fs://{directory}", save_chunk_meta=value).url)
        for path in (pathlib.Path("/nowhere/ca.pem"), pathlib.PurePosixPath("/nowhere/ca.pem")):
            with self.assertRaisesRegex(kvconn.InvalidError, "/nowhere/ca.pem"):
                kvconn.connect("rediss://127.0.0.1:1", tls_ca=path)
        self.assertEqual(self.store(pool_bytes=numpy.int64(1 << 20)).name, "kvconn.memory/MemoryConnector")

    def test_other_classes_are_refused_by_name(self):
        for value, why in (([1], "is a list"), ({}, "is a dict"), (object(), "is a object"), (1j, "is a complex"), (b"1", "is a bytes")):
            with self.assertRaisesRegex(TypeError, f"the option `capacity` {why}; an option is a str, int, float, bool or path"):
                kvconn.connect("memory://", capacity=value)
        with self.assertRaises(kvconn.InvalidError):
            kvconn.connect("memory://", capacity=numpy.zeros(2))

    def test_a_path_is_not_a_url_and_the_error_says_what_to_write(self):
        for connect in (kvconn.connect, kvconn.NativeClient, lambda url: asyncio.run(kvconn.connect_async(url))):
            with self.assertRaisesRegex(kvconn.InvalidError, "a URL is a str, not a PosixPath; for files write 'fs:///var/kv'") as raised:
                connect(pathlib.Path("/var/kv"))
            self.assertIsInstance(raised.exception, TypeError)


class Iterators(TestCase):
    def setUp(self):
        self.keys = {engine_key(n) for n in range(1000)}
        self.store = kvconn.connect(f"memory://{self.id()}")
        self.addCleanup(self.store.close)
        self.store.batched_put([(key, b"x") for key in self.keys])

    def test_a_listing_can_be_closed_at_any_time(self):
        for listing in (self.store.list(), self.store.list_entries()):
            self.assertIs(iter(listing), listing)
            next(listing)
            listing.close()
            listing.close()
            self.assertEqual(list(listing), [])
        with self.store.list() as listing:
            self.assertIn(next(listing), self.keys)
        with self.assertRaises(StopIteration):
            next(listing)
        self.assertEqual({*self.store.list()}, self.keys)

    def test_an_async_listing_too(self):
        async def use():
            store = self.store.aio
            listing = store.list()
            self.assertIs(aiter(listing), listing)
            await anext(listing)
            await listing.aclose()
            await listing.aclose()
            self.assertEqual([key async for key in listing], [])
            async with store.list_entries() as listing:
                self.assertIn((await anext(listing)).key, self.keys)
            with self.assertRaises(StopAsyncIteration):
                await anext(listing)
            self.assertEqual({key async for key in store.list()}, self.keys)

        asyncio.run(use())

    def test_a_call_that_waits_for_a_key_ends_with_its_listing(self):
        with kvconn.connect("faulty://", back="memory://", latency_ms=60_000) as store:

            async def use():
                listing = store.aio.list()
                waiting = asyncio.create_task(anext(listing))
                await asyncio.sleep(0.01)
                await listing.aclose()
                with self.assertRaises(StopAsyncIteration):
                    await waiting

            asyncio.run(use())


class Copies(TestCase):
    def test_a_copy_opens_the_store_again_with_its_options(self):
        directory = self.directory()
        with kvconn.connect(f"fs://{directory}", timeout_ms=numpy.int64(5000), pool_bytes=1 << 20, key_kind="object") as store:
            key = "m@01000100@0@1f2e"
            store.put(key, b"hello")
            for again in (copy.copy(store), copy.deepcopy(store), pickle.loads(pickle.dumps(store))):
                with again:
                    self.assertIsNot(again, store)
                    self.assertEqual((type(again), again.url, again.get(key)), (kvconn.Store, store.url, b"hello"))
                    with self.assertRaises(kvconn.InvalidError):
                        again.get(KEY)
            self.assertFalse(store.closed)

    def test_a_copy_of_a_store_that_is_closed_or_of_the_parent_is_open(self):
        store = kvconn.connect(f"fs://{self.directory()}")
        store.put(KEY, b"hello")
        child = os.fork()
        if child == 0:
            with copy.copy(store) as again:
                os._exit(0 if store.closed and again.get(KEY) == b"hello" else 1)
        self.assertEqual(os.waitpid(child, 0)[1], 0)
        store.close()
        with copy.copy(store) as again:
            self.assertEqual((store.closed, again.get(KEY)), (True, b"hello"))

    def test_a_variable_travels_as_its_name_and_a_password_as_it_is(self):
        os.environ["KVCONN_TEST_PASSWORD"] = PASSWORD
        self.addCleanup(os.environ.pop, "KVCONN_TEST_PASSWORD")
        for password, travels in (("${KVCONN_TEST_PASSWORD}", False), (PASSWORD, True)):
            with kvconn.connect("redis://127.0.0.1:1", password=password, connect="lazy") as store:
                self.assertEqual(PASSWORD.encode() in pickle.dumps(store), travels)
                self.assertNotIn(PASSWORD, repr(store) + store.url)
                with pickle.loads(pickle.dumps(store)) as again:
                    self.assertEqual(again.url, store.url)

    def test_a_store_goes_to_a_process_that_was_spawned(self):
        with kvconn.connect(f"fs://{self.directory()}") as store:
            child = multiprocessing.get_context("spawn").Process(target=put_from_child, args=(store, KEY))
            child.start()
            child.join(30)
            self.assertEqual((child.exitcode, store.get(KEY)), (0, b"from the child"))

    def test_an_async_store_says_what_to_pickle(self):
        with kvconn.connect("memory://") as store:
            for wrong in (copy.copy, copy.deepcopy, pickle.dumps):
                with self.assertRaisesRegex(TypeError, "store.blocking"):
                    wrong(store.aio)
            with pickle.loads(pickle.dumps(store.aio.blocking)) as again:
                self.assertIsInstance(again.aio, kvconn.AsyncStore)

    def test_iterators_are_not_copied(self):
        with kvconn.connect("memory://") as store:
            with self.assertRaises(TypeError):
                pickle.dumps(store.list())


class Unclosed(TestCase):
    def test_the_warning_names_the_place_that_opened_the_store(self):
        program = """
            import asyncio, gc, kvconn
            def use():
                kvconn.connect("memory://")
            use()
            async def use_async():
                await kvconn.connect_async("memory://")
            asyncio.run(use_async())
            async def use_task():
                await asyncio.create_task(kvconn.connect_async("memory://"))
            asyncio.run(use_task())
            gc.collect()
        """
        path = pathlib.Path(self.directory(), "app.py")
        path.write_text(dedent(program))
        shown = run_child(f"""
import runpy, warnings
warnings.simplefilter("always")
warnings.showwarning = lambda message, category, *_: print(category.__name__, message)
runpy.run_path({str(path)!r})
""")
        for line in (4, 7, 10):
            self.assertIn(
                f"ResourceWarning unclosed store kvconn.memory/MemoryConnector, opened at {path}:{line}: call `close`, or open it in a "
                "`with` block",
                shown,
            )
        self.assertEqual(shown.count("ResourceWarning"), 3)

    def test_a_store_that_is_closed_or_whose_other_half_lives_makes_no_warning(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with kvconn.connect("memory://") as store:
                asynchronous = store.aio
            del store
            gc.collect()
            asyncio.run(asynchronous.close())
            del asynchronous
            gc.collect()


if __name__ == "__main__":
    unittest.main()
