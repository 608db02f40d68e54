"""One family of errors: their classes, their hints in Python's terms, and how tracebacks show them."""

import copy
import errno
import os
import pickle
import re
import subprocess
import sys
import typing
import unittest

import kvconn
from kvconn import _errors, _kvconn
from support import TestCase, engine_key, free_port

KEY = engine_key(0)

#: The built-in base class of each class.
ALSO = {
    "InvalidError": ValueError,
    "NotFoundError": LookupError,
    "UnsupportedError": NotImplementedError,
    "ClosedError": RuntimeError,
    "PoolFullError": MemoryError,
    "TooLargeError": ValueError,
    "SizeMismatchError": ValueError,
    "UnavailableError": ConnectionError,
    "TimedOutError": TimeoutError,
    "ThrottledError": OSError,
    "StoreFullError": OSError,
    "ReadOnlyError": OSError,
    "DeniedError": PermissionError,
    "StoreIOError": OSError,
}

#: Words of Rust, which do not help a Python user.
RUST = re.compile(
    r"::|\buse \w+ as _|\bfeature\b|\b[Cc]argo\b|\bcrates?\b|\bbinary\b|\blinked\b|#\[|\bBuilder|`\.\w+\(|\bwith_capacity\b|LocalCpuBackend"
    r"|max_local_cpu_size|\b[ui](8|16|32|64|128|size)\b|\bf(32|64)\b|Option<|Vec<|&str|\bstruct\b|\benum\b|\btrait\b|\bunit variant"
)


class Classes(unittest.TestCase):
    def test_the_kinds_are_those_of_rust_and_each_has_a_class(self):
        kinds = _kvconn._error_kinds()
        self.assertEqual([*typing.get_args(kvconn.ErrorKind)], kinds)
        self.assertEqual([*_errors._CLASSES], kinds)
        for kind in kinds:
            e = _errors.of_kind("why", kind)
            self.assertEqual((e.kind, str(e)), (kind, "why"))
            self.assertIsInstance(e, ALSO.get(type(e).__name__, kvconn.KvconnError))
            if not kind.startswith("invalid"):
                self.assertEqual(type(e)("why").kind, kind, "the kind of an error that a program makes")
        self.assertIs(type(_errors.of_kind("why", "newer")), kvconn.KvconnError)

    def test_a_program_finds_each_class_where_a_traceback_names_it(self):
        for e in [*map(_errors.of_kind, "x" * 20, _kvconn._error_kinds()), kvconn.InvalidTypeError("x"), kvconn.NoEventLoopError("x")]:
            name = type(e).__name__
            self.assertIs(getattr(kvconn, name), type(e))
            self.assertIn(name, kvconn.__all__)
            self.assertEqual(type(e).__module__, "kvconn")
            self.assertTrue(type(e).__doc__)

    def test_except_oserror_catches_the_surroundings_of_a_store_only(self):
        caught = {kind for kind in _kvconn._error_kinds() if isinstance(_errors.of_kind("x", kind), OSError)}
        self.assertEqual(caught, {"timeout", "unavailable", "throttled", "store_full", "read_only", "denied", "io"})
        numbers = {kind: _errors.of_kind("x", kind).errno for kind in ("store_full", "read_only", "denied", "timeout")}
        wanted = {"store_full": errno.ENOSPC, "read_only": errno.EROFS, "denied": errno.EACCES, "timeout": errno.ETIMEDOUT}
        self.assertEqual(numbers, wanted)

    def test_errors_are_pickled_and_copied_whole(self):
        for kind in _kvconn._error_kinds():
            e = _errors.of_kind("why", kind, "get", "m/C", KEY, "do this", True)
            e.add_note("a note")
            for again in (pickle.loads(pickle.dumps(e)), copy.copy(e), copy.deepcopy(e)):
                self.assertEqual((type(again), str(again), vars(again)), (type(e), str(e), vars(e)))
                self.assertEqual(getattr(again, "errno", None), getattr(e, "errno", None))

    def test_repr_is_short(self):
        e = _errors.of_kind("get: why", "corrupt", "get", "m/C", KEY, "do this", True)
        self.assertEqual(repr(e), "CorruptError('get: why', kind='corrupt')")

    def test_a_traceback_names_the_class_as_programs_do(self):
        code = f"import kvconn; kvconn.connect('redis://127.0.0.1:{free_port()}')"
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=30)
        self.assertRegex(child.stderr.splitlines()[-1], r"^kvconn\.UnavailableError: open \(kvconn\.redis/RedisConnector\): ")


