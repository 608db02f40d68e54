"""`KvconnL2Adapter` keeps the contract of LMCache's L2 adapters: on the real stores, with the parts of LMCache that it uses replaced."""

import os
import select
import signal
import time
import unittest
from unittest import mock
from urllib.parse import quote

import fake_lmcache
import kvconn
from fake_lmcache import Listener, Obj, ObjectKey
from support import DEADLINE, RedisServer, TestCase, free_port, run_child, wait_until

SIZE = 32 << 10


def setUpModule():
    fake_lmcache.install()


def tearDownModule():
    fake_lmcache.uninstall()


def key(i, salt="", model="org/model"):
    return ObjectKey(i.to_bytes(4, "big"), model, 0x01000100, 0, salt)


def data(i, size=SIZE):
    return bytes([i % 251]) * (size - 4) + i.to_bytes(4, "little")


class Adapters(TestCase):
    def adapter(self, url, **params):
        from kvconn.lmcache import KvconnL2Adapter

        # A late answer would be misses.
        params = {"lookup_timeout_ms": 30_000, **params}
        adapter = KvconnL2Adapter({"url": url, **params}, l1_memory_desc=object())
        self.addCleanup(adapter.close)
        return adapter

    def wait(self, fd, take):
        """Waits as LMCache does: it clears the descriptor, and then asks."""
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            if poller.poll(1000):
                os.eventfd_read(fd)
            taken = take()
            if taken:
                return taken
        raise AssertionError("no result in time")

    def store(self, adapter, keys, objects):
        """The result of the task: bytes, or -1."""
        task = adapter.submit_store_task(keys, objects)
        return self.wait(adapter.get_store_event_fd(), adapter.pop_completed_store_tasks)[task]

    def lookup(self, adapter, keys):
        task = adapter.submit_lookup_and_lock_task(keys, {})
        found = self.wait(
            adapter.get_lookup_and_lock_event_fd(), lambda: adapter.query_lookup_and_lock_result(task)
        )
        self.assertIsNone(adapter.query_lookup_and_lock_result(task))
        return found.bits

    def load(self, adapter, keys, objects):
        task = adapter.submit_load_task(keys, objects)
        loaded = self.wait(adapter.get_load_event_fd(), lambda: adapter.query_load_result(task))
        self.assertIsNone(adapter.query_load_result(task))
        return loaded.bits

    def urls(self):
        yield f"memory://{self.id()}"
        yield f"fs://{self.directory()}"
        yield f"redis://127.0.0.1:{self.redis().port}"
        yield f"resp://127.0.0.1:{self.redis().port}"
        yield f"valkey://127.0.0.1:{self.redis().port}?key_prefix=team&ttl_sec=1000"
        yield f"valkey://127.0.0.1:{self.cluster().port}?cluster=true"
        yield f"redis-cluster://127.0.0.1:{self.cluster().port}"


