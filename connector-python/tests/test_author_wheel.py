"""An author's wheel beside kvconn's: examples/acme-kv/wheel, installed. It does not need LMCache."""

import asyncio
import importlib
import importlib.metadata
import logging
import select
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

import acme
import kvconn

URL = "acme://localhost:0"
EXTERNAL = "external://localhost:0/acme.kv/?connector_name=AcmeConnector"
KEY = "meta-llama/Llama-3.1-8B@1@0@1f2e3d@bfloat16"


class Wheel(unittest.TestCase):
    def test_the_store_opens_from_the_wheel_and_from_kvconn(self):
        for connect in (acme.library.connect, kvconn.connect):
            for url in (URL, EXTERNAL):
                with connect(url) as store:
                    self.assertIsInstance(store, kvconn.Store)
                    self.assertEqual(store.name, "acme.kv/AcmeConnector")
                    store.put(KEY, b"hello")
                    self.assertEqual(store.get(KEY), b"hello")
                    memory = bytearray(5)
                    self.assertEqual((store.get_into(KEY, memory), memory), (5, b"hello"))

    def test_it_opens_on_asyncio(self):
        async def main():
            for connect in (acme.library.connect_async, kvconn.connect_async):
                async with connect(URL) as store:
                    self.assertIsInstance(store, kvconn.AsyncStore)
                    await store.put(KEY, b"hello")
                    self.assertEqual(bytes(await store.get(KEY)), b"hello")
                await (await connect(URL)).close()

        asyncio.run(main())

    def test_options_are_the_connectors_and_errors_are_kvconns(self):
        with kvconn.connect(URL, max_chunks=0) as store, self.assertRaises(kvconn.KvconnError) as raised:
            store.put(KEY, b"hello")
        self.assertEqual(raised.exception.kind, "store_full")
        with self.assertRaisesRegex(kvconn.InvalidError, "max_chunk"):
            kvconn.connect(f"{URL}?max_chunk=1")

    def test_the_native_client_of_either_package_opens_it(self):
        for package in (acme.library, kvconn):
            client = package.NativeClient(url=URL)
            poller = select.poll()
            poller.register(client.event_fd(), select.POLLIN)

            def one(asked):
                self.assertTrue(poller.poll(30_000))
                ((id, ok, error, bools),) = client.drain_completions()
                self.assertEqual((id, ok, error), (asked, True, ""))
                return bools

            keys, memory = ["model@00000001@0@00ff", "model@00000001@0@0100"], bytearray(5)
            one(client.submit_batch_set(keys[:1], [memoryview(b"hello")]))
            self.assertEqual(one(client.submit_batch_exists(keys)), [True, False])
            self.assertEqual(one(client.submit_batch_get(keys[:1], [memoryview(memory)])), [True])
            self.assertEqual(memory, b"hello")
            client.close()

    def test_an_engines_client_opens_it(self):
        client = kvconn._libraries.of_url(URL).EngineClient(URL, None, engine="vllm", model="m")
        key, memory = bytes(36), bytearray(5)
        self.assertEqual(client.store([key], buffers=[b"hello"]), [True])
        self.assertEqual((client.load([key], buffers=[memory]), memory), ([True], b"hello"))
        client.close()

    def test_the_registered_module_is_importable(self):
        module = importlib.import_module("acme.kv")
        self.assertIn("AcmeConnector", dir(module))
        self.assertIn("Keeps chunks in a map", module.__doc__)
        self.assertNotIn("lmcache", sys.modules)

    def test_kvconn_and_lmcache_find_the_wheel(self):
        # LMCache imports the module that the URL or its configuration names.
        self.assertEqual(run(f"import kvconn; print(kvconn.connect('{URL}').name)"), "acme.kv/AcmeConnector\n")
        self.assertEqual(run("import importlib; print(dir(importlib.import_module('acme.kv')))").count("AcmeConnector"), 1)

    def test_both_libraries_work_side_by_side(self):
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        with kvconn.connect(f"fs://{folder}") as files, kvconn.connect(URL) as map:
            files.put(KEY, b"in a file")
            map.put(KEY, b"in the map")
            self.assertEqual((files.get(KEY), map.get(KEY)), (b"in a file", b"in the map"))
        modules = [info.module for info in kvconn.connectors()]
        self.assertEqual(modules.count("acme.kv"), 1)
        self.assertIn("kvconn.fs", modules)
        # The wheel has only the stores in its Cargo.toml.
        with self.assertRaisesRegex(kvconn.NotFoundError, "install kvconn's full wheel"):
            acme.library.connect(f"fs://{folder}")

    def test_two_wheels_with_the_same_connector_work(self):
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        shutil.copytree(Path(acme.__file__).parent, folder / "other")
        text = (folder / "other" / "__init__.py").read_text()
        (folder / "other" / "__init__.py").write_text(text.replace("from acme", "from other"))
        code = f"""
import sys
sys.path.append({str(folder)!r})
import acme, kvconn, other
assert acme._native.__file__ != other._native.__file__
stores = [package.connect("{URL}") for package in (acme.library, other.library, kvconn)]
for i, store in enumerate(stores):
    store.put("{KEY}", bytes([i]))
print(*[bytes(store.get("{KEY}"))[0] for store in stores])
"""
        self.assertEqual(run(code), "0 1 2\n")

    def test_a_child_of_fork_opens_its_own_store(self):
        code = f"""
import acme, os, kvconn
store, files = acme.library.connect("{URL}"), kvconn.connect("memory://a")
store.put("{KEY}", b"hello")
child = os.fork()
if child == 0:
    try:
        store.get("{KEY}")
    except kvconn.ClosedError:
        with kvconn.connect("{URL}") as own:
            own.put("{KEY}", b"hello")
            os._exit(own.get("{KEY}") != b"hello")
    os._exit(2)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), bytes(store.get("{KEY}")))
"""
        self.assertEqual(run(code), "0 b'hello'\n")

    def test_it_works_with_a_kvconn_of_its_interface_and_not_of_its_version(self):
        self.assertEqual(importlib.metadata.requires("acme-kv"), ["kvconn>=0.1"])
        self.assertEqual(repr(acme.library), "<kvconn.Library acme._native>")
        code = f"""
import kvconn
# As if kvconn were newer.
kvconn._kvconn.__version__ = "9.9.9"
kvconn._libraries.INTERFACES = range({{first}}, {{first}} + 2)
try:
    import acme
except ImportError as e:
    print(e)
else:
    print(acme.library.connect("{URL}").name)
"""
        number = acme._native.INTERFACE
        self.assertEqual(run(code.format(first=number - 1)), "acme.kv/AcmeConnector\n")
        self.assertIn("upgrade the package that has `acme`", run(code.format(first=number + 1)))

    def test_log_lines_reach_pythons_logging(self):
        with self.assertLogs("kvconn", logging.DEBUG) as logged:
            kvconn.connect(URL).close()
            self.assertTrue(wait_until(lambda: any("acme.kv/AcmeConnector" in line for line in logged.output)))


def run(code):
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    if child.returncode != 0:
        raise AssertionError(f"the child ended with {child.returncode}: {child.stdout}{child.stderr}")
    return child.stdout


def wait_until(true, within_s=30):
    """Whether it became true in time."""
    end = time.monotonic() + within_s
    while not true() and time.monotonic() < end:
        time.sleep(0.005)
    return true()


if __name__ == "__main__":
    unittest.main()
