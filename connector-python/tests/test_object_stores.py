"""S3 through the Python API: blocking, on asyncio, by keyword options, and its errors. The server is moto, in a process of its own."""

import asyncio
import logging
import os
import subprocess
import unittest
import urllib.request
from pathlib import Path
from unittest import mock

import kvconn
from support import DEADLINE, TestCase, completions, engine_key, free_port, object_key, run_child, wait_until

SECRET = "s3cr3t/Key+with=signs"
KEYS = {"access_key_id": "AKIAPYTHONTEST", "secret_access_key": SECRET}
SERVERS = Path(__file__).parents[2] / "tests/servers"


def installed(name):
    """The folder of a server. The test fails if tests/servers/install did not put it there."""
    lines = (SERVERS / "versions").read_text().splitlines()
    version = dict(line.split() for line in lines if line.strip() and not line.startswith("#"))[name]
    home = Path(os.environ.get("KVCONN_TEST_SERVERS") or Path.home() / ".cache/kvconn-tests")
    folder = home / f"{name}-{version}"
    if not (folder / "complete").is_file():
        raise AssertionError(f"{name} {version} is not in {home}; run tests/servers/install")
    return folder


class S3(TestCase):
    @classmethod
    def setUpClass(cls):
        cls.port = free_port()
        program = installed("moto") / "bin/moto_server"
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        cls.server = subprocess.Popen([program, "-H", "127.0.0.1", "-p", str(cls.port)], **quiet)
        cls.addClassCleanup(cls.server.wait)
        cls.addClassCleanup(cls.server.kill)
        cls.endpoint = f"http://127.0.0.1:{cls.port}"
        wait_until(cls.answers, "moto answers")

    @classmethod
    def answers(cls):
        if cls.server.poll() is not None:
            raise AssertionError(f"moto ended with {cls.server.returncode}")
        try:
            with urllib.request.urlopen(cls.endpoint, timeout=1) as answer:
                return answer.status == 200
        except OSError:
            return False

    def setUp(self):
        self.bucket = "b-" + "".join(c if c.isalnum() else "-" for c in self._testMethodName.lower())[:60].rstrip("-")
        create = urllib.request.Request(f"{self.endpoint}/{self.bucket}", method="PUT")
        with urllib.request.urlopen(create, timeout=DEADLINE) as answer:
            self.assertEqual(answer.status, 200)

    def options(self, **more):
        return {"endpoint": self.endpoint, "region": "us-east-1", **KEYS, **more}

    def store(self, url=None, **more):
        store = kvconn.connect(url or f"s3://{self.bucket}/kv", **self.options(**more))
        self.addCleanup(store.close)
        return store

    def test_chunks_of_both_kinds_of_keys(self):
        store = self.store()
        self.assertEqual(store.name, "kvconn.s3/S3Connector")
        chunks = {engine_key(1, "org/my_model"): b"one", engine_key(2): bytes(range(256)) * 4096, object_key(3, "org/m"): b"three"}
        for key, chunk in chunks.items():
            store.put(key, chunk)
            self.assertEqual(store.get(key), chunk)
        self.assertEqual({entry.key: entry.size for entry in store.list_entries()}, {k: len(c) for k, c in chunks.items()})
        self.assertTrue(store.exists(engine_key(2)))
        self.assertIsNone(store.get(engine_key(9)))
        # Of another key whose object has the same name.
        self.assertIsNone(store.get(engine_key(1, "org_my_model")))
        memory = bytearray(3)
        self.assertEqual(store.get_into(engine_key(1, "org/my_model"), memory), 3)
        self.assertEqual(memory, b"one")
        self.assertEqual([store.remove(key) for key in [*chunks, engine_key(9)]], [True, True, True, False])
        self.assertEqual([*store.list()], [])

    def test_layouts_come_back_with_save_chunk_meta(self):
        store = self.store(save_chunk_meta=True)
        store.put(engine_key(1), bytes(48), shape=(2, 2, 3, 2), dtype="bfloat16", format="KV_2LTD")
        # The option says what a put writes. A get reads what is there.
        for reader in (store, self.store()):
            chunk = reader.get(engine_key(1))
            self.assertEqual((chunk.shapes, chunk.dtypes, chunk.format), ([(2, 2, 3, 2)], ["bfloat16"], "KV_2LTD"))
        self.store().put(engine_key(1), bytes(48))
        self.assertEqual(store.get(engine_key(1)).format, "BINARY")

    def test_asyncio(self):
        async def work():
            async with await kvconn.connect_async(f"s3://{self.bucket}", **self.options()) as store:
                keys = [engine_key(i) for i in range(40)]
                await asyncio.gather(*(store.put(key, key.encode()) for key in keys))
                self.assertEqual(await asyncio.gather(*(store.get(key) for key in keys)), [key.encode() for key in keys])
                self.assertEqual(sorted([key async for key in store.list()]), sorted(keys))

        asyncio.run(work())

    def test_the_client_of_the_engines(self):
        with mock.patch.dict(os.environ, {"KVCONN_TEST_ID": KEYS["access_key_id"], "KVCONN_TEST_SECRET": SECRET}):
            options = self.options(access_key_id="${KVCONN_TEST_ID}", secret_access_key="${KVCONN_TEST_SECRET}")
            client = kvconn.NativeClient(f"s3://{self.bucket}/native", **options)
        self.addCleanup(client.close)
        keys = [object_key(i, "org/m") for i in range(8)]
        client.submit_batch_set(keys, [memoryview(key.encode()) for key in keys])
        self.assertTrue(all(done[1] for done in completions(client)))
        rows = [bytearray(len(key)) for key in keys]
        client.submit_batch_get([*keys, object_key(99)], [memoryview(row) for row in [*rows, bytearray(4)]])
        self.assertEqual(completions(client)[0][3], [True] * 8 + [False])
        self.assertEqual(rows, [bytearray(key.encode()) for key in keys])
        client.submit_batch_exists([object_key(99), keys[0]])
        self.assertEqual(completions(client)[0][3], [False, True])

    def test_a_key_in_clear_is_a_warning_that_names_the_option_for_a_file(self):
        code = """if True:
            import logging, sys, time
            logging.basicConfig(stream=sys.stdout)
            from kvconn import NativeClient
            NativeClient(sys.argv[1], endpoint=sys.argv[2], access_key_id="AKIA", secret_access_key=sys.argv[3]).close()
            time.sleep(0.2)
        """
        output = run_child(code, f"s3://{self.bucket}", self.endpoint, SECRET)
        self.assertIn("secret_access_key_file", output)
        self.assertNotIn(SECRET, output)

    def test_the_keys_may_come_from_the_environment_and_from_files(self):
        folder = Path(self.directory())
        (folder / "secret").write_text(SECRET + "\n")
        (folder / "id").write_text(KEYS["access_key_id"])
        by_file = {"access_key_id_file": str(folder / "id"), "secret_access_key_file": str(folder / "secret")}
        with kvconn.connect(f"s3://{self.bucket}", endpoint=self.endpoint, **by_file) as store:
            store.put(engine_key(1), b"x")
        code = """if True:
            import os, sys, kvconn
            os.environ.update(AWS_ACCESS_KEY_ID=sys.argv[2], AWS_SECRET_ACCESS_KEY=sys.argv[3], AWS_ENDPOINT_URL=sys.argv[4])
            print(kvconn.connect(sys.argv[1]).get(sys.argv[5]).tobytes())
        """
        said = run_child(code, f"s3://{self.bucket}", KEYS["access_key_id"], SECRET, self.endpoint, engine_key(1))
        self.assertEqual(said.strip(), "b'x'")

    def test_errors_have_their_classes_and_say_what_to_do(self):
        wrong = {
            (kvconn.InvalidError, "names no bucket"): lambda: kvconn.connect("s3://", **self.options()),
            (kvconn.InvalidError, "create the bucket"): lambda: kvconn.connect("s3://no-such-bucket", **self.options()),
            (kvconn.InvalidError, "access_key_id"): lambda: kvconn.connect(f"s3://{self.bucket}", secret_access_key=SECRET),
            (kvconn.InvalidError, "`region`"): lambda: self.store(regoin="eu"),
            (kvconn.InvalidError, "connections"): lambda: self.store(connections=0),
            (kvconn.UnavailableError, "127.0.0.1"): lambda: self.store(endpoint=f"http://127.0.0.1:{free_port()}"),
        }
        for (kind, words), call in wrong.items():
            with self.subTest(words), self.assertRaises(kind) as raised:
                call()
            self.assertIn(words, str(raised.exception))
            self.assertNotIn(SECRET, str(raised.exception))

    def test_no_secret_is_shown(self):
        said = []
        handler = logging.Handler()
        handler.emit = lambda record: said.append(f"{record.getMessage()} {record.args!r}")
        logger = logging.getLogger("kvconn")
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(1)
        self.addCleanup(logger.setLevel, level)
        self.addCleanup(logger.removeHandler, handler)
        store = self.store()
        store.put(engine_key(1), b"x")
        said += [repr(store), str(store), repr(store.list()), repr(store.get(engine_key(1)))]
        url = f"s3://{self.bucket}?endpoint={self.endpoint}&access_key_id=AKIA&secret_access_key=hunter2hunter2&no_such=1"
        with self.assertRaises(kvconn.InvalidError) as raised:
            kvconn.connect(url)
        wait_until(lambda: any("opened" in text for text in said), "log lines")
        for text in [*said, str(raised.exception), repr(raised.exception)]:
            for secret in (SECRET, "hunter2", "Signature=", "AWS4-HMAC"):
                self.assertNotIn(secret, text)


class Registry(unittest.TestCase):
    def test_the_object_stores_are_in_the_wheel(self):
        schemes = {c.module: c.schemes for c in kvconn.connectors()}
        self.assertEqual(schemes["kvconn.s3"], ["s3"])
        self.assertIn("gs", schemes["kvconn.gcs"])
        self.assertIn("azure", schemes["kvconn.azure"])


if __name__ == "__main__":
    unittest.main()
