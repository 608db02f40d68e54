"""EngineClient: exactly one completion for each submit, deadlines of lookups, the order and the bound of transfers."""

import array
import ctypes
import hashlib
import os
import random
import select
import threading
import time
import unittest

import kvconn
from kvconn import _kvconn
from support import DEADLINE, TestCase, object_key, run_child, wait_until

ROW = 4096
MODEL = "vllm+m+0123"
KINDS = ("store", "load", "lookup")


def vllm_key(i, group=0):
    """vLLM's OffloadKey: a hash, then the group in four bytes."""
    return hashlib.sha256(str(i).encode()).digest() + group.to_bytes(4, "big")


def address(buffer):
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


class ClientCase(TestCase):
    def client(self, url=None, options=None, **arguments):
        """A client that waits long for lookups, because a busy machine answers late."""
        arguments = {"engine": "vllm", "model": MODEL, "kv_rank": 3, **arguments}
        url, options = url or f"memory://{self.id()}", options or {}
        if "lookup_timeout_ms" not in url:
            options = {"lookup_timeout_ms": 30_000, **options}
        client = _kvconn.EngineClient(url, options, **arguments)
        self.addCleanup(client.close)
        return client

    def rows(self, number, size=ROW):
        """Random rows, as bytes and as vLLM's view."""
        memory = bytearray(random.randbytes(number * size))
        return memory, memoryview(memory).cast("b", shape=[number, size])

    def drained(self, client, kind, count=1):
        """Waits for completions by their eventfd."""
        drain = {"store": client.drain_stores, "load": client.drain_loads, "lookup": client.drain_lookups}[kind]
        fd = getattr(client, f"{kind}_fd")()
        found, end = [], time.monotonic() + DEADLINE
        while len(found) < count:
            left = end - time.monotonic()
            self.assertGreater(left, 0, f"{len(found)} of {count} completions of kind {kind}")
            select.select([fd], [], [], left)
            found += drain()
        return found

    def one(self, client, kind, tag):
        (done,) = self.drained(client, kind)
        self.assertEqual(done[0], tag)
        self.assertGreaterEqual(done[3], 0)
        return done[1], done[2], done[4]

    def urls(self):
        server = self.redis()
        return [
            f"memory://{self.id()}",
            f"fs://{self.directory()}",
            f"resp://127.0.0.1:{server.port}",
            f"redis://127.0.0.1:{server.port}",
            "mock://1?peeking_latency=2",
        ]


