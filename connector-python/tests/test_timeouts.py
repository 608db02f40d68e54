"""`timeout=` of a call, and the options that bound `connect`."""

import asyncio
import math
import socket
import threading
import time
import unittest

import kvconn
from support import DEADLINE, RedisServer, TestCase, engine_key, free_port

KEY, OTHER = engine_key(0), engine_key(1)

#: Every method of a store with a `timeout`, and a call of it.
CALLS = {
    "put": lambda store, **named: store.put(KEY, b"x", **named),
    "get": lambda store, **named: store.get(KEY, **named),
    "get_into": lambda store, **named: store.get_into(KEY, bytearray(8), **named),
    "exists": lambda store, **named: store.exists(KEY, **named),
    "remove": lambda store, **named: store.remove(KEY, **named),
    "ping": lambda store, **named: store.ping(**named),
    "batched_put": lambda store, **named: store.batched_put([(KEY, b"x")], **named),
    "batched_get": lambda store, **named: store.batched_get([KEY, OTHER], **named),
    "batched_get_into": lambda store, **named: store.batched_get_into([KEY], [bytearray(8)], **named),
    "batched_exists": lambda store, **named: store.batched_exists([KEY], **named),
    "batched_contains": lambda store, **named: store.batched_contains([KEY], **named),
    "get_prefix": lambda store, **named: store.get_prefix([KEY], **named),
    "batched_remove": lambda store, **named: store.batched_remove([KEY], **named),
}
SHORT = 0.05


class Timeouts(TestCase, unittest.IsolatedAsyncioTestCase):
    def stalled(self, options=""):
        """The URL of a server that has stopped, after it answered."""
        server = self.redis()
        store = kvconn.connect(f"redis://127.0.0.1:{server.port}?io_timeout_ms=60000&connect_timeout_ms=60000{options}")
        self.addCleanup(store.close)
        store.put(KEY, b"x")
        server.stop_answering()
        self.addCleanup(server.process.send_signal, 18)  # SIGCONT
        return store

    def timed_out(self, e, operation):
        self.assertIsInstance(e, kvconn.TimedOutError)
        self.assertEqual((e.operation, e.temporary), (operation, True), str(e))
        self.assertIn("50ms", str(e))

    def test_every_call_ends_in_its_time(self):
        # The call's own time replaces the one of the URL, and holds for all retries together.
        store = self.stalled("&timeout_ms=60000&retries=3")
        for name, call in CALLS.items():
            with self.subTest(name), self.assertRaises(kvconn.TimedOutError) as raised:
                call(store, timeout=SHORT)
            self.timed_out(raised.exception, name)
            if name not in ("ping",):
                self.assertEqual(raised.exception.key, KEY)
        for name in ("list", "list_entries"):
            with self.subTest(name), self.assertRaises(kvconn.TimedOutError) as raised:
                next(getattr(store, name)(timeout=SHORT))
            self.timed_out(raised.exception, name)

    async def test_every_call_on_asyncio_ends_in_its_time(self):
        store = self.stalled().aio
        for name, call in CALLS.items():
            with self.subTest(name), self.assertRaises(kvconn.TimedOutError) as raised:
                await call(store, timeout=SHORT)
            self.timed_out(raised.exception, name)
        with self.assertRaises(kvconn.TimedOutError):
            async for _ in store.list(timeout=SHORT):
                pass
        # A cancelled call is cancelled, and not timed out.
        call = asyncio.ensure_future(store.get(KEY, timeout=60))
        await asyncio.sleep(SHORT)
        call.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await call

    def test_every_key_of_a_batch_fails(self):
        store = self.stalled()
        answers = store.batched_get([KEY, "no key", OTHER], return_exceptions=True, timeout=SHORT)
        self.assertEqual([e.kind for e in answers], ["timeout", "invalid_key", "timeout"])
        self.assertEqual([e.key for e in answers[::2]], [KEY, OTHER])

    def test_servers_that_hang_have_their_error_in_place(self):
        store = self.stalled("&timeout_ms=3000")
        for servers in (store.servers(), store.servers(timeout=SHORT)):
            self.assertEqual(len(servers), 1)
            self.assertIsInstance(servers[0]["error"], kvconn.TimedOutError)

    def test_a_time_that_is_long_enough_changes_nothing(self):
        with kvconn.connect("mock://1/?peeking_latency=300&timeout_ms=20") as store:
            with self.assertRaises(kvconn.TimedOutError):
                store.exists(KEY)
            for long in (60, 60.5, 1e300, math.inf, 10**30):
                self.assertFalse(store.exists(KEY, timeout=long))

    def test_a_time_that_is_not_one_is_refused(self):
        with kvconn.connect("memory://") as store:
            for wrong in (0, -1, 0.0, -0.0, math.nan, -math.inf):
                with self.subTest(wrong), self.assertRaisesRegex(kvconn.InvalidError, "`timeout` is .* leaves no time") as raised:
                    store.get(KEY, timeout=wrong)
                self.assertIn("`math.inf`", raised.exception.hint)
            for wrong in ("5", [1], True, 5j):
                with self.subTest(wrong), self.assertRaisesRegex(kvconn.InvalidTypeError, "not a number of seconds"):
                    store.get(KEY, timeout=wrong)
            self.assertIsNone(store.get(KEY, timeout=None))


