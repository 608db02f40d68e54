"""A child of fork has one thread and a copy of each lock. A lock that another thread held at the fork stays locked for ever."""

import os
import unittest

from support import TestCase, run_child

HERE = os.path.dirname(os.path.abspath(__file__))
FORK = """
import os, signal, sys, threading, kvconn
sys.path.insert(0, sys.argv[1])
from support import completions, engine_key, object_key, wait_until

def in_child(act):
    "Forks and calls `act` in the child, which must succeed. A child that hangs is killed after ten seconds."
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)
        try:
            act()
        except BaseException as e:
            os.write(2, f"{type(e).__name__}: {e}".encode())
            os._exit(1)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert status == 0, f"the child ends with {os.waitstatus_to_exitcode(status)}"

def refused(act):
    try:
        act()
    except kvconn.ClosedError as e:
        assert "forked" in str(e), e
    else:
        raise AssertionError("there is no ClosedError")

class Busy:
    "Threads that repeat calls while the block runs."
    def __init__(self, *calls):
        self.over = False
        def repeat(call):
            while not self.over:
                call()
        self.threads = [threading.Thread(target=repeat, args=(call,)) for call in calls]
    def __enter__(self):
        for thread in self.threads:
            thread.start()
    def __exit__(self, *_):
        self.over = True
        for thread in self.threads:
            thread.join()
"""


class Fork(TestCase):
    def forked(self, code, *args):
        self.assertEqual(run_child(FORK + code + "\nprint('done')", HERE, *args), "done\n")

    def test_a_child_reads_and_drops_a_chunk_of_the_parents(self):
        # A batch allocates all of its memory at once, so the parent's threads hold the pool's lock much of the time.
        self.forked("""
store = kvconn.connect(f"resp://127.0.0.1:{sys.argv[2]}")
keys = [engine_key(i) for i in range(512)]
store.batched_put([(key, b"1" * 8) for key in keys])
chunks = [store.get(keys[0])]
def act():
    assert bytes(chunks[0]) == b"1" * 8
    chunks.clear()
with Busy(*[lambda: store.batched_get(keys)] * 3):
    for _ in range(300):
        in_child(act)
        chunks = [store.get(keys[0])]
""", str(self.redis().port))

    def test_a_listing_of_the_parents_is_closed_in_a_child(self):
        self.forked("""
store = kvconn.connect("memory://forked")
store.batched_put([(engine_key(i), b"1") for i in range(1000)])
listings = [store.list()]
next(listings[0])
def act():
    refused(lambda: [key for key in listings[0]])
    listings.clear()
in_child(act)
assert len(list(listings[0])) == 999
""")

    def test_a_child_drops_a_client_of_the_parents_with_calls_in_flight(self):
        self.forked("""
clients = [kvconn.NativeClient("memory://forked")]
keys = [object_key(i) for i in range(64)]
def work():
    clients[0].submit_batch_exists(keys)
    completions(clients[0])
with Busy(work):
    for _ in range(150):
        in_child(clients.clear)
""")


if __name__ == "__main__":
    unittest.main()