class Transfers(ClientCase):
    def test_rows_go_to_a_store_and_back(self):
        for url in self.urls():
            with self.subTest(url=url.split(":")[0]):
                memory, view = self.rows(64)
                client = self.client(url, rows=view)
                self.assertEqual(client.row_bytes, ROW)
                keys = [vllm_key(i, group=i % 3) for i in range(32)]
                client.submit_store(7, keys, rows=array.array("i", range(32)))
                self.assertEqual(self.one(client, "store", 7), (b"\1" * 32, None, 32 * ROW))
                client.submit_lookup(8, [*keys, vllm_key(99)])
                self.assertEqual(self.one(client, "lookup", 8), (b"\1" * 32 + b"\0", None, 0))
                client.submit_lookup(9, [*keys[:2], vllm_key(99), *keys[2:]], run=True)
                self.assertEqual(self.one(client, "lookup", 9), (b"\1\1" + b"\0" * 31, None, 0))
                places = list(range(32, 64))
                random.shuffle(places)
                client.submit_load(10, [*keys, vllm_key(99)], rows=[*places, 0])
                self.assertEqual(self.one(client, "load", 10), (b"\1" * 32 + b"\0", None, 32 * ROW))
                for i, place in enumerate(places[1:], 1):
                    self.assertEqual(memory[i * ROW : (i + 1) * ROW], memory[place * ROW : (place + 1) * ROW])

    def test_the_names_in_the_store_are_object_keys(self):
        client = self.client(rows=self.rows(1)[1])
        self.assertEqual(client.store([b"\x00\xffabc" + b"\0\0\0\x1f"], rows=[0], salt="ann"), [True])
        self.assertEqual(client.contains([f"{MODEL}@00000003@1f@00ff616263@ann"]), 1)

    def test_pieces_are_gathered_and_scattered(self):
        for url in self.urls():
            with self.subTest(url=url.split(":")[0]):
                client = self.client(url, engine="sglang", model="")
                pages, pieces = 16, 6
                sizes = [random.randrange(1, 3000) for _ in range(pages * pieces)]
                total = sum(sizes)
                source, target = bytearray(random.randbytes(total)), bytearray(total)
                offsets = [sum(sizes[:i]) for i in range(len(sizes))]
                keys = [object_key(i) for i in range(pages)]
                at = [address(source) + offset for offset in offsets]
                self.assertEqual(client.store(keys, pointers=at, sizes=sizes, owner=source), [True] * pages)
                # One value is the key's pieces one after the other.
                whole = bytearray(sum(sizes[:pieces]))
                self.assertEqual(client.load(keys[:1], buffers=[whole]), [True])
                self.assertEqual(whole, source[: len(whole)])
                at = array.array("q", [address(target) + offset for offset in offsets])
                loaded = client.load(keys, pointers=at, sizes=array.array("q", sizes), owner=target)
                self.assertEqual((loaded, target), ([True] * pages, source))

    def test_a_value_of_another_length_is_a_miss(self):
        for url in self.urls():
            with self.subTest(url=url.split(":")[0]):
                client = self.client(url, model="")
                keys = [object_key(i) for i in range(3)]
                self.assertEqual(client.store(keys, buffers=[bytes(n) for n in (100, 99, 101)]), [True] * 3)
                client.submit_load(1, keys, buffers=[bytearray(100) for _ in keys])
                self.assertEqual(self.one(client, "load", 1), (b"\1\0\0", None, 100))
                self.assertEqual(client.stats()["stale_keys"], 2)

    def test_an_empty_submit_succeeds(self):
        client = self.client(rows=self.rows(1)[1])
        client.submit_store(1, [])
        client.submit_load(2, [], rows=[])
        client.submit_load(3, (), pointers=[], sizes=[])
        client.submit_lookup(4, [])
        self.assertEqual(self.one(client, "store", 1), (b"", None, 0))
        self.assertEqual([done[:3] for done in self.drained(client, "load", 2)], [(2, b"", None), (3, b"", None)])
        self.assertEqual(self.one(client, "lookup", 4), (b"", None, 0))
        self.assertEqual((client.store([]), client.load([]), client.lookup([]), client.contains([])), ([], [], [], 0))

    def test_a_key_that_cannot_be_one_fails_alone(self):
        client = self.client(model="")
        good, bad = object_key(1), "no key\ud800"
        client.submit_store(1, [good, bad, "m@1"], buffers=[b"a", b"b", b"c"])
        yes, error, moved = self.one(client, "store", 1)
        self.assertEqual((yes, moved), (b"\1\0\0", 1))
        self.assertIn("2 of 3 keys failed", error)
        self.assertEqual(client.lookup([bad, good]), [False, True])
        self.assertEqual(client.contains([good, bad, good]), 1)
        client = self.client()
        client.submit_lookup(2, [b"\0\0\0\0"])
        self.assertIn("not 4 bytes", self.one(client, "lookup", 2)[1])

    def test_remove_and_clear_touch_only_their_own_keys(self):
        for url in self.urls()[:4]:
            with self.subTest(url=url.split(":")[0]):
                client, other = self.client(url), self.client(url, model=MODEL + "4")
                keys = [vllm_key(i) for i in range(20)]
                for one in (client, other):
                    self.assertTrue(all(one.store(keys, buffers=[b"x"] * 20)))
                self.assertEqual(client.remove([keys[0], vllm_key(99)]), [True, False])
                self.assertEqual((client.clear(), client.lookup(keys), client.clear()), (19, [False] * 20, 0))
                self.assertEqual(other.contains(keys), 20)
        with self.assertRaisesRegex(kvconn.InvalidError, "`model`"):
            self.client(model="").clear()


