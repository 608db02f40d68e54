"""The classes that engines open: a store that is away when the engine starts is used as soon as it is there."""

import asyncio
import time
import unittest

import kvconn
from kvconn import NativeClient, _kvconn
from support import RedisServer, TestCase, completions, engine_key, free_port, object_key, wait_until

KEY = engine_key(0)


def open_remote(url):
    return _kvconn.LMCacheRemote(url, None, [], None, None)


async def call(method):
    return await method()


class Engines(TestCase):
    def remote(self, url):
        remote = open_remote(url)
        self.addCleanup(lambda: asyncio.run(call(remote.close)))
        return remote

    def client(self, url):
        client = NativeClient(url)
        self.addCleanup(client.close)
        return client


class StartedLater(Engines):
    def check(self, scheme, opener, uses):
        """`uses` is called until it succeeds."""
        port = free_port()
        with self.assertLogs("kvconn", "WARNING") as logged:
            started = time.monotonic()
            store = opener(f"{scheme}://:hunter2@127.0.0.1:{port}?min_reconnect_interval=0.05")
            self.assertLess(time.monotonic() - started, 10)
            wait_until(lambda: logged.output, "a warning")
        self.assertNotIn("hunter2", "".join(logged.output))
        # More failures than the breaker allows.
        for _ in range(10):
            self.assertFalse(uses(store))
        server = RedisServer(port)
        self.addCleanup(server.close)
        server.ask("CONFIG SET requirepass hunter2")
        wait_until(lambda: uses(store), "the store is used")

    def test_by_lmcaches_connector_class(self):
        def uses(remote):
            try:
                return not remote.exists_sync(KEY)
            except kvconn.UnavailableError:
                return False

        for scheme in ("redis", "resp", "valkey"):
            with self.subTest(scheme=scheme):
                self.check(scheme, self.remote, uses)

    def test_by_a_native_client(self):
        def uses(client):
            client.submit_batch_set([object_key(1)], [b"1"])
            return completions(client)[0][1]

        self.check("resp", self.client, uses)

    def test_behind_another_store(self):
        port = free_port()
        remote = self.remote(f"tiered://?front=memory://near&back=redis://127.0.0.1:{port}&min_reconnect_interval=0.05")
        server = RedisServer(port)
        self.addCleanup(server.close)

        def uses():
            try:
                return asyncio.run(call(remote.ping)) is None
            except kvconn.UnavailableError:
                return False

        wait_until(uses, "the back store is used")


class Wrong(Engines):
    def test_an_answer_that_is_wrong_fails_the_open(self):
        server = self.redis()
        server.ask("CONFIG SET requirepass secret")
        for opener in (open_remote, NativeClient):
            with self.assertRaises(kvconn.KvconnError) as raised:
                opener(f"redis://:wrong@127.0.0.1:{server.port}")
            self.assertEqual(raised.exception.kind, "denied")
            self.assertNotIn("wrong@", str(raised.exception))

    def test_the_url_may_ask_for_an_answer(self):
        for opener in (open_remote, NativeClient):
            with self.assertRaises(kvconn.UnavailableError):
                opener(f"redis://127.0.0.1:{free_port()}?connect=eager")

    def test_programs_get_an_error(self):
        with self.assertRaises(kvconn.UnavailableError):
            kvconn.connect(f"redis://127.0.0.1:{free_port()}")


class Bounded(Engines):
    def test_the_urls_timeout_is_also_that_of_batches(self):
        server = self.redis()
        client = self.client(f"resp://127.0.0.1:{server.port}?timeout_ms=200&io_timeout_ms=60000")
        server.stop_answering()
        started = time.monotonic()
        client.submit_batch_get([object_key(1)], [bytearray(1)])
        self.assertFalse(completions(client)[0][1])
        # Without the URL's, the limit of a batch is a minute.
        self.assertLess(time.monotonic() - started, 10)

    def test_a_store_that_hangs_is_left_alone(self):
        server = self.redis()
        remote = self.remote(f"resp://127.0.0.1:{server.port}?timeout_ms=50")
        server.stop_answering()
        kinds = []
        for _ in range(7):
            with self.assertRaises(kvconn.KvconnError) as raised:
                remote.exists_sync(KEY)
            kinds.append(raised.exception.kind)
        self.assertEqual(kinds, ["timeout"] + ["unavailable"] * 6)

    def test_a_lookup_ends_sooner_than_other_calls(self):
        server = self.redis()
        client = self.client(f"resp://127.0.0.1:{server.port}")
        server.stop_answering()
        for call, why in [(1, "no answer within 2s"), (2, "the store is lost: no answer within 2s")]:
            client.submit_batch_exists([object_key(1)])
            _, ok, error, _ = completions(client)[0]
            self.assertFalse(ok)
            self.assertIn(why, error, call)


if __name__ == "__main__":
    unittest.main()
