"""Every kind of call for a few seconds, to find memory or files that calls leak. `tests/interop/run churn` runs longer, in LMCache."""

import asyncio
import math
import os
import random
import statistics
import time
import unittest
from collections import Counter

import kvconn
from support import TestCase, engine_key, resident_bytes

SECONDS = 2.0
SAMPLES = 90
# Two KiB per call would be more than this; the allocator's own noise is a twentieth of it.
# Under tests/tsan/run, the sanitizer's own memory only grows.
MORE_BYTES = math.inf if "TSAN_OPTIONS" in os.environ else 2 << 20
MORE_FILES = 2
CHUNKS = [bytes([i + 1]) * (32 << 10) for i in range(16)]
KEYS = [engine_key(i) for i in range(16)]
MISSING = engine_key(999)
AT_ONCE = 8


class Churn(TestCase):
    def test_no_kind_of_call_leaks(self):
        for url in [f"fs://{self.directory()}", "memory://churn", f"redis://127.0.0.1:{self.redis().port}"]:
            with self.subTest(url=url.split(":")[0]):
                asyncio.run(self.churn(url))

    async def churn(self, url):
        chance, done = random.Random(1), Counter()
        resident, files = [], []
        deadline = time.monotonic() + SECONDS
        store = await kvconn.connect_async(url)
        await store.batched_put(list(zip(KEYS, CHUNKS, strict=True)))

        def right(i, chunk):
            # The chunk may have been removed.
            self.assertTrue(chunk is None or chunk == CHUNKS[i])

        async def put(i):
            await store.put(KEYS[i], CHUNKS[i])

        async def get(i):
            right(i, await store.get(KEYS[i]))

        async def get_into(i):
            into = bytearray(len(CHUNKS[i]))
            if await store.get_into(KEYS[i], into) is not None:
                right(i, into)

        async def batched_get(i):
            some = [i, (i + 1) % len(KEYS)]
            for j, chunk in zip(some, await store.batched_get([KEYS[j] for j in some]), strict=True):
                right(j, chunk)

        async def miss(i):
            self.assertIsNone(await store.get(MISSING))

        async def cancelled(i):
            task = asyncio.ensure_future(get(i) if i % 2 else put(i))
            await asyncio.sleep(chance.choice((0, 0, 0.0002, 0.001)))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        async def remove(i):
            await store.remove(KEYS[i])
            await put(i)

        async def exists(i):
            await store.exists(KEYS[i])
            await store.batched_contains(KEYS[i:])
            if i == 0:
                self.assertLessEqual({key async for key in store.list()}, set(KEYS))

        async def blocking(i):
            right(i, store.blocking.get(KEYS[i]))

        async def opened(i):
            async with await kvconn.connect_async(url) as other:
                right(i, await other.get(KEYS[i]))

        # Opening a store is rare and slow.
        kinds = [put, get, get_into, batched_get, miss, cancelled, remove, exists, blocking] * 4 + [opened]

        async def worker():
            while time.monotonic() < deadline:
                kind = chance.choice(kinds)
                await kind(chance.randrange(len(KEYS)))
                done[kind.__name__] += 1

        async def sample():
            while time.monotonic() < deadline:
                resident.append(resident_bytes())
                files.append(len(os.listdir("/proc/self/fd")))
                await asyncio.sleep(SECONDS / SAMPLES)

        await asyncio.gather(sample(), *(worker() for _ in range(AT_ONCE)))
        await store.close()
        for kind in kinds:
            self.assertGreater(done[kind.__name__], 0, done)
        # Calls in flight hold files, too. The fewest files are those that stay.
        for what, values, more, of in (("bytes", resident, MORE_BYTES, statistics.median), ("files", files, MORE_FILES, min)):
            third = len(values) // 3
            second, last = of(values[third : 2 * third]), of(values[2 * third :])
            self.assertLessEqual(last, second + more, f"{what} over {sum(done.values())} calls")


if __name__ == "__main__":
    unittest.main()