class Refusals(ClientCase):
    def refused(self, pattern, act, *arguments, **named):
        with self.assertRaisesRegex(kvconn.InvalidError, pattern):
            act(*arguments, **named)

    def test_memory_that_cannot_be_lent_is_refused_with_its_index(self):
        _, view = self.rows(4)
        client = self.client(rows=view)
        keys = [vllm_key(i) for i in range(2)]
        load, store = client.load, client.store
        self.refused(r"rows\[1\] is 4; the view has rows 0 to 3", load, keys, rows=[0, 4])
        self.refused(r"rows\[0\] is -1", store, keys, rows=array.array("i", [-1, 0]))
        self.refused(r"rows\[0\] and rows\[1\] overlap", load, keys, rows=[3, 3])
        self.refused(r"rows\[1\] is not an integer", load, keys, rows=[3, "3"])
        self.refused("2 keys, but 1 rows", load, keys, rows=[3])
        self.refused("2 keys, but 3 buffers", load, keys, buffers=[bytearray(1)] * 3)
        self.refused("buffer 1 is read-only", load, keys, buffers=[bytearray(1), b"1"])
        self.refused(r"pointers\[1\] is 0", load, keys, pointers=[4096, 0], sizes=[1, 1])
        self.refused(r"sizes\[0\] is -1", load, keys, pointers=[4096, 8192], sizes=[-1, 1])
        self.refused(r"sizes\[1\] is 0", load, keys, pointers=[4096, 8192], sizes=[1, 0])
        self.refused(r"pointers\[0\] and pointers\[1\] overlap", load, keys, pointers=[4096, 4097], sizes=[2, 1])
        self.refused("2 pointers, but 1 sizes", load, keys, pointers=[4096, 4097], sizes=[1])
        self.refused("3 pointers for 2 keys", load, keys, pointers=[4096, 8192, 9999], sizes=[1, 1, 1])
        self.refused("0 pointers for 2 keys", load, keys, pointers=[], sizes=[])
        self.refused("give the memory as one of", load, keys)
        self.refused("give the memory as one of", load, keys, rows=[0, 1], buffers=[b"", b""])
        self.refused("unknown argument `pages`", load, keys, pages=[0, 1])
        self.refused(r"keys\[1\] is of the type int", load, [keys[0], 1], rows=[0, 1])
        self.refused("key 1 has another type", load, [keys[0], object_key(1)], rows=[0, 1])
        self.refused("`salt` must be empty", load, [object_key(1)], rows=[0], salt="s")
        self.refused("salt", load, keys, rows=[0, 1], salt="a@b")
        self.refused("no model", self.client(model="").store, keys, buffers=[b"", b""])
        self.refused("need the client's `rows`", self.client().load, keys, rows=[0, 1])
        read_only = memoryview(bytes(8)).cast("b", shape=[2, 4])
        self.refused("read-only", self.client(rows=read_only).load, keys, rows=[0, 1])
        self.assertEqual(client.pending(), (0, 0))

    def test_a_view_of_another_form_is_refused(self):
        for view in (bytearray(8), memoryview(bytes(16)).cast("i", shape=[2, 2])):
            self.refused("2-D view of int8", self.client, rows=view)
        view = memoryview(bytes(16)).cast("b", shape=[2, 8])
        self.refused("model", self.client, rows=view, model="a@b")

    def test_options_of_the_engine_and_of_the_store(self):
        with self.assertLogs("kvconn", "WARNING") as log:
            options = {"lookup_timout_ms": {"a": "hunter2"}, "timeout_ms": 500.0, "namespace": None, "zzz": [1]}
            self.client(options={**options, "timeout_ms": 500})
        text = "\n".join(log.output)
        self.assertIn("`lookup_timout_ms` (did you mean `lookup_timeout_ms`?)", text)
        self.assertIn("`zzz`", text)
        self.assertNotIn("hunter2", text)
        self.refused("lookup_timeout_ms.*a whole number", self.client, options={"lookup_timeout_ms": "soon"})
        self.refused("store_backlog=1073741824", self.client, options={"store_backlog": "1GiB"})
        self.refused("lookup_timeout_ms.*0 ms", self.client, options={"lookup_timeout_ms": 0})
        self.refused("timeout_ms", self.client, options={"timeout_ms": "soon"})
        self.refused("`timeout_ms` is a list", self.client, options={"timeout_ms": [1]})
        self.refused("did you mean `lookup_timeout_ms`", self.client, "memory://x?lookup_timeut_ms=1")
        self.refused("option 1 of the URL is unknown", self.client, "memory://x?zzz=1")
        self.refused("`lookup_timeout_ms` is set more than once", self.client, "memory://x?lookup_timeout_ms=1&lookup_timeout_ms=2")
        self.client(f"memory://{self.id()}?lookup_timeout_ms=10&timeout_ms=100&store_backlog=1")
        url = f"memory://{self.id()}?lookup_timeout_ms=10"
        self.refused("write it once", self.client, url, {"lookup_timeout_ms": 10})

    def test_a_secret_in_the_configuration_is_known(self):
        server = self.redis()
        url = f"redis://127.0.0.1:{server.port}"
        file = os.path.join(self.directory(), "secret")
        with open(file, "w") as secret:
            secret.write("hunter2")
        os.environ["KVCONN_TEST_SECRET"] = "hunter2"
        self.addCleanup(os.environ.pop, "KVCONN_TEST_SECRET")
        server.ask("CONFIG SET requirepass hunter2")
        with_password = url.replace("//", "//:hunter2@")
        for expected, url, options in [
            (True, with_password, {}),
            (True, url, {"password": "hunter2"}),
            (True, f"{url}?password=hunter2", {}),
            (True, "tiered://", {"front": f"memory://{self.id()}", "back": with_password}),
            (False, url, {"password_file": file}),
            (False, url, {"password": "${KVCONN_TEST_SECRET}"}),
            (False, url.replace("//", "//:${KVCONN_TEST_SECRET}@"), {}),
        ]:
            with self.subTest(url=url.split(":")[0], options=list(options)):
                client = self.client(url, options)
                self.assertEqual(client.has_secret, expected)
                self.assertEqual(client.store([vllm_key(1)], buffers=[b"x"]), [True])
                self.assertNotIn("hunter2", repr(client))


