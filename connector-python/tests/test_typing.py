"""The types of the package: mypy, pyright and stubtest read the files of the installed wheel."""

import ast
import asyncio
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import typing
import unittest
from pathlib import Path

import kvconn
import typeguard
from support import TestCase, engine_key

HERE = Path(__file__).parent
TOP = HERE.parent.parent
PACKAGE = Path(kvconn.__file__).parent
#: The names that a snippet of the documents that awaits may use without defining them.
GIVEN = "import asyncio\nimport kvconn\n"
#: The author's wheel of the documents.
ACME = "from kvconn._kvconn import *\n"


def snippets():
    """The Python blocks of the documents, by name."""
    for path in (HERE.parent / "README.md", TOP / "README.md", *sorted((TOP / "docs").rglob("*.md"))):
        for i, block in enumerate(re.findall(r"^ *```python\n(.*?)^ *```", path.read_text(), re.DOTALL | re.MULTILINE)):
            yield f"{path.parent.name}_{path.stem}_{i}.py".replace("-", "_"), textwrap.dedent(block)


def as_module(block):
    """A snippet as a file. One that awaits is the body of a coroutine; any other runs as it is."""
    try:
        ast.parse(block)
        compile(block, "snippet", "exec")
    except SyntaxError:
        return GIVEN + "async def main() -> None:\n" + textwrap.indent(block, "    ")
    return block


class Typing(TestCase):
    @classmethod
    def setUpClass(cls):
        # mypy's cache and the snippets. The cache outlives the test beside the environment, so that a later run is fast.
        cls.cache = Path(sys.prefix) / "mypy-cache"
        made = tempfile.TemporaryDirectory()
        cls.addClassCleanup(made.cleanup)
        cls.snippets = Path(made.name)
        (cls.snippets / "acme").mkdir()
        (cls.snippets / "acme" / "__init__.pyi").touch()
        (cls.snippets / "acme" / "_native.pyi").write_text(ACME)
        for name, block in snippets():
            (cls.snippets / name).write_text(as_module(block))
        cls.files = [*cls.snippets.glob("*.py"), *(HERE / "typing").glob("*.py")]

    def check(self, *command):
        done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, cwd=self.snippets, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def test_mypy(self):
        # `strict` reports each `type: ignore` without an error, so a wrong use that mypy misses fails this test, too.
        mypy = ["mypy", "--config-file", str(HERE / "typing" / "mypy.ini"), "--cache-dir", str(self.cache)]
        self.assertIn("no issues found", self.check(*mypy, "-p", "kvconn"))
        self.assertIn(f"no issues found in {len(self.files)} source files", self.check(*mypy, *map(str, self.files)))

    def test_pyright(self):
        # As in mypy, an ignore without an error is an error.
        config = {
            "include": [os.path.relpath(path, self.snippets) for path in (PACKAGE, *self.files)],
            "enableTypeIgnoreComments": False,
            "reportUnnecessaryTypeIgnoreComment": True,
            # Engines, which the environment of the tests does not have. mypy reports any other import that fails.
            "reportMissingImports": False,
            "reportMissingModuleSource": False,
        }
        (self.snippets / "pyrightconfig.json").write_text(json.dumps(config))
        said = json.loads(self.check("pyright", "--pythonpath", sys.executable, "--outputjson"))
        self.assertEqual(said["generalDiagnostics"], [])
        sources = [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyi")]
        self.assertEqual(said["summary"]["filesAnalyzed"], len(self.files) + len(sources))

    def test_the_native_module_is_as_its_stub(self):
        allowed = ["--mypy-config-file", str(HERE / "typing" / "mypy.ini"), "--allowlist", str(HERE / "typing" / "stubtest.txt"), "--ignore-unused-allowlist"]
        self.check("mypy.stubtest", "kvconn._kvconn", *allowed)

    def test_the_answers_have_the_types_of_their_signatures(self):
        keys, names = [engine_key(i) for i in range(2)], set()
        with kvconn.connect(f"memory://{self.id()}") as store:
            store.put(keys[0], b"1")
            for name, method in inspect.getmembers(kvconn.Store, inspect.isfunction):
                if name[0] == "_" or name == "close":
                    continue
                given = {"key": keys[0], "keys": keys, "data": b"1", "buffer": bytearray(1), "items": [(keys[0], b"1")]}
                given["buffers"] = [bytearray(1), bytearray(1)]
                arguments = [given[p] for p in inspect.signature(method).parameters if p in given]
                for call in (lambda: getattr(store, name)(*arguments), lambda: self.awaited(store.aio, name, arguments)):
                    typeguard.check_type(call(), returned(method), collection_check_strategy=typeguard.CollectionCheckStrategy.ALL_ITEMS)
                names.add(name)
            for name in ("name", "url", "closed", "capabilities", "aio", "blocking"):
                typeguard.check_type(getattr(store, name), returned(getattr(kvconn.Store, name).fget))
        self.assertGreater(len(names), 15)

    @staticmethod
    def awaited(store, name, arguments):
        async def call():
            answer = getattr(store, name)(*arguments)
            if inspect.isawaitable(answer):
                return await answer
            return kvconn.Listing(iter([item async for item in answer]))

        return asyncio.run(call())


def returned(function):
    names = {"AsyncStore": kvconn.AsyncStore, "Self": kvconn.Store}
    return typing.get_type_hints(function, localns=names)["return"]


if __name__ == "__main__":
    unittest.main()
