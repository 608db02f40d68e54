"""The calls of LMCache's connector class, without LMCache: on event loops that stop, close and cancel, and on threads that wait."""

import asyncio
import contextlib
import contextvars
import gc
import os
import signal
import threading
import unittest
import weakref

import kvconn
from kvconn import _kvconn
from support import TestCase, engine_key, run_child, wait_until

HERE = os.path.dirname(os.path.abspath(__file__))
# Long enough for a call to be in the middle of its wait.
LONG_S = 0.1
# Connections for small calls.
CONNECTIONS = 8


def sockets():
    """The number of open sockets."""
    targets = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            targets.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sum(target.startswith("socket:") for target in targets)


def files():
    return len(os.listdir("/proc/self/fd"))


def open_remote(url):
    return _kvconn.LMCacheRemote(url, None, [], None, None)


async def call(method, *arguments):
    """Calls within the running loop."""
    return await method(*arguments)


async def start(method, *arguments):
    """Calls within the running loop, and does not wait."""
    return method(*arguments)


class LMCacheCalls(TestCase):
    def remote(self, options=""):
        """A store with one chunk."""
        self.server = self.redis()
        url = f"resp://127.0.0.1:{self.server.port}"
        with kvconn.connect(url) as store:
            store.put(engine_key(0), b"1")
        return open_remote(f"{url}?{options}")

    def stop_for(self, seconds):
        """Stops the server for a while."""
        self.server.stop_answering()
        timer = threading.Timer(seconds, self.continue_server)
        timer.start()
        self.addCleanup(timer.join)

    def continue_server(self):
        self.server.process.send_signal(signal.SIGCONT)

    def test_a_closed_store_says_so(self):
        remote = open_remote(f"memory://{self.id()}")

        async def main():
            self.assertIs(await remote.exists(engine_key(0)), False)
            self.assertEqual(await remote.contains([engine_key(0)]), 0)
            self.assertIsNone(await remote.ping())
            await remote.close()
            with self.assertRaises(kvconn.ClosedError):
                await remote.exists(engine_key(0))

        asyncio.run(main())
        with self.assertRaises(kvconn.ClosedError):
            remote.exists_sync(engine_key(0))

    def test_many_calls_at_once_on_few_connections(self):
        remote = self.remote()

        async def main():
            return await asyncio.gather(*(remote.exists(engine_key(i % 3)) for i in range(300)))

        self.assertEqual(asyncio.run(main()), [i % 3 == 0 for i in range(300)])

    def test_loops_in_threads_share_a_store(self):
        remote = self.remote()
        answers = []

        async def main():
            for i in range(200):
                answers.append(await remote.exists(engine_key(i % 2)) is (i % 2 == 0))

        threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(answers, [True] * 800)

    def test_a_call_that_takes_long_is_answered_late(self):
        remote = self.remote()

        async def main():
            self.stop_for(LONG_S)
            return await asyncio.gather(remote.exists(engine_key(0)), remote.contains([engine_key(0)]), remote.ping())

        self.assertEqual(asyncio.run(main()), [True, 1, None])

    def test_a_server_that_stops_is_an_error(self):
        remote = self.remote("io_timeout_ms=1000")
        self.server.stop_answering()
        with self.assertRaises(TimeoutError):
            asyncio.run(call(remote.exists, engine_key(0)))
        # Nothing waits for a lost store.
        with self.assertRaisesRegex(kvconn.UnavailableError, "the store is lost"):
            remote.exists_sync(engine_key(0))

    def test_a_cancelled_call_closes_its_connection(self):
        # The connection must not be given up because the server is silent.
        remote = self.remote("io_timeout_ms=60000")

        async def main(after):
            self.assertTrue(await remote.exists(engine_key(0)))
            before = sockets()
            self.server.stop_answering()
            with self.assertRaises(TimeoutError):
                await asyncio.wait_for(call(remote.exists, engine_key(0)), after)
            # The connection waits for an answer, so no other call can use it. A call that ends at once may have sent nothing.
            if after == LONG_S:
                await asyncio.to_thread(wait_until, lambda: sockets() == before - 1, "the connection is closed")
            self.continue_server()
            self.assertTrue(await remote.exists(engine_key(0)))

        for after in (0.001, LONG_S):
            with self.subTest(after=after):
                asyncio.run(main(after))

    def test_a_loop_that_stops_keeps_no_connection(self):
        remote = self.remote()
        loop = asyncio.new_event_loop()
        self.addCleanup(loop.close)
        self.stop_for(LONG_S)
        tasks = [loop.create_task(call(remote.exists, engine_key(0))) for _ in range(CONNECTIONS)]
        loop.run_until_complete(asyncio.sleep(0))
        # The loop has stopped, and its calls use all connections.
        self.assertTrue(remote.exists_sync(engine_key(0)))
        self.assertEqual(loop.run_until_complete(asyncio.gather(*tasks)), [True] * CONNECTIONS)

    def test_a_loop_that_is_closed_leaves_nothing(self):
        remote = self.remote()
        self.assertTrue(remote.exists_sync(engine_key(0)))
        before = files()
        for waited in (0, LONG_S):
            with self.subTest(waited=waited):
                self.server.stop_answering()
                loop = asyncio.new_event_loop()
                waiting = weakref.ref(loop.run_until_complete(start(remote.exists, engine_key(0))))
                loop.run_until_complete(asyncio.sleep(waited))
                loop.close()
                del loop
                self.continue_server()
                wait_until(lambda: gc.collect() is not None and waiting() is None, "the answer is dropped")
                self.assertTrue(remote.exists_sync(engine_key(0)))
        self.assertLessEqual(files(), before + 2)

    def test_loops_that_come_and_go_leave_nothing(self):
        remote = self.remote()
        asyncio.run(call(remote.exists, engine_key(0)))
        before = files()
        for _ in range(50):
            self.assertTrue(asyncio.run(call(remote.exists, engine_key(0))))
        self.assertLessEqual(files(), before + 2)

    def test_a_call_keeps_no_context_after_its_end(self):
        remote = self.remote()

        class Request:
            pass

        async def main():
            request = contextvars.ContextVar("request")

            async def handle():
                request.set(Request())
                await remote.exists(engine_key(0))
                return weakref.ref(request.get())

            about = await asyncio.create_task(handle())
            # The loop drops the task a little later.
            await asyncio.sleep(0.001)
            gc.collect()
            self.assertIsNone(about())

        asyncio.run(main())

    def test_a_call_outside_of_a_loop_says_so(self):
        remote = open_remote(f"memory://{self.id()}")
        with self.assertRaisesRegex(RuntimeError, "event loop"):
            remote.exists(engine_key(0))

    def test_a_child_calls_with_a_loop_and_a_store_of_its_own(self):
        remote = self.remote()
        url = f"resp://127.0.0.1:{self.server.port}"

        async def main():
            self.assertTrue(await remote.exists(engine_key(0)))
            # The call waits while the process is forked.
            self.stop_for(LONG_S / 10)
            waiting = asyncio.ensure_future(call(remote.exists, engine_key(0)))
            await asyncio.sleep(0)
            child = os.fork()
            if child == 0:
                os._exit(in_child(url))
            self.assertTrue(await waiting)
            status = await asyncio.to_thread(os.waitpid, child, 0)
            self.assertEqual(os.waitstatus_to_exitcode(status[1]), 0)
            self.assertTrue(await remote.exists(engine_key(0)))

        asyncio.run(main())

    def test_ctrl_c_ends_a_call_that_a_thread_waits_for(self):
        server = self.redis()
        code = """
import os, signal, sys, threading
sys.path.insert(0, sys.argv[1])
from test_lmcache_calls import engine_key, open_remote
remote = open_remote(sys.argv[2])
server = int(sys.argv[3])
for method, key in (remote.exists_sync, engine_key(0)), (remote.contains_sync, [engine_key(0)]), (remote.remove_sync, engine_key(0)):
    os.kill(server, signal.SIGSTOP)
    threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()
    try:
        method(key)
    except KeyboardInterrupt:
        print("interrupted")
    os.kill(server, signal.SIGCONT)
    assert not method(key)
# A handler that does not raise.
signal.signal(signal.SIGINT, lambda *_: os.kill(server, signal.SIGCONT))
os.kill(server, signal.SIGSTOP)
threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()
print(remote.exists_sync(engine_key(0)))
"""
        url = f"resp://127.0.0.1:{server.port}"
        self.assertEqual(run_child(code, HERE, url, str(server.process.pid)), "interrupted\n" * 3 + "False\n")

    def test_a_process_ends_while_calls_wait(self):
        server = self.redis()
        code = """
import asyncio, os, signal, sys, threading, time
sys.path.insert(0, sys.argv[1])
from test_lmcache_calls import LONG_S, engine_key, open_remote, start
remote = open_remote(sys.argv[2])
loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()
os.kill(int(sys.argv[3]), signal.SIGSTOP)
asyncio.run_coroutine_threadsafe(start(remote.exists, engine_key(0)), loop).result()
threading.Thread(target=remote.exists_sync, args=[engine_key(0)], daemon=True).start()
# The waiting thread has checked for signals by then.
time.sleep(2 * LONG_S)
print("over")
"""
        out = run_child(code, HERE, f"resp://127.0.0.1:{server.port}", str(server.process.pid))
        self.assertEqual(out, "over\n")


def in_child(url):
    """The exit code of a child that calls."""
    signal.alarm(10)
    # The running loop is the parent's.
    asyncio._set_running_loop(None)
    remote = open_remote(url)
    loop = asyncio.new_event_loop()
    return 0 if loop.run_until_complete(call(remote.exists, engine_key(0))) else 1


if __name__ == "__main__":
    unittest.main()