class Deadlines(ClientCase):
    def test_a_hung_server_answers_with_misses_in_time(self):
        server = self.redis()
        client = self.client(f"resp://127.0.0.1:{server.port}", {"lookup_timeout_ms": 200, "timeout_ms": 10_000})
        keys = [vllm_key(i) for i in range(4)]
        self.assertTrue(all(client.store(keys, buffers=[b"x"] * 4)))
        wait_until(lambda: client.contains(keys) == 4, "an answer in time")
        self.assertEqual(client.state(), "ok")
        before = client.stats()
        server.stop_answering()
        client.submit_lookup(1, keys)
        yes, error, _ = self.one(client, "lookup", 1)
        self.assertEqual(yes, b"\0" * 4)
        self.assertIn("no answer within 200ms", error)
        self.assertEqual(client.state(), "lost")
        # The first question is overdue, so these ask nothing.
        for tag in range(2, 50):
            client.submit_lookup(tag, keys)
        self.assertEqual([done[1] for done in self.drained(client, "lookup", 48)], [b"\0" * 4] * 48)
        self.assertEqual((client.contains(keys), client.lookup(keys)), (0, [False] * 4))
        stats = client.stats()
        counts = [stats[name] - before[name] for name in ("lookup_timeouts", "lookups_refused")]
        self.assertEqual(counts, [1, 50])
        self.assertEqual(stats["overdue_lookups"], 1)
        server.process.send_signal(18)  # SIGCONT
        # The late answer is dropped, and ends the wait.
        wait_until(lambda: client.stats()["overdue_lookups"] == 0, "the overdue call ends")
        self.assertEqual(client.drain_lookups(), [])
        wait_until(lambda: client.contains(keys) == 4, "the store is asked again")
        self.assertEqual(client.state(), "ok")

    def test_a_longer_deadline_than_the_stores_own_is_kept(self):
        client = self.client("mock://1/?peeking_latency=2500&read_throughput=1&write_throughput=1", {"lookup_timeout_ms": 30_000})
        key = vllm_key(1)
        self.assertEqual(client.store([key], buffers=[b"x"]), [True])
        self.assertEqual(client.lookup([key]), [True])
        self.assertEqual(client.state(), "ok")

    def test_a_load_and_a_store_of_a_hung_server_keep_their_memory_until_they_end(self):
        server = self.redis()
        memory, view = self.rows(8, 1 << 20)
        client = self.client(f"resp://127.0.0.1:{server.port}", {"timeout_ms": 1500}, rows=view)
        keys = [vllm_key(i) for i in range(4)]
        self.assertTrue(all(client.store(keys, rows=range(4))))
        server.stop_answering()
        client.submit_load(1, keys, rows=range(4, 8))
        client.submit_store(2, keys, rows=range(4))
        self.assertEqual((client.drain_loads(), client.drain_stores()), ([], []))
        self.assertEqual(client.pending(), (2, 8 << 20))
        self.assertEqual(client.stats()["pinned_bytes"], 8 << 20)
        client.wait_idle()
        self.assertEqual(self.one(client, "load", 1)[0], b"\0" * 4)
        self.assertEqual(self.one(client, "store", 2)[0], b"\0" * 4)
        self.assertEqual((client.pending(), client.stats()["pinned_bytes"]), ((0, 0), 0))
        server.process.send_signal(18)

    def test_a_server_that_is_down_at_the_start_is_used_when_it_comes(self):
        server = self.redis()
        server.kill()
        with self.assertLogs("kvconn", "WARNING") as log:
            client = self.client(f"resp://127.0.0.1:{server.port}", {"min_reconnect_interval": 0.1})
            wait_until(lambda: log.output, "a warning")
        keys = [vllm_key(1)]
        self.assertEqual((client.contains(keys), client.store(keys, buffers=[b"x"])), (0, [False]))
        self.assertEqual(client.state(), "lost")
        again = type(server)(server.port)
        self.addCleanup(again.close)
        wait_until(lambda: client.store(keys, buffers=[b"x"]) == [True], "the store is back")
        self.assertEqual((client.contains(keys), client.state()), (1, "ok"))