class Opening(TestCase):
    def listener(self):
        """A server that accepts connections and never answers."""
        server = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(server.close)
        return server.getsockname()[1]

    def urls(self, port):
        back = f"redis%3A%2F%2F127.0.0.1%3A{port}"
        return [
            f"redis://127.0.0.1:{port}?",
            f"resp://127.0.0.1:{port}?tls=true&tls_insecure=true&",
            f"redis-cluster://127.0.0.1:{port}?",
            f"redis-sentinel://127.0.0.1:{port}/mymaster?",
            f"external://127.0.0.1:{port}/kvconn.redis/?connector_name=RedisConnector&",
            f"tiered://?front=memory%3A%2F%2F&back={back}&",
            f"audit://?actual_remote_url={back}&",
            f"s3://bucket?endpoint=http://127.0.0.1:{port}&region=r&access_key_id=a&secret_access_key=b&",
        ]

    def test_timeout_ms_bounds_the_open_of_a_server_that_never_answers(self):
        for url in self.urls(self.listener()):
            with self.subTest(url):
                for options in ("timeout_ms=100", "timeout_ms=60000&open_timeout_ms=100", "timeout_ms=50&retries=1&retry_min_delay_ms=1"):
                    started = time.monotonic()
                    with self.assertRaises(kvconn.TimedOutError) as raised:
                        kvconn.connect(url + options)
                    self.assertLess(time.monotonic() - started, DEADLINE)
                    self.assertEqual(raised.exception.operation, "open")

    def test_retries_wait_for_a_server_that_comes_back(self):
        for form in ("redis://127.0.0.1:{}", "external://127.0.0.1:{}/kvconn.resp/?connector_name=RESPConnector"):
            port, servers = free_port(), []
            starting = threading.Timer(0.3, lambda: servers.append(RedisServer(port)))
            starting.start()
            try:
                with kvconn.connect(form.format(port), retries=100, retry_min_delay_ms=50, retry_max_delay_ms=50) as store:
                    store.put(KEY, b"x")
            finally:
                starting.join()
                servers[0].close()

    def test_a_wrong_password_is_not_tried_again(self):
        server = self.redis()
        server.ask("CONFIG SET requirepass secret")
        with self.assertRaises(kvconn.DeniedError):
            kvconn.connect(f"redis://:wrong@127.0.0.1:{server.port}", retries=1000, retry_min_delay_ms=60000, retry_max_delay_ms=60000)

    def test_a_lazy_store_opens_without_its_server(self):
        with kvconn.connect(f"redis://127.0.0.1:{free_port()}", connect="lazy", retries=3, timeout_ms=100) as store:
            with self.assertRaises(kvconn.UnavailableError):
                store.get(KEY)


if __name__ == "__main__":
    unittest.main()
