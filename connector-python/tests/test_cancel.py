"""A call that is cancelled, or ended by Ctrl-C, loses nothing."""

import asyncio
import random
import unittest

import kvconn
from support import TestCase, engine_key, run_child

KEYS = {engine_key(i) for i in range(20_000)}


class Cancelled(TestCase, unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        asyncio.get_running_loop().set_debug(False)
        self.store = await kvconn.connect_async(f"memory://{self.id()}")
        await self.store.batched_put([(key, b"1") for key in KEYS])

    async def asyncTearDown(self):
        await self.store.close()

    async def listed(self, anext):
        """All keys, when `anext(keys)` gives a key or None after it was cancelled."""
        keys, listed = self.store.list(), []
        while True:
            try:
                key = await anext(keys)
            except StopAsyncIteration:
                return listed
            if key is not None:
                listed.append(key)

    async def check(self, anext):
        listed = await self.listed(anext)
        self.assertEqual((len(listed), set(listed)), (len(KEYS), KEYS))

    async def test_next_keys_that_are_cancelled_at_any_time(self):
        chance = random.Random(1)
        cancelled = 0

        async def anext(keys):
            nonlocal cancelled
            task = asyncio.ensure_future(keys.__anext__())
            if chance.random() < 0.1:
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
                if chance.random() < 0.5:
                    await asyncio.sleep(0.0002)
                task.cancel()
            try:
                return await task
            except asyncio.CancelledError:
                cancelled += 1
                return None

        await self.check(anext)
        self.assertGreater(cancelled, 100)

    async def test_a_key_that_comes_just_before_the_cancel(self):
        async def anext(keys):
            waiting = asyncio.ensure_future(keys.__anext__())
            # The future inside is done, and its task has not run yet.
            asyncio.get_running_loop().call_soon(waiting.cancel)
            try:
                return await waiting
            except asyncio.CancelledError:
                return await keys.__anext__()

        await self.check(anext)

    async def test_next_keys_with_a_short_timeout(self):
        async def anext(keys):
            try:
                return await asyncio.wait_for(keys.__anext__(), 0.00001)
            except asyncio.TimeoutError:
                return None

        await self.check(anext)

    async def test_concurrent_next_keys_share_a_listing(self):
        keys, listed = self.store.list(), []

        async def work():
            async for key in keys:
                listed.append(key)

        await asyncio.gather(*(work() for _ in range(8)))
        self.assertEqual((len(listed), set(listed)), (len(KEYS), KEYS))
        with self.assertRaises(StopAsyncIteration):
            await keys.__anext__()


class CtrlC(TestCase):
    def test_a_listing_goes_on_after_ctrl_c(self):
        server = self.redis()
        code = """
import os, signal, sys, threading, kvconn
server = int(sys.argv[2])
store = kvconn.connect(f"redis://127.0.0.1:{sys.argv[1]}")
stored = {f"m@1@0@{i + 1:x}@half" for i in range(3000)}
store.batched_put([(key, b"1") for key in stored])
os.kill(server, signal.SIGSTOP)
keys = store.list()
for _ in range(3):
    threading.Timer(0.15, os.kill, [os.getpid(), signal.SIGINT]).start()
    try:
        next(keys)
    except KeyboardInterrupt:
        print("interrupted")
os.kill(server, signal.SIGCONT)
listed = list(keys)
print(len(listed), set(listed) == stored)
store.close()
"""
        said = run_child(code, str(server.port), str(server.process.pid))
        self.assertEqual(said, "interrupted\n" * 3 + "3000 True\n")


if __name__ == "__main__":
    unittest.main()
