"""Registered connectors as Python modules, without LMCache."""

import importlib
import subprocess
import sys
import unittest

import kvconn

WITHOUT_LMCACHE = """
import sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "lmcache":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Nothing())
"""


class Modules(unittest.TestCase):
    def test_every_registered_connector_is_a_module_and_a_name_in_it(self):
        for info in kvconn.connectors():
            module = importlib.import_module(info.module)
            self.assertIn(info.name, dir(module))
            self.assertIn(info.summary, module.__doc__)
        self.assertNotIn("lmcache", sys.modules)

    def test_an_unregistered_module_or_name_is_not_found(self):
        with self.assertRaises(ModuleNotFoundError):
            importlib.import_module("kvconn.nothing_of_this_name")
        with self.assertRaisesRegex(AttributeError, "has no connector 'Redis'; it has RedisConnector"):
            importlib.import_module("kvconn.redis").Redis
        with self.assertRaises(ImportError):
            exec("from kvconn.redis import Redis", {})

    def test_a_class_without_lmcache_says_what_to_install(self):
        for program in (
            "from kvconn.redis import RedisConnector",
            "from kvconn.lmcache import KvconnAdapter",
            "from kvconn.lmcache import KvconnL2Adapter",
        ):
            done = subprocess.run(
                [sys.executable, "-c", WITHOUT_LMCACHE + program], capture_output=True, text=True, timeout=60, check=False
            )
            self.assertEqual(done.returncode, 1)
            self.assertIn("run `pip install lmcache`", done.stderr)

    def test_one_finder_serves_all_libraries(self):
        from kvconn import _modules

        before = len(sys.meta_path)
        _modules.add([])
        self.assertEqual(len(sys.meta_path), before)


if __name__ == "__main__":
    unittest.main()
