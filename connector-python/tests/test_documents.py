"""The documents agree with the wheel."""

import ast
import json
import os
import re
import unittest
from pathlib import Path

import kvconn

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")


def text(*path):
    with open(os.path.join(TOP, *path)) as file:
        return file.read()


class Documents(unittest.TestCase):
    def test_the_oldest_python(self):
        oldest = re.search(r'requires-python = ">=(.*)"', text("connector-python", "pyproject.toml"))[1]
        for path in (["README.md"], ["docs", "engines", "lmcache.md"], ["connector-python", "README.md"]):
            said = set(re.findall(r"Python (\d\.\d+) or newer", text(*path)))
            self.assertLessEqual(said, {oldest}, path)

    def test_the_modules_of_the_wheel(self):
        said = re.search(r"^\['kvconn\..*\]$", text("docs", "engines", "lmcache.md"), re.MULTILINE)[0]
        # Other tests may have carried other wheels.
        modules = [c.module for c in kvconn._kvconn.connectors()]
        self.assertEqual(ast.literal_eval(said), modules)

    def test_the_configurations_of_the_engines(self):
        for path in (["README.md"], ["docs", "engines", "README.md"]):
            console = "\n".join(re.findall(r"```console\n(.*?)```", text(*path), re.DOTALL))
            found = [json.loads(quoted) for quoted in re.findall(r" '(\{.*?\})'$", console, re.DOTALL | re.MULTILINE)]
            tiers = [tier for one in found for tier in one.get("kv_connector_extra_config", {}).get("secondary_tiers", [])]
            self.assertEqual([tier["type"] for tier in tiers], ["kvconn"], path)
            classes = [(one["module_path"], one["class_name"]) for one in found if "module_path" in one]
            self.assertEqual(classes, [("kvconn.sglang", "KvconnHiCache"), ("kvconn.lmcache", "KvconnL2Adapter")], path)
            for module, name in [*classes, ("kvconn.vllm", "KvconnTier")]:
                package = Path(kvconn.__file__).parent.joinpath(*module.split(".")[1:])
                files = [package.with_suffix(".py"), *package.glob("*.py")]
                source = "".join(file.read_text() for file in files if file.exists())
                self.assertIn(f"class {name}(", source)


if __name__ == "__main__":
    unittest.main()