class Order(ClientCase):
    def test_a_load_goes_before_the_stores_that_wait(self):
        # 64 MiB/s in both directions.
        size = 1 << 20
        _, view = self.rows(2, size)
        client = self.client("mock://1?write_throughput=0.0625&read_throughput=0.0625", rows=view)
        self.assertEqual(client.store([vllm_key(0)], rows=[0]), [True])
        for tag in range(100):
            client.submit_store(tag, [vllm_key(tag)], rows=[0])
        client.submit_load(1000, [vllm_key(0)], rows=[1])
        self.assertEqual(self.one(client, "load", 1000)[0], b"\1")
        self.assertGreater(client.pending()[0], 10)
        self.assertEqual(len(self.drained(client, "store", 100)), 100)

    def test_the_backlog_sheds_the_oldest_store_that_waits(self):
        size = 1 << 20
        _, view = self.rows(1, size)
        options = {"store_backlog": 16 * size}
        client = self.client("mock://1?write_throughput=0.03", options, rows=view)
        for tag in range(64):
            client.submit_store(tag, [vllm_key(tag)], rows=[0])
            stats = client.stats()
            self.assertLessEqual(stats["store_backlog_bytes"], 16 * size)
            self.assertEqual(stats["pinned_bytes"], stats["store_backlog_bytes"])
        done = {tag: (yes, error) for tag, yes, error, _, _ in self.drained(client, "store", 64)}
        self.assertEqual(sorted(done), list(range(64)))
        shed = [tag for tag, (yes, error) in done.items() if error]
        stored = [tag for tag, (yes, _) in done.items() if yes == b"\1"]
        self.assertEqual(sorted(shed + stored), list(range(64)))
        # The backlog keeps the newest stores and the parts that a worker has begun.
        self.assertTrue(set(range(56, 64)) <= set(stored), stored)
        self.assertGreaterEqual(len(shed), 10)
        self.assertTrue(all("backlog" in done[tag][1] for tag in shed))
        self.assertEqual(client.stats()["shed_stores"], len(shed))
        self.assertEqual(client.stats()["shed_bytes"], len(shed) * size)

    def test_the_default_backlog_leaves_half_of_the_rows_to_loads(self):
        size = 1 << 20
        _, view = self.rows(8, size)
        client = self.client("mock://1?write_throughput=0.001", rows=view)
        for tag in range(16):
            client.submit_store(tag, [vllm_key(tag)], rows=[tag % 8])
            self.assertLessEqual(client.stats()["store_backlog_bytes"], 4 * size)

    def test_a_store_larger_than_the_backlog_is_stored_when_it_is_alone(self):
        _, view = self.rows(4)
        client = self.client(options={"store_backlog": 1}, rows=view)
        keys = [vllm_key(i) for i in range(4)]
        self.assertEqual(client.store(keys, rows=range(4)), [True] * 4)


