"""The end of a process: chunks that wait are written, or kvconn reports their loss."""

import os
import subprocess
import sys
import time
import unittest
import warnings

import kvconn
from kvconn import NativeClient, _kvconn
from support import DEADLINE, TestCase, engine_key, run_child

PUTS = 300
# The writers wait between two chunks, so that most are unwritten when the program ends.
WRITE = """
import os, signal, sys, kvconn
back = sys.argv[1]
store = kvconn.connect("tiered://", front="memory://near", back=back, mode="write_back")
def put(store, of=""):
    for i in range(300):
        store.put(f"m{of}@1@0@{i + 1:x}@half", bytes(10_000))
"""


def keys(of=""):
    return {f"m{of}@1@0@{i + 1:x}@half" for i in range(PUTS)}


class Exit(TestCase):
    def stored(self, url):
        with kvconn.connect(url) as store:
            return set(store.list())

    def back(self):
        return f"fs://{self.directory()}"

    def test_a_clean_exit_writes_everything(self):
        for end in ("", "sys.exit(0)", "raise SystemExit", "1 / 0"):
            with self.subTest(end=end):
                url = self.back()
                ended = subprocess.run(
                    [sys.executable, "-c", WRITE + "put(store)\n" + end, url], timeout=DEADLINE, capture_output=True, text=True
                )
                self.assertEqual((ended.returncode, "kvconn:" in ended.stderr), (int(end == "1 / 0"), False), ended.stderr)
                self.assertEqual(self.stored(url), keys())

    def test_stores_of_every_class_are_closed(self):
        url = self.back()
        run_child(WRITE + """
import asyncio
put(store)
async def main():
    store = await kvconn.connect_async("tiered://", front="memory://other", back=back, mode="write_back")
    await store.batched_put([(f"mA@1@0@{i + 1:x}@half", bytes(10_000)) for i in range(300)])
asyncio.run(main())
pid = os.fork()
if pid == 0:
    # The child ends as any other program. The parent's store is not the child's.
    put(kvconn.connect("tiered://", front="memory://near", back=back, mode="write_back"), "F")
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
""", url)
        self.assertEqual(self.stored(url), keys() | keys("A") | keys("F"))

    def test_a_child_of_multiprocessing_writes_everything(self):
        for method in ("fork", "spawn", "forkserver"):
            with self.subTest(method=method):
                url, folder = self.back(), self.directory()
                with open(f"{folder}/child.py", "w") as file:
                    file.write("""
import multiprocessing, sys, kvconn
from concurrent.futures import ProcessPoolExecutor
stores = []
def put(back, of):
    store = kvconn.connect("tiered://", front="memory://near", back=back, mode="write_back")
    for i in range(300):
        store.put(f"m{of}@1@0@{i + 1:x}@half", bytes(10_000))
    stores.append(store)
if __name__ == "__main__":
    back, method = sys.argv[1:]
    context = multiprocessing.get_context(method)
    if method == "fork":
        # A finalizer of the parent's does not count in the child.
        kvconn.connect("memory://parent").close()
    child = context.Process(target=put, args=(back, "P"))
    child.start()
    child.join()
    assert child.exitcode == 0, child.exitcode
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        pool.submit(put, back, "E").result()
""")
                subprocess.run([sys.executable, f"{folder}/child.py", url, method], check=True, timeout=DEADLINE)
                self.assertEqual(self.stored(url), keys("P") | keys("E"))

    def lost(self, code, patience="1"):
        """The output of a program that ends while its server does not answer, and its duration."""
        server = self.redis()
        code = WRITE + "os.kill(int(sys.argv[2]), signal.SIGSTOP)\nput(store)\n" + code
        command = [sys.executable, "-c", code, f"redis://:secret@127.0.0.1:{server.port}", str(server.process.pid)]
        started = time.monotonic()
        server.ask("CONFIG SET requirepass secret")
        ended = subprocess.run(
            command, timeout=DEADLINE, capture_output=True, text=True, env={**os.environ, "KVCONN_EXIT_PATIENCE": patience}
        )
        self.assertEqual(ended.returncode, 0, ended.stderr)
        self.assertNotIn("secret", ended.stdout + ended.stderr)
        return ended.stderr, time.monotonic() - started

    def test_what_is_lost_is_said(self):
        said, _ = self.lost("")
        self.assertEqual(said.count("was not closed before the process ended, and 300 chunks of 3000000 bytes are lost"), 1, said)

    def test_what_is_lost_is_said_when_logging_has_ended(self):
        # None of these takes log lines any more when kvconn closes its stores.
        said, _ = self.lost("import logging; logging.basicConfig(filename=os.devnull)")
        self.assertIn("300 chunks of 3000000 bytes are lost", said)
        self.assertIn("kvconn: ", said)

    def test_what_is_lost_is_said_in_a_log(self):
        path = f"{self.directory()}/log"
        said, _ = self.lost(f"import logging; logging.getLogger('kvconn').addHandler(logging.StreamHandler(open({path!r}, 'w')))")
        with open(path) as file:
            self.assertIn("300 chunks of 3000000 bytes are lost", file.read())
        self.assertNotIn("kvconn: ", said)

    def test_ctrl_c_ends_the_wait_at_exit(self):
        said, seconds = self.lost("""
import threading
signal.signal(signal.SIGINT, signal.default_int_handler)
timer = threading.Timer(1, os.kill, [os.getpid(), signal.SIGINT])
# The exit does not wait for it.
timer.daemon = True
timer.start()
""", patience="25")
        self.assertIn("KeyboardInterrupt", said)
        self.assertLess(seconds, 20)


class Warnings(TestCase):
    def test_a_store_that_is_never_closed_makes_a_warning(self):
        url = f"memory://{self.id()}"
        for opener in (kvconn.connect, NativeClient, lambda url: _kvconn.LMCacheRemote(url, None, [], None, None)):
            store = opener(url)
            with self.assertWarnsRegex(ResourceWarning, "unclosed store kvconn.memory/MemoryConnector"):
                del store

    def test_a_store_that_is_closed_makes_none(self):
        url = f"memory://{self.id()}"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with kvconn.connect(url) as store:
                aio = store.aio
            del store, aio
            client = NativeClient(url)
            client.close()
            del client

    def test_a_view_of_the_store_keeps_it_open(self):
        store = kvconn.connect(f"memory://{self.id()}")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            store = store.aio.blocking
        store.close()

    def test_a_store_that_is_open_at_exit_makes_a_warning(self):
        code = "import kvconn; store = kvconn.connect('memory://x'); kvconn.connect('memory://y').close()"
        for flags, warned in (([], 0), (["-X", "dev"], 1)):
            ended = subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, check=True, timeout=DEADLINE)
            self.assertEqual(ended.stderr.count("ResourceWarning: unclosed store kvconn.memory/MemoryConnector"), warned)

    def test_a_warning_does_not_hide_an_exception(self):
        def fail():
            store = kvconn.connect(f"memory://{self.id()}")
            raise KeyError(store.name)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with self.assertRaises(KeyError):
                fail()


if __name__ == "__main__":
    unittest.main()
