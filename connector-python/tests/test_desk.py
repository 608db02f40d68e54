"""Small questions on LMCache's loop: the loop's own thread asks and hears the answer, whatever becomes of the loop."""

import asyncio
import os
import signal
import threading
import time
import unittest

import kvconn
from kvconn import _kvconn
from support import TestCase, engine_key, run_child

# Longer than a question waits at a desk before it goes on in the runtime.
LONG_S = 0.1
# Connections for small questions, and some.
CONNECTIONS = 8


def threads():
    """The names of this process's threads."""
    return [open(f"/proc/self/task/{task}/comm").read().strip() for task in os.listdir("/proc/self/task")]


def files():
    return len(os.listdir("/proc/self/fd"))


async def ask(method, *arguments):
    """As the connector's class does."""
    future = asyncio.get_running_loop().create_future()
    call = method(*arguments, future)
    try:
        return await future
    except asyncio.CancelledError:
        call.cancel()
        raise


class Desk(TestCase):
    def remote(self, options=""):
        """A store with one chunk."""
        self.server = self.redis()
        url = f"resp://127.0.0.1:{self.server.port}?{options}"
        remote = _kvconn.LMCacheRemote(url, None, [], None, None)
        import kvconn

        kvconn.connect(url).put(engine_key(0), b"1")
        return remote

    def stop_for(self, seconds):
        """The server stands still, and goes on after a while."""
        self.server.stop_answering()
        timer = threading.Timer(seconds, self.server.process.send_signal, [signal.SIGCONT])
        timer.start()
        self.addCleanup(timer.join)

    def test_the_loops_thread_hears_the_answer_itself(self):
        out = run_child(
            """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from test_desk import ask, threads
from support import engine_key
from kvconn import _kvconn
async def main():
    remote = _kvconn.LMCacheRemote(sys.argv[2], None, [], None, None)
    for i in range(100):
        assert await ask(remote.exists, engine_key(i)) is False
        assert await ask(remote.contains, [engine_key(i), engine_key(i + 1)]) == 0
        await ask(remote.ping)
    return remote
asyncio.run(main())
print("kvconn-python" in threads())
""",
            os.path.dirname(os.path.abspath(__file__)),
            f"resp://127.0.0.1:{self.redis().port}",
        )
        self.assertEqual(out, "False\n", "the thread that brings news was needed")

    def test_many_questions_at_once_on_few_connections(self):
        remote = self.remote()

        async def main():
            asked = [ask(remote.exists, engine_key(i % 3)) for i in range(300)]
            return await asyncio.gather(*asked)

        self.assertEqual(asyncio.run(main()), [i % 3 == 0 for i in range(300)])

    def test_loops_in_threads_share_a_store(self):
        remote = self.remote()
        answers = []

        async def main():
            for i in range(200):
                answers.append(await ask(remote.exists, engine_key(i % 2)) is (i % 2 == 0))

        some = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(4)]
        for thread in some:
            thread.start()
        for thread in some:
            thread.join()
        self.assertEqual(answers, [True] * 800)

    def test_a_question_that_takes_long_is_answered_late(self):
        remote = self.remote()

        async def main():
            self.stop_for(LONG_S)
            asked = [ask(remote.exists, engine_key(0)), ask(remote.contains, [engine_key(0)]), ask(remote.ping)]
            return await asyncio.gather(*asked)

        self.assertEqual(asyncio.run(main()), [True, 1, None])

    def test_a_server_that_stands_still_is_an_error(self):
        remote = self.remote("io_timeout_ms=150")
        self.server.stop_answering()
        with self.assertRaises(TimeoutError):
            asyncio.run(ask(remote.exists, engine_key(0)))

    def test_a_question_is_cancelled_wherever_it_waits(self):
        remote = self.remote()

        async def main(after):
            self.stop_for(4 * LONG_S)
            with self.assertRaises(TimeoutError):
                await asyncio.wait_for(ask(remote.exists, engine_key(0)), after)
            return await ask(remote.exists, engine_key(0))

        for after in (0.001, LONG_S):
            with self.subTest(after=after):
                self.assertTrue(asyncio.run(main(after)))
                time.sleep(4 * LONG_S)

    def test_a_loop_that_stops_keeps_no_connection(self):
        remote = self.remote()
        loop = asyncio.new_event_loop()
        self.addCleanup(loop.close)
        self.stop_for(LONG_S / 10)
        tasks = [loop.create_task(ask(remote.exists, engine_key(0))) for _ in range(CONNECTIONS)]
        loop.run_until_complete(asyncio.sleep(0))
        # The loop stands still, and all connections are its questions'.
        self.assertTrue(remote.exists_sync(engine_key(0)))
        self.assertEqual(loop.run_until_complete(asyncio.gather(*tasks)), [True] * CONNECTIONS)

    def test_a_loop_that_is_closed_takes_its_questions_along(self):
        remote = self.remote()
        before = files()
        for _ in range(20):
            loop = asyncio.new_event_loop()
            self.stop_for(LONG_S / 10)
            futures = [loop.create_future() for _ in range(CONNECTIONS)]
            calls = [loop.run_until_complete(started(remote.exists, engine_key(0), future)) for future in futures]
            loop.close()
            self.assertTrue(remote.exists_sync(engine_key(0)))
            for call in calls:
                call.cancel()
            self.assertFalse(any(future.done() for future in futures))
        self.assertLessEqual(files(), before + 2)

    def test_loops_that_come_and_go_leave_nothing(self):
        remote = self.remote()
        asyncio.run(ask(remote.exists, engine_key(0)))
        before = files()
        for _ in range(50):
            self.assertTrue(asyncio.run(ask(remote.exists, engine_key(0))))
        self.assertLessEqual(files(), before + 2)

    def test_a_loop_that_cannot_watch_descriptors_is_told_by_another_thread(self):
        remote = self.remote()

        class Loop(asyncio.SelectorEventLoop):
            def add_reader(self, fd, callback, *args):
                raise NotImplementedError

        loop = Loop()
        self.addCleanup(loop.close)
        for _ in range(3):
            self.assertTrue(loop.run_until_complete(ask(remote.exists, engine_key(0))))

    def test_a_child_asks_with_a_loop_and_a_store_of_its_own(self):
        remote = self.remote()
        url = f"resp://127.0.0.1:{self.server.port}"

        async def main():
            self.assertTrue(await ask(remote.exists, engine_key(0)))
            # The question waits at the desk while the process is forked.
            self.stop_for(LONG_S / 10)
            waits = asyncio.ensure_future(ask(remote.exists, engine_key(0)))
            await asyncio.sleep(0)
            child = os.fork()
            if child == 0:
                os._exit(in_child(url))
            self.assertTrue(await waits)
            status = await asyncio.to_thread(os.waitpid, child, 0)
            self.assertEqual(os.waitstatus_to_exitcode(status[1]), 0)
            self.assertTrue(await ask(remote.exists, engine_key(0)))

        asyncio.run(main())

    def test_a_process_ends_while_a_question_waits(self):
        server = self.redis()
        out = run_child(
            """
import asyncio, os, signal, sys, threading
sys.path.insert(0, sys.argv[1])
from test_desk import started
from support import engine_key
from kvconn import _kvconn
remote = _kvconn.LMCacheRemote(sys.argv[2], None, [], None, None)
loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()
os.kill(int(sys.argv[3]), signal.SIGSTOP)
future = loop.create_future()
asyncio.run_coroutine_threadsafe(started(remote.exists, engine_key(0), future), loop).result()
print("over")
""",
            os.path.dirname(os.path.abspath(__file__)),
            f"resp://127.0.0.1:{server.port}",
            str(server.process.pid),
        )
        self.assertEqual(out, "over\n")


async def started(method, *arguments):
    """Only asks."""
    return method(*arguments)


def in_child(url):
    """The exit code of a child that asks."""
    signal.alarm(10)
    # The loop that runs here is the parent's.
    asyncio._set_running_loop(None)
    remote = _kvconn.LMCacheRemote(url, None, [], None, None)
    loop = asyncio.new_event_loop()
    return 0 if loop.run_until_complete(ask(remote.exists, engine_key(0))) else 1


if __name__ == "__main__":
    unittest.main()