class Hints(TestCase):
    """A program that follows each hint succeeds."""

    def raised(self, call):
        with self.assertRaises(kvconn.KvconnError) as raised:
            call()
        e = raised.exception
        for text in (str(e), e.hint or ""):
            self.assertNotRegex(text, RUST)
        return e

    def test_no_error_speaks_rust(self):
        directory = self.directory()
        store = kvconn.connect(f"fs://{directory}", pool_bytes=1 << 20)
        self.addCleanup(store.close)
        store.put(KEY, bytes(600 << 10))
        held = store.get(KEY)
        closed = kvconn.connect("memory://")
        closed.close()
        small = kvconn.connect("memory://small", capacity=8192)
        self.addCleanup(small.close)
        file = os.path.join(directory, "file")
        with open(file, "w"):
            pass
        seen = set()
        for kind, call in [
            ("not_found", lambda: kvconn.connect("cassandra://h:1")),
            ("not_found", lambda: kvconn.connect("memroy://a")),
            ("not_found", lambda: kvconn.connect("redis+tls://h:1")),
            ("not_found", lambda: kvconn.connect("external://h:0/no.such/?connector_name=C")),
            ("not_found", lambda: kvconn.connect("external://h:0/kvconn.memory/?connector_name=C")),
            ("invalid_url", lambda: kvconn.connect("no url")),
            ("invalid_url", lambda: kvconn.connect("external://h:0/")),
            ("invalid_url", lambda: kvconn.connect("redis://h:1/x")),
            ("invalid_url", lambda: kvconn.connect("mock://x/")),
            ("invalid_option", lambda: kvconn.connect("plugin://mine")),
            ("invalid_option", lambda: kvconn.connect("memory://", capcity=1)),
            ("invalid_option", lambda: kvconn.connect("memory://", capacity="much")),
            ("invalid_option", lambda: kvconn.connect("memory://", capacity=-1)),
            ("invalid_option", lambda: kvconn.connect("memory://", timeout_ms=1.5)),
            ("invalid_option", lambda: kvconn.connect("memory://", timeout_ms=0)),
            ("invalid_option", lambda: kvconn.connect("memory://", timeout=5)),
            ("invalid_option", lambda: kvconn.connect("memory://", retries=-1)),
            ("invalid_option", lambda: kvconn.connect("memory://", min_reconnect_interval="x")),
            ("invalid_option", lambda: kvconn.connect("memory://", connect="later")),
            ("invalid_option", lambda: kvconn.connect("redis://h:1", tls_ca="/none")),
            ("invalid_option", lambda: kvconn.connect("redis://h:1", protocol=9)),
            ("invalid_option", lambda: kvconn.connect("redis://h:1", connections=0)),
            ("invalid_option", lambda: kvconn.connect("redis://h:1", password="${NO_SUCH_VARIABLE}")),
            ("invalid_option", lambda: kvconn.connect("redis://h:1", password_file="/none")),
            ("invalid_option", lambda: kvconn.connect("memory://", namespace="a/b")),
            ("invalid_input", lambda: kvconn.connect("memory://", key_kind="odd")),
            ("invalid_input", lambda: kvconn.connect("memory://", pool_bytes="1")),
            ("invalid_key", lambda: store.get("no key")),
            ("invalid_key", lambda: store.get("m@01@0@ff@half")),
            ("invalid_input", lambda: store.put(KEY, b"1", shape=[1], dtype="uint9", format="BINARY")),
            ("invalid_input", lambda: store.put(KEY, b"1", shape=[2], dtype="uint8", format="BINARY")),
            ("invalid_input", lambda: store.get(KEY, timeout=-1)),
            ("pool_full", lambda: store.get(KEY)),
            ("pool_full", lambda: store.batched_get([KEY, KEY])),
            ("size_mismatch", lambda: store.get_into(KEY, bytearray(8))),
            ("closed", lambda: closed.get(KEY)),
            ("too_large", lambda: small.put(KEY, bytes(64 << 10))),
            ("unavailable", lambda: kvconn.connect(f"redis://127.0.0.1:{free_port()}")),
            ("unavailable", lambda: kvconn.connect(f"redis-cluster://127.0.0.1:{free_port()}")),
            ("unavailable", lambda: kvconn.connect(f"redis-sentinel://127.0.0.1:{free_port()}/mymaster")),
            ("unavailable", lambda: kvconn.connect("redis://no-such-host.invalid:1")),
            ("unavailable", lambda: kvconn.connect("unix:///no/such/socket")),
            ("io", lambda: kvconn.connect(f"fs://{file}/below")),
        ]:
            with self.subTest(kind, line=call.__code__.co_firstlineno):
                self.assertEqual(self.raised(call).kind, kind)
            seen.add(kind)
        self.assertEqual(len(held), 600 << 10)
        self.assertGreaterEqual(len(seen), 11)

    def test_a_scheme_that_is_not_installed(self):
        e = self.raised(lambda: kvconn.connect("cassandra://h:1"))
        self.assertIsInstance(e, kvconn.NotFoundError)
        self.assertIn("`kvconn.connectors()`", e.hint)
        self.assertIn("`pip install`", e.hint)
        self.assertTrue(kvconn.connectors())

    def test_a_full_pool(self):
        url = f"fs://{self.directory()}"
        with kvconn.connect(url, pool_bytes=1 << 20) as store:
            store.put(KEY, bytes(600 << 10))
            held = store.get(KEY)
            e = self.raised(lambda: store.get(KEY))
            self.assertIsInstance(e, kvconn.PoolFullError)
            self.assertIn("`pool_bytes`", e.hint)
            del held
            self.assertEqual(len(store.get(KEY)), 600 << 10)
        with kvconn.connect(url, pool_bytes=8 << 10) as store:
            e = self.raised(lambda: store.get(KEY))
            self.assertIsInstance(e, kvconn.TooLargeError)
            self.assertEqual(e.hint, "raise `pool_bytes`")
        with kvconn.connect(url, pool_bytes=1 << 20) as store:
            self.assertEqual(len(store.get(KEY)), 600 << 10)

    def test_a_lost_server(self):
        port = free_port()
        e = self.raised(lambda: kvconn.connect(f"redis://127.0.0.1:{port}"))
        self.assertTrue(e.temporary)
        self.assertIn("`connect=lazy`", e.hint)
        with kvconn.connect(f"redis://127.0.0.1:{port}", connect="lazy") as store:
            self.assertIsInstance(self.raised(lambda: store.get(KEY)), kvconn.UnavailableError)

    def test_a_wrong_password_and_a_full_server(self):
        server = self.redis()
        server.ask("CONFIG SET requirepass secret")
        e = self.raised(lambda: kvconn.connect(f"redis://127.0.0.1:{server.port}", password="wrong"))
        self.assertIsInstance(e, kvconn.DeniedError)
        with kvconn.connect(f"redis://127.0.0.1:{server.port}", password="secret") as store:
            store.put(KEY, b"x")
            self.assertEqual(store.get(KEY), b"x")

    def test_a_corrupt_value(self):
        server = self.redis()
        with kvconn.connect(f"redis://127.0.0.1:{server.port}") as store:
            server.ask(f"SET {KEY}metadata short")
            server.ask(f"SET {KEY}kv_bytes short")
            self.assertIsInstance(self.raised(lambda: store.get(KEY)), kvconn.CorruptError)


if __name__ == "__main__":
    unittest.main()