class ExactlyOnce(ClientCase):
    def test_every_submit_has_one_completion_also_after_close(self):
        size = 1 << 20
        _, view = self.rows(4, size)
        client = self.client("mock://1?write_throughput=0.001&read_throughput=0.001&peeking_latency=500", rows=view)
        expected = {kind: [] for kind in KINDS}
        for tag in range(40):
            client.submit_store(tag, [vllm_key(tag), vllm_key(tag + 100)], rows=[0, 1])
            client.submit_load(tag, [vllm_key(tag)], rows=[2])
            client.submit_lookup(tag, [vllm_key(tag)])
            if tag == 20:
                closing = threading.Thread(target=client.close)
                closing.start()
                wait_until(lambda: client.state() == "closed", "the client closes")
        closing.join(DEADLINE)
        self.assertFalse(closing.is_alive())
        client.close()
        for kind in KINDS:
            self.assertEqual(sorted(done[0] for done in self.drained(client, kind, 40)), list(range(40)))
            self.assertEqual(getattr(client, f"drain_{kind}s" if kind != "lookup" else "drain_lookups")(), [])
        self.assertEqual(client.pending(), (0, 0))
        # The view has no export any more.
        view.release()
        client.submit_store(50, [vllm_key(1)], rows=[0])
        client.submit_load(51, [vllm_key(1), vllm_key(2)], rows=[0, 1])
        self.assertEqual(self.one(client, "store", 50), (b"\0", "the client is closed", 0))
        yes, error, _ = self.one(client, "load", 51)
        self.assertEqual(yes, b"\0\0")
        self.assertIn("the client is closed", error)
        self.assertEqual((client.store([vllm_key(1)], rows=[0]), client.contains([vllm_key(1)])), ([False], 0))

    def test_the_view_is_free_after_close_although_nothing_was_drained(self):
        memory, view = self.rows(4)
        client = self.client(rows=view)
        client.submit_store(1, [vllm_key(1)], rows=[1])
        client.wait_idle()
        client.close()
        view.release()
        memory.clear()
        self.assertEqual(len(client.drain_stores()), 1)

    def test_a_client_that_is_dropped_keeps_its_memory_while_it_is_used(self):
        memory, view = self.rows(8, 1 << 20)
        client = _kvconn.EngineClient(f"fs://{self.directory()}", None, engine="vllm", model=MODEL, rows=view)
        client.submit_store(1, [vllm_key(i) for i in range(8)], rows=range(8))
        with self.assertWarns(ResourceWarning):
            del client

        def is_free():
            try:
                view.release()
            except BufferError:
                return False
            return True
        wait_until(is_free, "the view is free")

    def test_wait_idle_leaves_every_result_to_be_drained(self):
        _, view = self.rows(64)
        client = self.client(f"fs://{self.directory()}", rows=view)
        for tag in range(64):
            client.submit_store(tag, [vllm_key(tag)], rows=[tag])
            client.submit_lookup(tag, [vllm_key(tag)])
        client.wait_idle()
        self.assertEqual((len(client.drain_stores()), len(client.drain_lookups())), (64, 64))

    def test_the_eventfd_is_readable_while_completions_wait(self):
        client = self.client()

        def readable():
            return select.select([client.lookup_fd()], [], [], 0)[0] != []

        self.assertFalse(readable())
        for tag in range(3):
            client.submit_lookup(tag, [vllm_key(tag)])
        client.wait_idle()
        wait_until(readable, "the eventfd is readable")
        self.assertEqual(len(client.drain_lookups()), 3)
        wait_until(lambda: client.drain_lookups() == [] and not readable(), "the eventfd is clear")
        client.submit_store(1, [])
        self.assertFalse(readable())

    def test_random_jobs_from_four_threads_compare_every_byte(self):
        for url in self.urls():
            with self.subTest(url=url.split(":")[0]):
                rows, each = 64, 50 if "mock" not in url else 20
                memory, view = self.rows(rows, 512)
                client = self.client(url, rows=view)
                lock, waiting, results = threading.Lock(), {}, {}

                def done(kind, tag):
                    """Drains as an engine does, and hands completions to the threads."""
                    while True:
                        with lock:
                            for found in KINDS:
                                drain = getattr(client, "drain_" + {"store": "stores", "load": "loads"}.get(found, "lookups"))
                                for completion in drain():
                                    self.assertNotIn((found, completion[0]), results)
                                    results[found, completion[0]] = completion
                            if (kind, tag) in results:
                                return results[kind, tag]
                        time.sleep(0.0005)

                def work(thread):
                    own = range(thread * 16, thread * 16 + 16)
                    dice = random.Random(thread)
                    stored = {}
                    for step in range(each):
                        tag = thread * 1000 + step
                        number = dice.randrange(1, 8)
                        keys = [vllm_key((thread, dice.randrange(20))) for _ in range(number)]
                        keys = list(dict.fromkeys(keys))
                        places = dice.sample(own, len(keys))
                        what = dice.choice(KINDS)
                        if what == "store":
                            for place in places:
                                memory[place * 512 : place * 512 + 512] = dice.randbytes(512)
                            client.submit_store(tag, keys, rows=places)
                            self.assertEqual(done(what, tag)[1:3], (b"\1" * len(keys), None))
                            for key, place in zip(keys, places):
                                stored[key] = bytes(memory[place * 512 : place * 512 + 512])
                        elif what == "load":
                            client.submit_load(tag, keys, rows=places)
                            yes, error = done(what, tag)[1:3]
                            self.assertEqual((yes, error), (bytes(key in stored for key in keys), None))
                            for key, place in zip(keys, places):
                                if key in stored:
                                    self.assertEqual(memory[place * 512 : place * 512 + 512], stored[key])
                        else:
                            client.submit_lookup(tag, keys)
                            yes, error = done(what, tag)[1:3]
                            if error is None:
                                self.assertEqual(yes, bytes(key in stored for key in keys))
                            else:
                                self.assertIn("no answer", error)

                failures = []

                def guarded(thread):
                    try:
                        work(thread)
                    except BaseException as e:
                        failures.append(e)

                threads = [threading.Thread(target=guarded, args=(n,)) for n in range(4)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                self.assertEqual(failures, [])


class Processes(ClientCase):
    def test_a_forked_child_is_refused_and_leaves_the_parents_client_alone(self):
        run_child("""
import os, sys, kvconn
from kvconn import _kvconn
memory = bytearray(4096)
client = _kvconn.EngineClient("memory://fork", None, engine="vllm", model="m", rows=memoryview(memory).cast("b", shape=[4, 1024]))
key = bytes(36)
client.submit_store(1, [key], rows=[0])
client.wait_idle()
pid = os.fork()
if pid == 0:
    for act in (lambda: client.submit_store(2, [key], rows=[0]), client.drain_stores, lambda: client.contains([key])):
        try:
            act()
        except kvconn.ClosedError as e:
            assert "forked" in str(e), e
        else:
            os._exit(1)
    client.close()
    assert client.state() == "closed" and client.pending() == (0, 0)
    del client
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert len(client.drain_stores()) == 1 and client.contains([key]) == 1
client.close()
""")

    def test_ctrl_c_ends_a_transfer_and_gives_its_memory_back_first(self):
        run_child("""
import os, signal, threading
from kvconn import _kvconn
memory = bytearray(64 << 20)
view = memoryview(memory).cast("b", shape=[64, 1 << 20])
# Four seconds for all rows, and one for the parts that have begun.
client = _kvconn.EngineClient("mock://1?write_throughput=0.015625", {"store_backlog": 1 << 30}, engine="sglang", model="m", rows=view)
def interrupt():
    # The fifth transfer is that of `store`.
    while client.pending()[0] < 5:
        pass
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt).start()
keys = [bytes([i]) * 36 for i in range(64)]
for _ in range(4):
    client.submit_store(1, keys, rows=range(64))
try:
    stored = client.store(keys, rows=range(64))
except KeyboardInterrupt:
    pass
else:
    raise AssertionError(f"Ctrl-C did nothing: {stored}, {client.stats()}")
# The others go on.
assert client.pending()[0] == 4, client.pending()
client.close()
view.release()
""")

    def test_the_interpreter_ends_with_work_in_flight(self):
        run_child("""
import kvconn
from kvconn import _kvconn
memory = bytearray(64 << 20)
view = memoryview(memory).cast("b", shape=[64, 1 << 20])
client = _kvconn.EngineClient("mock://1?write_throughput=0.1", None, engine="vllm", model="m", rows=view)
for tag in range(8):
    client.submit_store(tag, [bytes([i]) * 36 for i in range(64)], rows=range(64))
client.submit_lookup(1, [bytes(36)])
""")


if __name__ == "__main__":
    unittest.main()
