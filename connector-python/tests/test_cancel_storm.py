"""1,000 concurrent tasks that are cancelled at random: nothing that a store acknowledged is lost, and nothing leaks."""

import asyncio
import gc
import random
import unittest
from collections import Counter

import kvconn
import uvloop
from support import TestCase, engine_key, wait_until

TASKS = 1000
CHUNK = 4 << 10
#: Room for a quarter of the chunks that the tasks read at once.
POOL = TASKS // 4 * CHUNK
SHARED = engine_key(1_000_000)


def value(i):
    return i.to_bytes(4, "big") * (CHUNK // 4)


def in_flight(url):
    """The calls of the store of this URL. Other tests have stores of the same connector."""
    place = url.partition("://")[2]
    samples = [sample for sample in kvconn.metrics()["kvconn_calls_in_flight"] if sample["labels"]["instance"].startswith(place)]
    assert samples, f"no metrics of {place}"
    return sum(sample["value"] for sample in samples)


class Storm(TestCase):
    def urls(self):
        return [f"redis://127.0.0.1:{self.redis().port}", f"fs://{self.directory()}", f"memory://{self.id().lower()}"]

    def test_on_each_event_loop(self):
        for run in (asyncio.run, uvloop.run):
            for seed, url in enumerate(self.urls()):
                with self.subTest(loop=run.__module__, store=url.partition(":")[0]):
                    run(self.storm(url, random.Random(seed)))

    async def storm(self, url, chance):
        acknowledged, buffers, ended = set(), [], Counter()

        async def put(i):
            await store.put(engine_key(i), value(i))
            acknowledged.add(i)

        async def put_shared(i):
            await store.put(SHARED, value(i))

        async def batched_put(i):
            await store.batched_put([(engine_key(j), value(j)) for j in (i, i + TASKS)])
            acknowledged.update((i, i + TASKS))

        async def get(i):
            # The pool may be full, and that is an answer.
            (chunk,) = await store.batched_get([SHARED], return_exceptions=True)
            self.assertTrue(isinstance(chunk, kvconn.KvconnError) or bytes(chunk) in shared)

        async def get_into(i):
            buffers.append(bytearray(CHUNK))
            await store.get_into(SHARED, buffers[-1])

        async def listed(i):
            async with store.list() as keys:
                for _ in range(20):
                    await anext(keys, None)

        async def once(kind, i):
            await asyncio.sleep(chance.random() * 0.02)
            await kind(i)

        shared = {value(i) for i in range(TASKS + 1)}
        async with kvconn.connect_async(url, pool_bytes=POOL, max_in_flight=64) as store:
            await store.put(SHARED, value(TASKS))
            kinds = [chance.choice((put, put_shared, batched_put, get, get_into, listed)) for _ in range(TASKS)]
            tasks = [asyncio.create_task(once(kind, i)) for i, kind in enumerate(kinds)]
            for i in chance.sample(range(TASKS), TASKS // 2):
                asyncio.get_running_loop().call_later(chance.random() * 0.05, tasks[i].cancel)
            for end in await asyncio.gather(*tasks, return_exceptions=True):
                ended[type(end).__name__] += 1
            # Some were cancelled, some were not, and none had another error.
            self.assertEqual(set(ended), {"CancelledError", "NoneType"}, ended)
            self.assertTrue(acknowledged)

            keys = [engine_key(i) for i in range(2 * TASKS)]
            memory = [bytearray(CHUNK) for _ in keys]
            found = await store.batched_get_into(keys, memory)
            stored = {i for i, length in enumerate(found) if length is not None}
            # A put that was cancelled stored its chunk or did not.
            self.assertLessEqual(acknowledged, stored)
            self.assertEqual([i for i in stored if memory[i] != value(i)], [])
            self.assertEqual(asyncio.all_tasks(), {asyncio.current_task()})
            for buffer in buffers:
                # A `BufferError` if a call still holds it.
                buffer.append(0)
            wait_until(lambda: in_flight(url) == 0, "no call is in flight")
            # Every permit of `max_in_flight` and every byte of the pool are back: one chunk takes the whole pool.
            await asyncio.wait_for(asyncio.gather(*(store.exists(key) for key in keys)), 30)
            gc.collect()
            await store.put(SHARED, bytes(POOL - (64 << 10)))
            self.assertEqual(len(await store.get(SHARED)), POOL - (64 << 10))


if __name__ == "__main__":
    unittest.main()
