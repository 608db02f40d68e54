"""`AsyncStore` has real coroutines, on each event loop of asyncio."""

import asyncio
import gc
import inspect
import unittest
import warnings
from types import SimpleNamespace
from unittest import mock

import anyio
import kvconn
import trio
import uvloop
from kvconn import _libraries
from support import TestCase, engine_key, wait_until

KEY = engine_key(1)


class Coroutines(TestCase):
    def setUp(self):
        self.url = f"memory://{self.id()}"

    async def use(self):
        """Each way to open a store and to start a call."""
        async with kvconn.connect_async(self.url) as store:
            await store.put(KEY, b"hello")
            async with asyncio.TaskGroup() as group:
                get = group.create_task(store.get(KEY))
                exists = group.create_task(store.exists(KEY))
            self.assertEqual((get.result(), exists.result()), (b"hello", True))
            self.assertEqual(await asyncio.gather(store.get(KEY), store.exists(KEY)), [b"hello", True])
            self.assertEqual(await asyncio.wait_for(store.get(KEY), 10), b"hello")
        with self.assertRaises(kvconn.ClosedError):
            await store.get(KEY)
        async with await kvconn.connect_async(self.url) as store:
            self.assertIsNone(await store.get(engine_key(2)))
        with self.assertRaises(kvconn.ClosedError):
            await store.get(KEY)
        stores = await asyncio.gather(*(kvconn.connect_async(self.url) for _ in range(3)))
        await asyncio.gather(*(store.close() for store in stores))
        return await asyncio.create_task(kvconn.connect_async(self.url))

    def test_asyncio(self):
        store = asyncio.run(self.use())
        self.assertIsInstance(store, kvconn.AsyncStore)
        # Another loop may use and close it.
        asyncio.run(store.close())

    def test_uvloop(self):
        store = uvloop.run(self.use())
        uvloop.run(store.close())

    def test_the_opening_is_a_coroutine(self):
        store = asyncio.run(kvconn.connect_async(self.url))
        asyncio.run(store.close())
        opening = kvconn.connect_async("redis://127.0.0.1:1")
        self.assertTrue(asyncio.iscoroutine(opening) and inspect.isawaitable(opening))
        # The error comes from the await, and not from the call.
        with self.assertRaises(kvconn.UnavailableError):
            asyncio.run(opening)

    def test_anyio_on_asyncio(self):
        async def main():
            async with kvconn.connect_async("mock://1?peeking_latency=20000") as store:
                with anyio.move_on_after(0.01) as scope:
                    await store.exists(KEY)
                self.assertTrue(scope.cancelled_caught)
            async with kvconn.connect_async(self.url) as store, anyio.create_task_group() as group:
                await store.put(KEY, b"hello")
                group.start_soon(store.get, KEY)

        anyio.run(main, backend="asyncio")

    def test_trio_is_refused(self):
        async def opened():
            await kvconn.connect_async(self.url)

        async def called():
            with kvconn.connect(self.url) as store:
                await store.aio.exists(KEY)

        for main in (opened, called):
            with self.assertRaisesRegex(kvconn.KvconnError, "asyncio.* with trio, call a `Store` in a thread") as raised:
                trio.run(main)
            self.assertIsInstance(raised.exception, RuntimeError)

    def test_each_method_is_a_coroutine_function(self):
        names = [name for name, value in vars(kvconn.Store).items() if inspect.isfunction(value) and name[0] != "_"]
        self.assertGreater(len(names), 15)
        for name in names:
            with self.subTest(name):
                method = getattr(kvconn.AsyncStore, name)
                self.assertEqual(inspect.iscoroutinefunction(method), name not in ("list", "list_entries"))
                blocking, awaited = inspect.signature(getattr(kvconn.Store, name)), inspect.signature(method)
                self.assertEqual(blocking.parameters, awaited.parameters)

    def test_a_coroutine_that_is_not_awaited_makes_a_warning(self):
        with kvconn.connect(self.url) as store:
            for call, name in (
                (lambda: store.aio.get(KEY), "AsyncStore.get"),
                (lambda: kvconn.connect_async(self.url), "connect_async"),
            ):
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    call()
                    gc.collect()
                self.assertEqual([str(w.message) for w in caught], [f"coroutine '{name}' was never awaited"])

    def test_a_store_whose_opening_is_cancelled_is_closed(self):
        async def main():
            library, opened = _libraries.of_url(self.url), []

            def connect_async(*args, **options):
                # The cancel comes after the store is there, and before the task runs again.
                opened.append(library.connect_async(*args, **options))
                opened[0].add_done_callback(lambda _: task.cancel())
                return opened[0]

            with mock.patch.object(_libraries, "of_url", return_value=SimpleNamespace(connect_async=connect_async)):
                task = asyncio.create_task(kvconn.connect_async(self.url))
                with self.assertRaises(asyncio.CancelledError):
                    await task
            return opened[0].result().blocking

        native = asyncio.run(main())

        def is_closed():
            try:
                native.exists(KEY)
            except kvconn.ClosedError:
                return True

        wait_until(is_closed, "the store is closed")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del native
            gc.collect()
        self.assertEqual(caught, [])

    def test_a_store_of_another_value_says_how_to_open_one(self):
        for given in ("redis://:secret@host", None):
            for make in (kvconn.Store, kvconn.AsyncStore):
                with self.assertRaisesRegex(TypeError, r"`kvconn\.connect\(url\)` opens one") as raised:
                    make(given)
                self.assertNotIn("secret", str(raised.exception))


if __name__ == "__main__":
    unittest.main()
