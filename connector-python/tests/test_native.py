"""NativeClient keeps the contract of LMCache's native_plugin."""

import mmap
import os
import subprocess
import threading
import unittest

import kvconn
from kvconn import NativeClient
from support import TestCase, completions, object_key, resident_bytes, run_child, wait_until

SIZE = 64 << 10


def chunk(i, size=SIZE):
    return bytes([i % 251]) * (size - 8) + i.to_bytes(8, "little")


class Contract(TestCase):
    def client(self, url, **options):
        client = NativeClient(url, **options)
        self.addCleanup(client.close)
        return client

    def one(self, client, asked):
        """The one completion of the one submit."""
        (completion,) = completions(client)
        self.assertEqual(completion[0], asked)
        self.assertIsInstance(completion[2], str)
        return completion[1:]

    def urls(self):
        yield f"resp://127.0.0.1:{self.redis().port}"
        yield f"redis://127.0.0.1:{self.redis().port}"
        yield f"valkey://127.0.0.1:{self.redis().port}?key_prefix=team&ttl_sec=1000"
        yield f"valkey://127.0.0.1:{self.cluster().port}?cluster=true"
        yield f"redis-cluster://127.0.0.1:{self.cluster().port}"
        yield f"fs://{self.directory()}"
        yield f"memory://{self.id()}"

    def test_every_store_round_trips(self):
        for url in self.urls():
            with self.subTest(url=url.split(":")[0]):
                client = self.client(url)
                keys = [object_key(i) for i in range(9)]
                chunks = [bytearray(chunk(i)) for i in range(8)]
                asked = client.submit_batch_set(keys[:8], [memoryview(c) for c in chunks])
                self.assertEqual(self.one(client, asked), (True, "", None))
                asked = client.submit_batch_exists(keys)
                self.assertEqual(self.one(client, asked), (True, "", [True] * 8 + [False]))
                into = [bytearray(SIZE) for _ in keys]
                asked = client.submit_batch_get(keys, [memoryview(b) for b in into])
                self.assertEqual(self.one(client, asked), (True, "", [True] * 8 + [False]))
                self.assertEqual(into[:8], chunks)
                asked = client.submit_batch_delete([keys[0], keys[8]])
                self.assertEqual(self.one(client, asked), (True, "", [True, False]))
                asked = client.submit_batch_exists(keys[:2])
                self.assertEqual(self.one(client, asked), (True, "", [False, True]))

    def test_files_have_the_names_of_lmcaches_multiprocess_mode(self):
        path = self.directory()
        client = self.client(f"fs://{path}")
        self.one(client, client.submit_batch_set(["org/model@00000001@0@00ff"], [memoryview(b"12345")]))
        name = os.path.join(path, "org-SEP-model@0x00000001@0@00ff.data")
        with open(name, "rb") as file:
            self.assertEqual(file.read(), b"12345")

    def test_redis_has_the_raw_bytes_under_the_key_itself(self):
        server = self.redis()
        client = self.client(f"resp://127.0.0.1:{server.port}")
        key = "org/model@00000001@0@00ff@salt"
        self.one(client, client.submit_batch_set([key], [memoryview(b"12345")]))
        asked = ["redis-cli", "-p", str(server.port), "get", key]
        self.assertEqual(subprocess.run(asked, capture_output=True, check=True).stdout, b"12345\n")

    def test_a_chunk_of_another_length_is_not_loaded(self):
        for url in self.urls():
            with self.subTest(url=url.split(":")[0]):
                client = self.client(url)
                keys = [object_key(i) for i in range(3)]
                views = [memoryview(bytes(n)) for n in (100, 99, 101)]
                self.one(client, client.submit_batch_set(keys, views))
                into = [memoryview(bytearray(100)) for _ in keys]
                ok, error, loaded = self.one(client, client.submit_batch_get(keys, into))
                self.assertEqual((ok, loaded), (False, [True, False, False]))
                self.assertIn("2 of 3 keys failed", error)

    def test_the_views_that_lmcache_makes_work(self):
        import ctypes

        client = self.client(f"memory://{self.id()}")
        memory = (ctypes.c_ubyte * SIZE)(*chunk(3))
        self.one(client, client.submit_batch_set([object_key(3)], [memoryview(memory)]))
        into = (ctypes.c_ubyte * SIZE)()
        self.assertEqual(memoryview(into).format, "<B")
        self.one(client, client.submit_batch_get([object_key(3)], [memoryview(into)]))
        self.assertEqual(bytes(into), chunk(3))

    def test_empty_batches_complete(self):
        client = self.client(f"memory://{self.id()}")
        for submit, answer in [
            (lambda: client.submit_batch_get([], []), (True, "", [])),
            (lambda: client.submit_batch_set([], []), (True, "", None)),
            (lambda: client.submit_batch_exists([]), (True, "", [])),
            (lambda: client.submit_batch_delete([]), (True, "", [])),
        ]:
            self.assertEqual(self.one(client, submit()), answer)

    def test_an_invalid_key_fails_alone(self):
        client = self.client(f"memory://{self.id()}")
        keys = [object_key(1), "no key", object_key(2)]
        ok, error, _ = self.one(client, client.submit_batch_set(keys, [memoryview(b"12")] * 3))
        self.assertFalse(ok)
        self.assertIn("no key", error)
        self.assertEqual(self.one(client, client.submit_batch_exists(keys))[::2], (True, [True, False, True]))

    def test_each_completion_has_the_id_of_its_submit(self):
        client = self.client(f"memory://{self.id()}")
        asked, lock = {}, threading.Lock()

        def submit(thread):
            for i in range(50):
                with lock:  # As LMCache does.
                    if i % 2:
                        asked[client.submit_batch_exists([object_key(i)] * thread)] = thread
                    else:
                        asked[client.submit_batch_delete([object_key(i)] * thread)] = thread

        threads = [threading.Thread(target=submit, args=(n,)) for n in range(1, 9)]
        for thread in threads:
            thread.start()
        done = completions(client, 400)
        for thread in threads:
            thread.join()
        self.assertEqual(len({d[0] for d in done}), 400)
        self.assertEqual({d[0]: len(d[3]) for d in done}, asked)
        self.assertEqual(client.drain_completions(), [])

    def test_bad_buffers_are_errors(self):
        client = self.client(f"memory://{self.id()}")
        memory = bytearray(100)
        view = memoryview(memory)
        keys = [object_key(1), object_key(2)]
        for views, why in [
            ([view[:50], memoryview(bytes(50))], "buffer 1 is read-only"),
            ([view[:50], view[50::2]], "buffer 1 is not contiguous"),
            ([view[40:], view[:41]], "buffer 0 and buffer 1 overlap"),
            ([view, view], "overlap"),
            ([view], "2 keys, but 1 buffers"),
        ]:
            with self.assertRaisesRegex(ValueError, why):
                client.submit_batch_get(keys, views)
        with self.assertRaisesRegex(ValueError, "not contiguous"):
            client.submit_batch_set(keys, [view[::2], view[:1]])
        with self.assertRaises(TypeError):
            client.submit_batch_get(keys, [1, 2])
        with self.assertRaises(TypeError):
            client.submit_batch_exists([1])
        # A put may read one buffer twice, and buffers may be adjacent.
        self.one(client, client.submit_batch_set(keys, [view, view]))
        self.one(client, client.submit_batch_get(keys, [view[:50], view[50:]]))
        # A refused buffer is not held.
        view.release()
        del views
        memory.append(1)

    def test_a_buffer_is_held_until_its_completion_is_drained(self):
        client = self.client(f"memory://{self.id()}")
        memory = bytearray(b"12345")
        asked = client.submit_batch_set([object_key(1)], [memory])
        with self.assertRaises(BufferError):
            memory.append(1)
        self.one(client, asked)
        memory.append(1)

    def test_options_are_those_of_the_url(self):
        path = self.directory()
        client = self.client("external://localhost:0/kvconn.fs/?connector_name=FSConnector", base_path=path, timeout_ms=5000)
        self.one(client, client.submit_batch_set([object_key(1)], [memoryview(b"1")]))
        self.assertEqual(len([name for name in os.listdir(path) if name.endswith(".data")]), 1)
        with self.assertRaisesRegex(kvconn.InvalidError, "base_pth.*base_path"):
            NativeClient("external://localhost:0/kvconn.fs/?connector_name=FSConnector", base_pth=path)
        with self.assertRaisesRegex(ValueError, "is in the URL and beside it"):
            NativeClient("memory://x?timeout_ms=5", timeout_ms=6)
        with self.assertRaisesRegex(TypeError, "is a list"):
            NativeClient("memory://x", timeout_ms=[6])

    def test_a_password_in_clear_is_one_warning_without_it(self):
        code = """
import logging, sys, time
logging.basicConfig(stream=sys.stdout)
from kvconn import NativeClient
for _ in range(2):
    NativeClient(sys.argv[1]).close()
time.sleep(0.2)
"""
        server = self.redis()
        server.ask("CONFIG SET requirepass s3cr3t")
        output = run_child(code, f"resp://:s3cr3t@127.0.0.1:{server.port}")
        self.assertEqual(output.count("password_file"), 1, output)
        self.assertNotIn("s3cr3t", output)

    def test_the_error_of_an_open_says_why(self):
        with self.assertRaises(kvconn.KvconnError) as raised:
            NativeClient("memmory://x")
        self.assertEqual(raised.exception.kind, "not_found")
        with self.assertRaises(kvconn.UnavailableError) as raised:
            NativeClient("resp://user:secret@127.0.0.1:1?connect=eager")
        self.assertNotIn("secret", str(raised.exception))


