"""The documents agree with the wheel."""

import ast
import json
import os
import re
import tomllib
import unittest
from pathlib import Path

import kvconn
import yaml
from kvconn import _version
from packaging.requirements import Requirement
from support import TestCase, free_port, run_child

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")


def text(*path):
    with open(os.path.join(TOP, *path)) as file:
        return file.read()


def project():
    """The table `project` of pyproject.toml."""
    return tomllib.loads(text("connector-python", "pyproject.toml"))["project"]


class Documents(TestCase):
    def test_the_oldest_python(self):
        oldest = project()["requires-python"].removeprefix(">=")
        for path in (["README.md"], ["docs", "engines", "lmcache.md"], ["docs", "python.md"], ["connector-python", "README.md"]):
            said = set(re.findall(r"Python (\d\.\d+) or newer", text(*path)))
            self.assertLessEqual(said, {oldest}, path)

    def test_the_modules_of_the_wheel(self):
        said = re.search(r"^\['kvconn\..*\]$", text("docs", "engines", "lmcache.md"), re.MULTILINE)[0]
        # Other tests may have carried other wheels.
        modules = [c.module for c in kvconn._kvconn.connectors()]
        self.assertEqual(ast.literal_eval(said), modules)

    def test_each_block_of_json_or_yaml_is_valid(self):
        found = {json.loads: 0, yaml.safe_load: 0}
        for path in [Path(TOP, "README.md"), *Path(TOP, "docs").rglob("*.md")]:
            for kind, block in re.findall(r"^```(json|ya?ml)\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE):
                read = json.loads if kind == "json" else yaml.safe_load
                with self.subTest(path=path, block=block):
                    read(block)
                found[read] += 1
        self.assertGreater(min(found.values()), 7)

    def test_the_configurations_of_the_engines(self):
        for path in (["README.md"], ["docs", "engines", "README.md"], ["connector-python", "README.md"]):
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

    def test_the_programs_run(self):
        """Those without torch. `tests/interop/run tensors` runs the others."""
        ran = 0
        for path in (["README.md"], ["docs", "start.md"], ["docs", "python.md"], ["connector-python", "README.md"]):
            for program in re.findall(r"^```python\n(.*?)^```", text(*path), re.DOTALL | re.MULTILINE):
                if "import torch" not in program:
                    with self.subTest(path=path, program=program):
                        run_child(program.replace("/tmp/kv", self.directory()).replace("9400", str(free_port())))
                        ran += 1
        self.assertGreaterEqual(ran, 10)

    def test_the_page_of_the_package_index_has_whole_addresses(self):
        links = re.findall(r"\]\(([^)]*)\)", text("connector-python", "README.md"))
        self.assertGreater(len(links), 5)
        self.assertEqual([link for link in links if not link.startswith("https://")], [])


class Metadata(unittest.TestCase):
    def test_each_extra_allows_the_version_that_the_tests_use(self):
        extras = project()["optional-dependencies"]
        self.assertEqual(sorted(extras), ["lmcache", "sglang", "torch", "vllm"])
        versions = dict(re.findall(r"^(\w+)_VERSION=(.*)$", text("tests", "interop", "environment.sh"), re.MULTILINE))
        for name in ("lmcache", "sglang", "vllm"):
            (requirement,) = map(Requirement, extras[name])
            self.assertEqual(requirement.name, name)
            self.assertIn(versions[name.upper()], requirement.specifier)

    def test_the_extras_agree_with_the_documents_and_the_code(self):
        extras = project()["optional-dependencies"]
        first, before = (".".join(map(str, limit)) for limit in (_version.LMCACHE_FROM, _version.LMCACHE_BEFORE))
        self.assertEqual(extras["lmcache"], [f"lmcache>={first},<{before}"])
        for path in (["connector-python", "README.md"], ["docs", "engines", "README.md"]):
            oldest, newest = re.search(r"vLLM\S* .*?0\.(\d+) to 0\.(\d+)", text(*path)).groups()
            self.assertEqual(extras["vllm"], [f"vllm>=0.{oldest},<0.{int(newest) + 1}"], path)


if __name__ == "__main__":
    unittest.main()
