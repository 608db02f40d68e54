"""Stores that many threads use while another one closes them, and threads that still call when the interpreter ends."""

import threading
import unittest

import kvconn
from kvconn import NativeClient
from support import TestCase, engine_key, object_key, run_child

THREADS = 64


class Threads(TestCase):
    def urls(self):
        yield f"resp://127.0.0.1:{self.redis().port}"
        yield f"fs://{self.directory()}"
        yield f"memory://{self.id()}"
        yield f"tiered://?front=memory://{self.id()}-near&back=fs://{self.directory()}&mode=write_back"

    def test_one_closes_while_others_call(self):
        for url in self.urls():
            for closers in (1, 4):
                with self.subTest(url=url.split(":")[0], closers=closers):
                    self.close_while_busy(url, closers)

    def close_while_busy(self, url, closers):
        store = kvconn.connect(url)
        running, wrong, calls = threading.Barrier(THREADS + 1), [], [0] * THREADS

        def work(n):
            key = engine_key(n)
            into = bytearray(len(key))
            running.wait(30)
            try:
                while True:
                    store.put(key, key.encode())
                    if store.get(key) != key.encode() or store.get_into(key, into) != len(key):
                        wrong.append(key)
                    if n % 8 == 0:
                        sum(1 for _ in store.list())
                        store.batched_exists([key, engine_key(n + 1)])
                    calls[n] += 1
            except kvconn.ClosedError:
                pass
            except BaseException as e:
                wrong.append(e)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        running.wait(30)
        while sum(calls) < THREADS:
            pass
        closing = [threading.Thread(target=store.close) for _ in range(closers)]
        for thread in closing:
            thread.start()
        for thread in [*closing, *threads]:
            thread.join(30)
            self.assertFalse(thread.is_alive(), "it hangs")
        self.assertEqual(wrong, [])

    def test_one_closes_a_client_while_others_submit(self):
        client = NativeClient(f"memory://{self.id()}")
        submitted, drained, wrong = [], [], []
        running = threading.Barrier(9)

        def work():
            running.wait(30)
            try:
                while True:
                    submitted.append(client.submit_batch_set([object_key(1)], [b"1"]))
            except kvconn.ClosedError:
                pass
            except BaseException as e:
                wrong.append(e)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        running.wait(30)
        while len(submitted) < 100:
            drained += client.drain_completions()
        client.close()
        for thread in threads:
            thread.join(30)
            self.assertFalse(thread.is_alive(), "it hangs")
        drained += client.drain_completions()
        self.assertEqual(wrong, [])
        # Every submit has its one completion.
        self.assertEqual(sorted(done[0] for done in drained), sorted(submitted))


class InterpreterExit(TestCase):
    def test_daemon_threads_may_call_for_ever(self):
        server = self.redis()
        code = """
import asyncio, os, signal, sys, threading, time, kvconn
from kvconn import NativeClient, _kvconn
KEY, OBJECT = "m@1@0@ff@half", "m@00000001@0@00ff"
# The test does not need the chunks that a stopped server does not write.
os.environ["KVCONN_EXIT_PATIENCE"] = "0.5"
url, folder, server = f"resp://127.0.0.1:{sys.argv[1]}", sys.argv[2], int(sys.argv[3])
stores = [kvconn.connect(url), kvconn.connect(f"fs://{folder}"), kvconn.connect("memory://x")]
client, remote = NativeClient(url), _kvconn.LMCacheRemote(url, None, [], None, None)
def forever(call):
    while True:
        try:
            call()
        except kvconn.KvconnError:
            pass
def put_and_list(store):
    store.put(KEY, bytes(100_000))
    list(store.list())
async def on_asyncio():
    while True:
        try:
            await asyncio.gather(*(store.aio.get(KEY) for store in stores))
            async for key in stores[1].aio.list():
                pass
        except kvconn.KvconnError:
            await asyncio.sleep(0)
calls = [lambda store=store: put_and_list(store) for store in stores]
calls += [lambda: client.submit_batch_get([OBJECT], [bytearray(10)]), client.drain_completions, lambda: remote.exists_sync(KEY)]
calls += [lambda: kvconn.connect(url).close(), lambda: NativeClient(url).close()]
for call in calls * 4:
    threading.Thread(target=forever, args=(call,), daemon=True).start()
threading.Thread(target=asyncio.run, args=(on_asyncio(),), daemon=True).start()
time.sleep(0.3)
if sys.argv[4] == "stopped":
    # The calls wait now.
    os.kill(server, signal.SIGSTOP)
    time.sleep(0.3)
print("over", flush=True)
"""
        for state in ("running", "running", "stopped"):
            with self.subTest(state=state):
                said = run_child(code, str(server.port), self.directory(), str(server.process.pid), state)
                self.assertEqual(said, "over\n")

    def test_a_function_at_exit_may_wait_for_a_thread_that_calls(self):
        code = """
import atexit, asyncio, threading
loop = asyncio.new_event_loop()
thread = threading.Thread(target=loop.run_forever, daemon=True)
def end():
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    print("over", flush=True)
# Runs after kvconn's own, which is registered by the import.
atexit.register(end)
import kvconn
thread.start()
async def forever():
    while True:
        try:
            await kvconn.connect_async("memory://x")
        except kvconn.KvconnError:
            await asyncio.sleep(0)
for _ in range(20):
    asyncio.run_coroutine_threadsafe(forever(), loop)
"""
        self.assertEqual(run_child(code), "over\n")


if __name__ == "__main__":
    unittest.main()
