"""Small questions on LMCache's loop: the loop's own thread asks and hears the answer, whatever becomes of the loop."""

import asyncio
import contextlib
import contextvars
import gc
import os
import resource
import signal
import threading
import unittest
import weakref

import kvconn
from kvconn import _kvconn
from support import TestCase, engine_key, run_child, wait_until

# Longer than a question waits at a desk before it goes on in the runtime.
LONG_S = 0.1
# Connections for small questions, and some.
CONNECTIONS = 8


def threads():
    """The names of this process's threads."""
    return [open(f"/proc/self/task/{task}/comm").read().strip() for task in os.listdir("/proc/self/task")]


def sockets():
    """How many are open."""
    targets = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            targets.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sum(target.startswith("socket:") for target in targets)


def files():
    return len(os.listdir("/proc/self/fd"))


async def ask(method, *arguments):
    """As the connector's class does."""
    answer, call = method(*arguments, asyncio.get_running_loop())
    if call is None:
        return answer
    try:
        return await answer
    except asyncio.CancelledError:
        call.cancel()
        raise


class Desk(TestCase):
    def remote(self, options=""):
        """A store with one chunk."""
        self.server = self.redis()
        url = f"resp://127.0.0.1:{self.server.port}?{options}"
        remote = _kvconn.LMCacheRemote(url, None, [], None, None)
        kvconn.connect(url).put(engine_key(0), b"1")
        return remote

    def stop_for(self, seconds):
        """The server stands still, and goes on after a while."""
        self.server.stop_answering()
        timer = threading.Timer(seconds, self.server.process.send_signal, [signal.SIGCONT])
        timer.start()
        self.addCleanup(timer.join)

    def test_the_loops_thread_hears_the_answer_itself_unless_it_takes_long(self):
        code = """
import asyncio, os, signal, sys, threading
sys.path.insert(0, sys.argv[1])
from test_desk import LONG_S, ask, threads
from support import engine_key
from kvconn import _kvconn
async def main():
    remote = _kvconn.LMCacheRemote(sys.argv[2], None, [], None, None)
    for i in range(100):
        assert await ask(remote.exists, engine_key(i)) is False
        assert await ask(remote.contains, [engine_key(i), engine_key(i + 1)]) == 0
        await ask(remote.ping)
    print("kvconn-python" in threads())
    os.kill(int(sys.argv[3]), signal.SIGSTOP)
    threading.Timer(LONG_S, os.kill, [int(sys.argv[3]), signal.SIGCONT]).start()
    print(await ask(remote.exists, engine_key(0)), "kvconn-python" in threads())
asyncio.run(main())
"""
        server = self.redis()
        beside, url = os.path.dirname(os.path.abspath(__file__)), f"resp://127.0.0.1:{server.port}"
        # A machine that stands still for 20 ms makes any question a long one.
        outs = {run_child(code, beside, url, str(server.process.pid)) for _ in range(5)}
        self.assertIn("False\nFalse True\n", outs, "the thread that brings news is for what takes long")

    def test_what_is_known_at_once_needs_no_future(self):
        remote = self.remote()
        memory = _kvconn.LMCacheRemote("memory://known-at-once", None, [], None, None)

        async def main():
            loop = asyncio.get_running_loop()
            self.assertEqual(memory.exists(engine_key(0), loop), (False, None))
            self.assertEqual(memory.contains([engine_key(0)], loop), (0, None))
            self.assertEqual(memory.ping(loop), (None, None))
            await ask(memory.close)
            with self.assertRaises(kvconn.ClosedError):
                memory.exists(engine_key(0), loop)
            at_once = 0
            # The server is waited for, and a machine that is busy elsewhere may take too long a few times.
            for _ in range(300):
                answer, call = remote.exists(engine_key(0), loop)
                self.assertIs(answer if call is None else await answer, True)
                at_once += call is None
                await asyncio.sleep(0.0001)
            self.assertGreater(at_once, 0)
            self.server.stop_answering()
            for _ in range(10):
                _, call = remote.exists(engine_key(0), loop)
                self.assertIsNotNone(call)
                call.cancel()

        asyncio.run(main())

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
        # What gives the connection up is not the server's silence.
        remote = self.remote("io_timeout_ms=60000")

        async def main(after):
            self.assertTrue(await ask(remote.exists, engine_key(0)))
            before = sockets()
            self.server.stop_answering()
            # The built-in one is another one in Python 3.10.
            with self.assertRaises(asyncio.TimeoutError):
                await asyncio.wait_for(ask(remote.exists, engine_key(0)), after)
            # In the middle of an answer: nobody else can use the connection.
            wait_until(lambda: sockets() == before - 1, "the connection is closed")
            self.server.process.send_signal(signal.SIGCONT)
            self.assertTrue(await ask(remote.exists, engine_key(0)))

        for after in (0.001, LONG_S):
            with self.subTest(after=after):
                asyncio.run(main(after))

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
        # What gives the connection up is not the server's silence.
        remote = self.remote("io_timeout_ms=60000")
        before = files()
        for waited in (0, LONG_S):
            with self.subTest(waited=waited):
                self.assertTrue(remote.exists_sync(engine_key(0)))
                open_before = sockets()
                self.server.stop_answering()
                loop = asyncio.new_event_loop()
                _, call = loop.run_until_complete(started(remote.exists, engine_key(0), loop))
                loop.run_until_complete(asyncio.sleep(waited))
                loop.close()
                wait_until(lambda: sockets() == open_before - 1, "the connection is closed")
                call.cancel()
                self.server.process.send_signal(signal.SIGCONT)
                self.assertTrue(remote.exists_sync(engine_key(0)))
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
        for refusal in (NotImplementedError(), OSError(28, "no space")):

            class Loop(asyncio.SelectorEventLoop):
                def add_reader(self, fd, callback, *args):
                    raise refusal

            loop = Loop()
            self.addCleanup(loop.close)
            for _ in range(3):
                self.assertTrue(loop.run_until_complete(ask(remote.exists, engine_key(0))))

    def test_a_process_without_descriptors_left_asks(self):
        remote = self.remote()
        self.assertTrue(remote.exists_sync(engine_key(0)))
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        answers = []

        def again():
            loop = asyncio.new_event_loop()
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
            try:
                answers.append(remote.exists_sync(engine_key(0)))
                answers.append(loop.run_until_complete(ask(remote.exists, engine_key(0))))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
                loop.close()

        # A thread that has nothing yet.
        thread = threading.Thread(target=again)
        thread.start()
        thread.join()
        self.assertEqual(answers, [True, True])

    def test_a_desk_keeps_no_context_of_who_asked_first(self):
        remote = self.remote()

        class Request:
            pass

        async def main():
            request = contextvars.ContextVar("request")

            async def handle():
                request.set(Request())
                await ask(remote.exists, engine_key(0))
                return weakref.ref(request.get())

            about = await asyncio.create_task(handle())
            # The loop has the task for a moment more.
            await asyncio.sleep(0.001)
            gc.collect()
            self.assertIsNone(about())

        asyncio.run(main())

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

    def test_ctrl_c_ends_a_question_that_a_thread_waits_for(self):
        server = self.redis()
        code = """
import os, signal, sys, threading
sys.path.insert(0, sys.argv[1])
from support import engine_key
from kvconn import _kvconn
# Python's own. What a shell runs in the background ignores Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
remote = _kvconn.LMCacheRemote(sys.argv[2], None, [], None, None)
server = int(sys.argv[3])
for ask, key in (remote.exists_sync, engine_key(0)), (remote.contains_sync, [engine_key(0)]), (remote.remove_sync, engine_key(0)):
    os.kill(server, signal.SIGSTOP)
    threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()
    try:
        ask(key)
    except KeyboardInterrupt:
        print("interrupted")
    os.kill(server, signal.SIGCONT)
    assert not ask(key)
# One that the program gets over.
signal.signal(signal.SIGINT, lambda *_: os.kill(server, signal.SIGCONT))
os.kill(server, signal.SIGSTOP)
threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()
print(remote.exists_sync(engine_key(0)))
"""
        beside, url = os.path.dirname(os.path.abspath(__file__)), f"resp://127.0.0.1:{server.port}"
        self.assertEqual(run_child(code, beside, url, str(server.process.pid)), "interrupted\n" * 3 + "False\n")

    def test_a_process_ends_while_a_question_waits(self):
        server = self.redis()
        out = run_child(
            """
import asyncio, os, signal, sys, threading, time
sys.path.insert(0, sys.argv[1])
from test_desk import LONG_S, started
from support import engine_key
from kvconn import _kvconn
remote = _kvconn.LMCacheRemote(sys.argv[2], None, [], None, None)
loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()
os.kill(int(sys.argv[3]), signal.SIGSTOP)
asyncio.run_coroutine_threadsafe(started(remote.exists, engine_key(0), loop), loop).result()
threading.Thread(target=remote.exists_sync, args=[engine_key(0)], daemon=True).start()
# Long enough for a look at what the thread should not sleep through.
time.sleep(2 * LONG_S)
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