class Faults(TestCase):
    def test_each_submit_completes_once_when_the_server_is_killed(self):
        for scheme in ["resp", "redis"]:
            with self.subTest(scheme=scheme):
                server = self.redis()
                client = NativeClient(f"{scheme}://127.0.0.1:{server.port}?timeout_ms=20000")
                keys = [object_key(i) for i in range(32)]
                memory = [bytearray(chunk(i, 1 << 20)) for i in range(32)]
                client.submit_batch_set(keys, memory)
                self.assertTrue(completions(client)[0][1])
                server.stop_answering()
                asked = [client.submit_batch_get(keys, [bytearray(1 << 20) for _ in keys]) for _ in range(4)]
                asked += [client.submit_batch_set(keys, memory), client.submit_batch_exists(keys)]
                self.assertEqual(client.drain_completions(), [])
                server.kill()
                done = completions(client, len(asked))
                self.assertEqual(sorted(d[0] for d in done), sorted(asked))
                for id, ok, error, yes in done:
                    self.assertFalse(ok)
                    self.assertIn("32 of 32 keys failed", error)
                    self.assertEqual(yes, None if id == asked[4] else [False] * 32)
                client.close()

    def test_close_completes_calls_in_flight_and_frees_their_buffers(self):
        server = self.redis()
        # `close` waits for a greeting at most this long, so it is `close` that ends the call.
        client = NativeClient(f"resp://127.0.0.1:{server.port}?connect_timeout_ms=60000")
        server.stop_answering()
        memory = mmap.mmap(-1, 1 << 20)
        asked = client.submit_batch_get([object_key(1)], [memoryview(memory)])
        client.close()
        memory.close()  # BufferError if it were still held.
        ((id, ok, error, loaded),) = client.drain_completions()
        self.assertEqual((id, ok, loaded), (asked, False, [False]))
        self.assertIn("cut off", error)
        client.close()
        with self.assertRaises(kvconn.ClosedError):
            client.submit_batch_exists([object_key(1)])

    def test_the_interpreter_exits_with_calls_in_flight(self):
        code = """
import sys, mmap
from kvconn import NativeClient
client = NativeClient(f"fs://{sys.argv[1]}")
keys = [f"m@00000001@0@{i:04x}" for i in range(16)]
memory = [mmap.mmap(-1, 1 << 20) for _ in keys]
client.submit_batch_set(keys, [memoryview(m) for m in memory])
client.submit_batch_get(keys, [bytearray(1 << 20) for _ in keys])
print("left")
"""
        for _ in range(3):
            self.assertEqual(run_child(code, self.directory()), "left\n")

    def test_the_interpreter_exits_while_a_server_does_not_answer(self):
        server = self.redis()
        code = """
import os, sys, mmap
from kvconn import NativeClient
client = NativeClient(f"resp://127.0.0.1:{sys.argv[1]}")
os.kill(int(sys.argv[2]), 19)
memory = [mmap.mmap(-1, 1 << 20) for _ in range(8)]
client.submit_batch_get([f"m@00000001@0@{i:04x}" for i in range(8)], [memoryview(m) for m in memory])
print("left")
"""
        self.assertEqual(run_child(code, str(server.port), str(server.process.pid)), "left\n")

    def test_a_forked_child_gets_an_error_and_opens_its_own_store(self):
        server = self.redis()
        code = """
import os, sys, kvconn
from kvconn import NativeClient
sys.path[:0] = sys.argv[2:]
from support import completions, object_key
url = f"resp://127.0.0.1:{sys.argv[1]}"
client = NativeClient(url)
client.submit_batch_set([object_key(1)], [b"1" * 100])
completions(client)
child = os.fork()
if child == 0:
    for call in [lambda: client.submit_batch_exists([object_key(1)]), client.drain_completions]:
        try:
            call()
            os._exit(2)
        except kvconn.ClosedError as e:
            assert "forked" in str(e), e
    client.close()
    del client, call
    own = NativeClient(url)
    own.submit_batch_exists([object_key(1)])
    assert completions(own)[0][3] == [True]
    own.close()
    print("child", flush=True)
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
client.submit_batch_exists([object_key(1)])
assert completions(client)[0][3] == [True]
client.close()
print("parent")
"""
        out = run_child(code, str(server.port), os.path.dirname(os.path.abspath(__file__)))
        self.assertEqual(out, "child\nparent\n")

    def test_memory_may_be_unmapped_after_its_completion(self):
        code = """
import mmap, sys
sys.path.insert(0, sys.argv[3])
from support import completions, object_key
from kvconn import NativeClient
stored = NativeClient(sys.argv[1])
keys = [object_key(i) for i in range(8)]
stored.submit_batch_set(keys, [bytes([i]) * (1 << 20) for i in range(8)])
assert completions(stored)[0][1]
client = NativeClient(sys.argv[1], batch_timeout_ms=int(sys.argv[2]))
wrong = 0
for round in range(15):
    asked = {}
    for _ in range(3):
        memory = [mmap.mmap(-1, 1 << 20) for _ in keys]
        asked[client.submit_batch_get(keys, [memoryview(m) for m in memory])] = memory
    for id, ok, error, loaded in completions(client, 3):
        for i, m in enumerate(asked.pop(id)):
            wrong += loaded[i] and m[:] != bytes([i]) * (1 << 20)
            m.close()  # Unmaps it; BufferError if it were still held.
client.close()
print("wrong", wrong)
"""
        here = os.path.dirname(os.path.abspath(__file__))
        # A write into unmapped memory ends the child. With a short timeout, calls end before their reads.
        for url in [f"fs://{self.directory()}", "memory://unmapped", f"resp://127.0.0.1:{self.redis().port}"]:
            for milliseconds in [1, 8, 20000]:
                with self.subTest(url=url, milliseconds=milliseconds):
                    self.assertEqual(run_child(code, url, str(milliseconds), here), "wrong 0\n")

    def test_dropping_a_client_frees_the_buffers_of_calls_in_flight(self):
        server = self.redis()
        client = NativeClient(f"resp://127.0.0.1:{server.port}")
        server.stop_answering()
        memory = bytearray(1 << 20)
        client.submit_batch_get([object_key(1)], [memory])
        del client

        def free():
            try:
                memory.append(1)
                return True
            except BufferError:
                return False

        wait_until(free, "the memory is free")

    def test_memory_is_flat_over_churn(self):
        client = NativeClient(f"fs://{self.directory()}")
        keys = [object_key(i) for i in range(16)]

        def churn(rounds):
            for i in range(rounds):
                client.submit_batch_set(keys, [chunk(i)] * 16)
                client.submit_batch_get(keys, [bytearray(SIZE) for _ in keys])
                client.submit_batch_exists(keys)
                completions(client, 3)

        churn(30)
        before = resident_bytes()
        churn(150)
        client.close()
        # The client moved 300 MiB.
        self.assertLess(resident_bytes() - before, 16 << 20)


if __name__ == "__main__":
    unittest.main()
