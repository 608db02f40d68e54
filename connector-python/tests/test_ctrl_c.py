"""Ctrl-C ends every wait within a second, and the process goes on."""

import unittest

from support import TestCase, run_child

WAIT = """
import os, signal, sys, threading, time, kvconn
from kvconn import NativeClient, _kvconn
url, server = sys.argv[1], int(sys.argv[2])
KEY, OBJECT = "m@1@0@ff@half", "m@00000001@0@00ff"

def stop():
    os.kill(server, signal.SIGSTOP)

def interrupted(wait):
    threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()
    started = time.monotonic()
    try:
        wait()
    except KeyboardInterrupt:
        # Without Ctrl-C, each of these waits takes five seconds or more.
        print("interrupted", time.monotonic() - started < 3)
    finally:
        os.kill(server, signal.SIGCONT)
"""


class CtrlC(TestCase):
    def check(self, code, waits=1):
        server = self.redis()
        url = f"redis://127.0.0.1:{server.port}?connect_timeout_ms=60000&io_timeout_ms=60000"
        said = run_child(WAIT + code, url, str(server.process.pid))
        self.assertEqual(said, "interrupted True\n" * waits)

    def test_opening(self):
        self.check("""
for opener in (
    kvconn.connect,
    NativeClient,
    lambda url: _kvconn.LMCacheRemote(url, None, [], None, None),
):
    stop()
    interrupted(lambda: opener(url))
""", 3)

    def test_closing_a_client_with_calls_in_flight(self):
        self.check("""
client = NativeClient(url)
stop()
memory = bytearray(10)
client.submit_batch_get([OBJECT], [memory])
interrupted(client.close)
# The call was cut off, so a second `close` does not wait for it.
client.close()
memory.append(1)
""")

    def test_closing_a_store_with_calls_in_flight(self):
        self.check("""
store = kvconn.connect(url)
stop()
threading.Thread(target=lambda: store.exists(KEY)).start()
time.sleep(0.1)
interrupted(store.close)
store.close()
""")

    def test_a_listing(self):
        self.check("""
store = kvconn.connect(url)
stop()
interrupted(lambda: list(store.list()))
store.close()
""")

    def test_lmcaches_pool_that_waits_for_calls_in_flight(self):
        self.check("""
import types
# Of LMCache's CPU backend, only what kvconn uses.
class Object:
    byte_array = bytearray(16)
    def ref_count_up(self): pass
    def ref_count_down(self): pass
    def get_memory_format(self): return types.SimpleNamespace(value=5)
    def get_shapes(self): return [(16, 0, 0, 0)]
    def get_dtypes(self): return [None]
allocator = types.SimpleNamespace(close=lambda: print("freed"), size=1 << 20)
backend = types.SimpleNamespace(memory_allocator=allocator, allocate=lambda *_, **__: None)
remote = _kvconn.LMCacheRemote(url, backend, [], None, None)
import asyncio
loop = asyncio.new_event_loop()
stop()
async def put():
    return remote.put(KEY, Object())
loop.run_until_complete(put())
interrupted(allocator.close)
""")


if __name__ == "__main__":
    unittest.main()