class Contract(Adapters):
    def test_every_store_gives_back_every_byte(self):
        for url in self.urls():
            with self.subTest(url=url.split(":")[0]):
                adapter = self.adapter(url)
                keys = [key(i) for i in range(6)] + [key(1, "alice")]
                self.assertEqual(self.store(adapter, keys, [Obj(data(i)) for i in range(7)]), 7 * SIZE)
                self.assertEqual(self.lookup(adapter, [*keys, key(99)]), [True] * 7 + [False])
                objects = [Obj(bytes(SIZE)) for _ in range(8)]
                self.assertEqual(self.load(adapter, [*keys, key(99)], objects), [True] * 7 + [False])
                self.assertEqual([obj.data for obj in objects[:7]], [data(i) for i in range(7)])
                adapter.submit_unlock(keys)
                self.assertEqual(adapter.report_status()["locked_keys"], 0)

    def test_the_descriptors_differ(self):
        adapter = self.adapter(f"memory://{self.id()}")
        fds = {adapter.get_store_event_fd(), adapter.get_lookup_and_lock_event_fd(), adapter.get_load_event_fd()}
        self.assertEqual(len(fds), 3)

    def test_a_descriptor_wakes_for_each_result_although_tasks_are_asked_for_one_by_one(self):
        adapter = self.adapter(f"memory://{self.id()}")
        self.store(adapter, [key(1)], [Obj(data(1))])
        tasks = [adapter.submit_lookup_and_lock_task([key(1)], {}) for _ in range(50)]

        def ask():
            for task in [*tasks]:
                if adapter.query_lookup_and_lock_result(task) is not None:
                    tasks.remove(task)
            return not tasks

        self.wait(adapter.get_lookup_and_lock_event_fd(), ask)

    def test_a_chunk_of_another_size_is_a_miss(self):
        for url in self.urls():
            with self.subTest(url=url.split(":")[0]):
                adapter = self.adapter(url)
                self.store(adapter, [key(1), key(2)], [Obj(data(1)), Obj(data(2, SIZE // 2))])
                self.assertEqual(
                    self.load(adapter, [key(1), key(2)], [Obj(bytes(SIZE)), Obj(bytes(SIZE))]), [True, False]
                )
                self.assertEqual(adapter.report_status()["counters"]["stale_keys"], 1)

    def test_objects_without_an_address_are_stored_by_their_buffer(self):
        adapter = self.adapter(f"memory://{self.id()}")

        class Bytes:
            byte_array = data(3)

            def get_size(self):
                return SIZE

        self.assertEqual(self.store(adapter, [key(3)], [Bytes()]), SIZE)
        obj = Obj(bytes(SIZE))
        self.assertEqual(self.load(adapter, [key(3)], [obj]), [True])
        self.assertEqual(obj.data, data(3))

    def test_empty_tasks_have_results(self):
        adapter = self.adapter(f"memory://{self.id()}")
        self.assertEqual(self.store(adapter, [], []), 0)
        task = adapter.submit_load_task([], [])
        self.assertEqual(
            self.wait(adapter.get_load_event_fd(), lambda: [b for b in [adapter.query_load_result(task)] if b])[0].bits, []
        )

    def test_locked_chunks_are_not_deleted(self):
        adapter = self.adapter(f"memory://{self.id()}")
        listener = Listener()
        adapter.register_listener(listener)
        keys = [key(i) for i in range(3)]
        self.store(adapter, keys, [Obj(data(i)) for i in range(3)])
        self.lookup(adapter, keys[:2])
        self.lookup(adapter, [keys[1], key(99)])
        adapter.delete(keys)
        self.assertEqual(listener.deleted, [keys[2]])
        # Two lookups have locked it.
        adapter.submit_unlock(keys[:2])
        adapter.delete(keys)
        self.assertEqual(listener.deleted, [keys[2], keys[0]])
        adapter.submit_unlock([keys[1], key(99)])
        adapter.delete(keys)
        self.assertEqual(listener.deleted, [keys[2], keys[0], keys[1]])
        self.assertEqual(self.lookup(adapter, keys), [False] * 3)

    def test_a_lookup_during_a_delete_keeps_its_chunks_or_does_not_find_them(self):
        adapter = self.adapter(f"memory://{self.id()}")
        keys = [key(i) for i in range(3)]
        self.store(adapter, keys, [Obj(data(i)) for i in range(3)])
        test, client, found = self, adapter._client, []

        class LooksUpFirst:
            def __getattr__(self, name):
                return getattr(client, name)

            def remove(self, texts):
                # Just before the first part is removed.
                if not found:
                    found.append(test.lookup(adapter, keys))
                return client.remove(texts)

        with mock.patch.object(adapter, "_client", LooksUpFirst()), mock.patch("kvconn.lmcache.server._REMOVED_AT_ONCE", 1):
            adapter.delete(keys[:2])
        # The second chunk was locked before its part began.
        self.assertEqual(found, [[False, True, True]])
        self.assertEqual(adapter.report_status()["locked_keys"], 2)
        self.assertEqual(self.lookup(adapter, keys), [False, True, True])

    def test_a_page_lists_keys_and_sizes(self):
        adapter = self.adapter(f"memory://{self.id()}")
        keys = [key(i, salt) for i in range(5) for salt in ("", "bob")]
        self.store(adapter, keys, [Obj(data(i)) for i in range(10)])
        self.store(adapter, [key(1, model="other")], [Obj(data(1))])
        # A chunk of vLLM's is in the same store.
        self.store(adapter, [key(1, model="vllm+org/model+00ff")], [Obj(data(1))])
        found, cursor = [], None
        while True:
            page = adapter.list_l2_keys("org/model", 3, cursor)
            self.assertLessEqual(len(page.entries), 3)
            found += page.entries
            cursor = page.next_page_token
            if cursor is None:
                break
        self.assertEqual({entry.key for entry in found}, {k.to_encoded_object_key() for k in keys})
        self.assertEqual(len(found), 10)
        self.assertEqual({entry.size_bytes for entry in found}, {SIZE})
        everything = adapter.list_l2_keys()
        self.assertEqual({entry.key.model_name for entry in everything.entries}, {"org/model", "other"})
        self.assertEqual(len(adapter.list_l2_keys(page_size=1).entries), 1)

    def test_a_wrong_page_is_a_value_error(self):
        adapter = self.adapter(f"memory://{self.id()}")
        for arguments in [{"page_size": 0}, {"cursor": "x"}, {"cursor": "kvconn1.###"}, {"cursor": "kvconn1.eA=="}]:
            with self.assertRaises(ValueError) as raised:
                adapter.list_l2_keys(**arguments)
            self.assertRegex(str(raised.exception), "page_size is 0|is not one of list_l2_keys")

    def test_three_pages_cost_one_listing_also_among_other_engines_keys(self):
        server = self.redis()
        url = f"resp://127.0.0.1:{server.port}"
        with kvconn.connect(url) as store:
            for i in range(30):
                store.put(f"{'vllm' if i % 2 else 'sglang'}+m+00@00000000@0@{i:02x}", b"1")
                store.put(f"m@1@0@{i + 1:x}@bfloat16", b"1")
        adapter = self.adapter(url)
        wanted = [key(1, model="a"), key(1, model="n"), key(1, model="z")]
        self.store(adapter, wanted, [Obj(data(1))] * 3)
        wait_until(lambda: adapter.report_status()["listing"]["state"] == "done", "the listing ends")
        server.ask("CONFIG RESETSTAT")
        found, cursor, pages = [], None, 0
        while pages == 0 or cursor is not None:
            page = adapter.list_l2_keys(page_size=1, cursor=cursor)
            found, cursor, pages = [*found, *page.entries], page.next_page_token, pages + 1
        self.assertEqual([entry.key for entry in found], [k.to_encoded_object_key() for k in wanted])
        self.assertEqual(pages, 3)
        self.assertRegex(server.ask("INFO commandstats").decode(), r"cmdstat_scan:calls=1,")

    def test_a_listener_that_raises_loses_no_results(self):
        adapter = self.adapter(f"memory://{self.id()}")
        self.store(adapter, [key(0)], [Obj(data(0))])

        class Raises(Listener):
            def __init__(self, wanted):
                super().__init__()
                self.wanted = wanted

            def on_l2_keys_stored(self, keys, sizes):
                # Meanwhile, the other tasks end, so that one drain has all of their results.
                wait_until(lambda: self.wanted(adapter.report_status()["counters"]), "the tasks end")
                raise RuntimeError("the listener is broken")

            def on_l2_keys_accessed(self, keys):
                self.on_l2_keys_stored(keys, [])

        adapter._listeners.append(Raises(lambda counters: counters["stored_keys"] == 6))
        with self.assertLogs("kvconn.lmcache", "ERROR"):
            stores = {adapter.submit_store_task([key(i)], [Obj(data(i))]) for i in range(1, 6)}
            ended = {}
            wait_until(lambda: ended.update(adapter.pop_completed_store_tasks()) or ended.keys() == stores, "each store ends")
        self.assertEqual([*ended.values()], [SIZE] * 5)
        adapter._listeners[:] = [Raises(lambda counters: counters["loaded_keys"] == 6)]
        with self.assertLogs("kvconn.lmcache", "ERROR"):
            loads = [adapter.submit_load_task([key(i)], [Obj(bytes(SIZE))]) for i in range(6)]
            for task in loads:
                wait_until(lambda task=task: adapter.query_load_result(task), "each load ends")

    def test_a_store_that_fails_to_close_is_logged(self):
        server = self.redis()
        back = quote(f"redis://127.0.0.1:{server.port}", safe="")
        adapter = self.adapter(f"tiered://?front=memory%3A%2F%2F{self.id()}&back={back}&mode=write_back")
        server.kill()
        self.store(adapter, [key(1)], [Obj(data(1))])
        with self.assertLogs("kvconn.lmcache", "ERROR") as logged:
            adapter.close()
        self.assertIn("the back store lacks 1 chunks", logged.output[-1])
        adapter.close()

    def test_close_ends_everything_and_may_come_twice(self):
        adapter = self.adapter(f"memory://{self.id()}")
        self.store(adapter, [key(1)], [Obj(data(1))])
        adapter.close()
        adapter.close()
        self.assertEqual(adapter.report_status()["state"], "closed")
        self.assertFalse(adapter.report_status()["is_healthy"])
        adapter.delete([key(1)])
        self.assertEqual(adapter.get_usage().total_bytes_used, SIZE)


class Usage(Adapters):
    def test_it_is_right_after_a_restart(self):
        for url in self.urls():
            with self.subTest(url=url.split(":")[0]):
                first = self.adapter(url)
                keys = [key(i, salt) for i in range(4) for salt in ("", "alice")] + [key(9, "bob")]
                self.store(first, keys, [Obj(data(i)) for i in range(9)])
                wanted = {"": 4 * SIZE, "alice": 4 * SIZE, "bob": SIZE}
                self.assertEqual(dict(first.get_usage().bytes_by_cache_salt), wanted)
                second = self.adapter(url, max_capacity_gb=0.5)
                wait_until(lambda: second.report_status()["listing"]["state"] == "done", "the listing ends")
                usage = second.get_usage()
                # redis keeps a header of 28 bytes beside each chunk.
                self.assertEqual({salt: n // SIZE for salt, n in usage.bytes_by_cache_salt.items()}, {"": 4, "alice": 4, "bob": 1})
                self.assertEqual(usage.total_bytes_used, sum(usage.bytes_by_cache_salt.values()))
                self.assertEqual(usage.total_capacity_bytes, 1 << 29)
                self.assertEqual(second.report_status()["listing"]["chunks"], 9)
                # A chunk that is replaced counts once, and one that is deleted not at all.
                self.store(second, [key(9, "bob")], [Obj(data(9, SIZE // 2))])
                self.assertEqual(second.get_usage().bytes_by_cache_salt["bob"], SIZE // 2)
                second.delete([key(9, "bob"), key(0, "alice")])
                left = second.get_usage().bytes_by_cache_salt
                self.assertEqual({salt: n // SIZE for salt, n in left.items()}, {"": 4, "alice": 3})

    def test_the_stores_own_eviction_counts_from_the_next_listing(self):
        url = f"memory://{self.id()}"
        adapter = self.adapter(url, usage_interval_min=0.05 / 60)
        other = self.adapter(url)
        keys = [key(i) for i in range(4)]
        self.store(adapter, keys, [Obj(data(i)) for i in range(4)])
        other.delete(keys[:3])
        self.store(other, [key(7, "alice")], [Obj(data(7))])
        wait_until(lambda: adapter.get_usage().bytes_by_cache_salt == {"": SIZE, "alice": SIZE}, "the next listing counts")

    def test_stores_and_deletes_count_while_the_listing_runs(self):
        server = self.redis()
        url = f"resp://127.0.0.1:{server.port}"
        old = [key(i) for i in range(300)]
        self.store(self.adapter(url), old, [Obj(data(i, 64)) for i in range(300)])
        # Many listings, one after the other.
        adapter = self.adapter(url, usage_interval_min=0.001 / 60)
        for i in range(0, 300, 3):
            adapter.delete(old[i : i + 3])
            self.store(adapter, [key(1000 + i, "new")], [Obj(data(i, 64))])
        self.assertEqual(dict(adapter.get_usage().bytes_by_cache_salt), {"new": 6400})
        time.sleep(0.05)
        self.assertEqual(dict(adapter.get_usage().bytes_by_cache_salt), {"new": 6400})

    def test_a_chunk_that_is_replaced_while_the_listing_runs_has_its_new_size(self):
        server = self.redis()
        # Many listings, one after the other.
        adapter = self.adapter(f"resp://127.0.0.1:{server.port}", usage_interval_min=0.001 / 60)
        keys = [key(i) for i in range(1000)]
        for i in range(40):
            self.store(adapter, keys, [Obj(bytes(64 + i))] * 1000)
            self.assertEqual(adapter.get_usage().total_bytes_used, 1000 * (64 + i))

    def test_chunks_of_other_engines_and_of_in_process_mode_do_not_count(self):
        url = f"memory://{self.id()}"
        with kvconn.connect(url) as store:
            for text in ["m@1@0@ff@bfloat16", "vllm+m+00@00000000@0@ff", "sglang+m+00@00000000@0@ff"]:
                store.put(text, b"1" * 100)
            adapter = self.adapter(url)
            self.store(adapter, [key(1)], [Obj(data(1))])
            wait_until(lambda: adapter.report_status()["listing"]["state"] == "done", "the listing ends")
            self.assertEqual(adapter.get_usage().total_bytes_used, SIZE)

    def test_without_a_listing_the_stores_of_this_process_count(self):
        server = self.redis()
        server.ask("ACL SETUSER default -scan")
        with self.assertLogs("kvconn", "WARNING") as logged:
            adapter = self.adapter(f"resp://127.0.0.1:{server.port}")
            wait_until(lambda: adapter.report_status()["listing"]["state"] == "failed", "the listing fails")
            wait_until(lambda: logged.output, "a warning")
        self.store(adapter, [key(1)], [Obj(data(1))])
        self.assertEqual(adapter.get_usage().total_bytes_used, SIZE)
        self.assertTrue(adapter.report_status()["is_healthy"])

    def test_the_store_may_come_later(self):
        port = free_port()
        adapter = self.adapter(f"resp://127.0.0.1:{port}?min_reconnect_interval=0.05")
        wait_until(lambda: adapter.report_status()["listing"]["state"] == "failed", "the listing fails")
        self.assertIn(str(port), adapter.report_status()["listing"]["error"])
        server = RedisServer(port)
        self.addCleanup(server.close)
        wait_until(lambda: self.store(adapter, [key(1)], [Obj(data(1))]) == SIZE, "the store is used")
        self.assertEqual(adapter.report_status()["state"], "ok")


class Eviction(Adapters):
    def restart(self, listener, **params):
        """A new adapter on a store with four chunks that it did not store, two by two."""
        path = self.directory()
        first = self.adapter(f"fs://{path}")
        for i in (2, 0):
            self.store(first, [key(i), key(i + 1)], [Obj(data(i)), Obj(data(i + 1))])
            for file in os.scandir(path):
                # The machine's clock may be set back between the two.
                os.utime(file, (file.stat().st_atime, file.stat().st_mtime - 60))
        adapter = self.adapter(f"fs://{path}", **params)
        adapter.register_listener(listener)
        return adapter

    def test_it_learns_of_older_chunks_oldest_first(self):
        listener = Listener()
        adapter = self.restart(listener)
        wait_until(lambda: len(listener.order) == 4, "the eviction knows all chunks")
        order = [*listener.order]
        self.assertEqual((set(order[:2]), set(order[2:])), ({key(2), key(3)}, {key(0), key(1)}))
        self.assertEqual(set(listener.sizes.values()), {SIZE})
        adapter.delete(order[:1])
        self.assertEqual(listener.deleted, order[:1])
        self.assertEqual(adapter.get_usage().total_bytes_used, 3 * SIZE)

    def test_newer_chunks_are_evicted_after_older_ones_in_the_order_of_their_stores(self):
        path = self.directory()
        older = [key(i) for i in range(100, 103)]
        self.store(self.adapter(f"fs://{path}"), older, [Obj(data(i)) for i in range(3)])
        # Older chunks count as newer ones until the grace period ends.
        listener = Listener(isolates=True)
        adapter = self.adapter(f"fs://{path}", quota_grace_s=1000)
        adapter.register_listener(listener)
        self.store(adapter, [key(1), key(2)], [Obj(data(1)), Obj(data(2))])
        self.store(adapter, [key(3), key(4)], [Obj(data(3)), Obj(data(4))])
        self.store(adapter, [key(5)], [Obj(data(5))])
        adapter.delete([key(5)])
        # A chunk that is deleted costs no memory, also if the listing never ends.
        self.assertEqual(set(adapter._newer), {key(i) for i in range(1, 5)})
        adapter._quota_grace_ends = 0
        wait_until(lambda: adapter._newer is None, "the eviction knows all chunks")
        order = [*listener.order]
        self.assertEqual(set(order[:3]), set(older))
        self.assertEqual(order[3:], [key(2), key(1), key(4), key(3)])

    def test_each_older_chunk_is_told_once(self):
        listener = Listener()
        adapter = self.restart(listener, usage_interval_min=0.01 / 60)
        wait_until(lambda: len(listener.order) == 4, "the eviction knows all chunks")
        adapter._notify_keys_accessed([key(2)])
        time.sleep(2.5)
        self.assertEqual([*listener.order][-1], key(2))

    def test_quotas_wait_for_the_operator(self):
        waits, at_once = Listener(isolates=True), Listener(isolates=True)
        patient = self.restart(waits, quota_grace_s=1000)
        self.restart(at_once, quota_grace_s=0)
        wait_until(lambda: len(at_once.order) == 4, "the eviction knows all chunks")
        wait_until(lambda: patient.report_status()["listing"]["state"] == "done", "the listing ends")
        self.assertEqual(patient.get_usage().total_bytes_used, 4 * SIZE)
        # Longer than the adapter's thread waits between two steps.
        time.sleep(1.5)
        self.assertFalse(waits.order)

    def test_a_chunk_that_vanished_is_given_up(self):
        listener = Listener()
        url = f"memory://{self.id()}"
        adapter = self.adapter(url, usage_interval_min=0.02 / 60)
        adapter.register_listener(listener)
        self.store(adapter, [key(1)], [Obj(data(1))])
        self.adapter(url).delete([key(1)])
        wait_until(lambda: adapter.get_usage().total_bytes_used == 0, "a listing misses the chunk")
        adapter.delete([key(1), key(2)])
        self.assertEqual(listener.deleted, [key(1)])

    def test_capacity_is_in_gib(self):
        adapter = self.adapter(f"memory://{self.id()}", max_capacity_gb=1.5)
        self.assertTrue(adapter.supports_global_eviction)
        self.assertEqual(adapter.get_usage().total_capacity_bytes, 3 << 29)
        self.assertFalse(self.adapter(f"memory://{self.id()}").supports_global_eviction)


class Faults(Adapters):
    def test_a_stopped_server_is_a_miss_soon_and_comes_back(self):
        server = self.redis()
        adapter = self.adapter(f"resp://127.0.0.1:{server.port}?min_reconnect_interval=0.05", lookup_timeout_ms=100)
        self.store(adapter, [key(1)], [Obj(data(1))])
        server.stop_answering()
        self.assertEqual(self.lookup(adapter, [key(1)]), [False])
        status = adapter.report_status()
        self.assertEqual((status["state"], status["is_healthy"], status["locked_keys"]), ("lost", False, 0))
        # No lookup waits for the first one.
        self.assertEqual(self.lookup(adapter, [key(1)]), [False])
        server.process.send_signal(signal.SIGCONT)

        def found():
            is_there = self.lookup(adapter, [key(1)])[0]
            if is_there:
                adapter.submit_unlock([key(1)])
            return is_there

        wait_until(found, "the server is used again")
        obj = Obj(bytes(SIZE))
        self.assertEqual(self.load(adapter, [key(1)], [obj]), [True])
        self.assertEqual(obj.data, data(1))

    def test_a_dead_server_fails_each_task_once(self):
        server = self.redis()
        adapter = self.adapter(f"resp://127.0.0.1:{server.port}")
        self.store(adapter, [key(1)], [Obj(data(1))])
        server.kill()
        with self.assertLogs("kvconn", "WARNING") as logged:
            self.assertEqual(self.store(adapter, [key(2)], [Obj(data(2))]), -1)
            self.assertEqual(self.load(adapter, [key(1)], [Obj(bytes(SIZE))]), [False])
            adapter.delete([key(1)])
            for _ in range(20):
                self.store(adapter, [key(2)], [Obj(data(2))])
        self.assertEqual(sum("were not stored" in line for line in logged.output), 1)
        # The adapter still counts the chunk.
        self.assertEqual(adapter.get_usage().total_bytes_used, SIZE)


class Params(Adapters):
    def setUp(self):
        # Each warning comes once in a process.
        from kvconn import _identity

        _identity._warned.clear()

    def test_wrong_values_name_their_key(self):
        for params, why in [
            ({}, "`adapter_params` has no `url`"),
            ({"url": 3}, "`adapter_params` has no `url`"),
            ({"url": "memory://x", "max_capacity_gb": "5"}, "`max_capacity_gb` .* is '5'"),
            ({"url": "memory://x", "usage_interval_min": -1}, "`usage_interval_min`"),
            ({"url": "memory://x", "usage_interval_min": 1e300}, "`usage_interval_min` in `adapter_params`"),
            ({"url": "memory://x", "max_capacity_gb": 1e300}, "`max_capacity_gb` in `adapter_params`"),
            ({"url": "memory://x", "quota_grace_s": 10**400}, "`quota_grace_s` in `adapter_params`"),
            ({"url": "memory://x", "quota_grace_s": True}, "`quota_grace_s`"),
            ({"url": "memory://x", "lookup_timeout_ms": "soon"}, "lookup_timeout_ms"),
        ]:
            from kvconn.lmcache import KvconnL2Adapter

            with self.assertRaisesRegex(kvconn.InvalidError, why):
                KvconnL2Adapter(params)

    def test_an_unknown_key_is_a_warning_with_the_nearest_one(self):
        with self.assertLogs("kvconn", "WARNING") as logged:
            self.adapter(f"memory://{self.id()}", lookup_timout_ms=5)
            self.adapter(f"memory://{self.id()}", max_capacity=5)
        self.assertRegex(logged.output[0], "lookup_timout_ms.*lookup_timeout_ms")
        self.assertRegex(logged.output[1], "max_capacity`.*max_capacity_gb")

    def test_a_password_in_clear_is_one_warning_without_it(self):
        server = self.redis()
        server.ask("CONFIG SET requirepass s3cr3t")
        with self.assertLogs("kvconn", "WARNING") as logged:
            self.adapter(f"resp://:s3cr3t@127.0.0.1:{server.port}")
            self.adapter(f"resp://127.0.0.1:{server.port}", password="s3cr3t")
            self.adapter(f"tiered://?front=memory://{self.id()}&back=resp://:s3cr3t@127.0.0.1:{server.port}")
        self.assertEqual(len([line for line in logged.output if "password_file" in line]), 1)
        self.assertNotIn("s3cr3t", "".join(logged.output))

    def test_a_password_behind_another_store_is_a_warning(self):
        with self.assertLogs("kvconn", "WARNING") as logged:
            self.adapter(f"tiered://?front=memory://{self.id()}&back=resp://:s3cr3t@127.0.0.1:{free_port()}")
        self.assertTrue(any("password_file" in line for line in logged.output), logged.output)
        self.assertNotIn("s3cr3t", "".join(logged.output))

    def test_a_password_by_file_or_variable_is_no_warning(self):
        server = self.redis()
        server.ask("CONFIG SET requirepass s3cr3t")
        path = os.path.join(self.directory(), "secret")
        with open(path, "w") as file:
            file.write("s3cr3t")
        url = f"resp://127.0.0.1:{server.port}"
        with mock.patch.dict(os.environ, {"KVCONN_TEST_SECRET": "s3cr3t"}), self.assertNoLogs("kvconn", "WARNING"):
            for adapter in [self.adapter(url, password_file=path), self.adapter(url, password="${KVCONN_TEST_SECRET}")]:
                self.assertEqual(self.store(adapter, [key(1)], [Obj(data(1))]), SIZE)

    def test_the_hash_algorithm_is_a_warning_where_it_may_differ(self):
        from kvconn.lmcache import hash_seed

        for arguments, warns in [
            (["lmcache", "server"], False),
            (["lmcache", "server", "--hash-algorithm", "blake3"], False),
            (["lmcache", "server", "--hash-algorithm=builtin"], True),
            (["lmcache", "server", "--hash-algorithm", "sha256_cbor"], True),
        ]:
            with mock.patch.object(hash_seed, "warn_once") as warn:
                hash_seed.warn_in_server(arguments)
            self.assertEqual(warn.called, warns, arguments)

    def test_inside_an_engine_the_seed_matters_with_vllm(self):
        from kvconn.lmcache import hash_seed

        for seed, has_vllm, warns in [(None, True, True), ("random", True, True), ("0", True, False), (None, False, False)]:
            environment = {} if seed is None else {"PYTHONHASHSEED": seed}
            with (
                mock.patch.dict(os.environ, environment),
                mock.patch.object(hash_seed, "find_spec", lambda name: object() if has_vllm else None),
                mock.patch.object(hash_seed, "warn_once") as warn,
            ):
                if seed is None:
                    os.environ.pop("PYTHONHASHSEED", None)
                hash_seed.warn_inside_engine()
            self.assertEqual(warn.called, warns, (seed, has_vllm))

    def test_an_lmcache_without_the_server_is_an_error_that_says_so(self):
        code = """
import sys, types
sys.modules["lmcache"] = types.ModuleType("lmcache")
import kvconn.lmcache
try:
    kvconn.lmcache.KvconnL2Adapter
except ImportError as e:
    print(e)
"""
        self.assertRegex(run_child(code), "does not find the L2 adapters of LMCache's server .* use LMCache 0.5 or newer")

    def test_another_name_is_an_error_with_the_names(self):
        import kvconn.lmcache

        with self.assertRaisesRegex(AttributeError, "it has KvconnAdapter, KvconnConnector, KvconnL2Adapter"):
            kvconn.lmcache.KvconnL2Adaptr


if __name__ == "__main__":
    unittest.main()
