"""`help` shows every public item, and the examples of the docstrings give the answers that they show."""

import asyncio
import doctest
import importlib
import inspect
import io
import unittest
from pathlib import Path
from typing import get_origin

import kvconn



def public_items():
    """Names and values: the package's, and those of its classes."""
    for name in kvconn.__all__:
        item = getattr(kvconn, name)
        yield f"kvconn.{name}", item
        if inspect.isclass(item):
            for attribute, value in inspect.getmembers(item):
                of_python = not hasattr(value, "__objclass__") or value.__objclass__.__module__.startswith("kvconn")
                if attribute[0] != "_" and of_python and not hasattr(Exception, attribute):
                    yield f"kvconn.{name}.{attribute}", value


class Docstrings(unittest.TestCase):
    def test_every_public_item_has_one(self):
        items = dict(public_items())
        self.assertGreater(len(items), 60)
        # A string and an alias of a type cannot have one.
        able = {name: item for name, item in items.items() if not isinstance(item, str) and get_origin(item) is None}
        bare = [name for name, item in able.items() if not inspect.getdoc(item)]
        self.assertEqual(bare, [])

    def test_public_classes_and_functions_say_where_to_import_them_from(self):
        for name in kvconn.__all__:
            item = getattr(kvconn, name)
            if inspect.isclass(item) or inspect.isfunction(item):
                self.assertEqual((item.__module__, item.__qualname__), ("kvconn", name))

    def test_the_examples(self):
        finder, ran = doctest.DocTestFinder(), 0
        modules = [importlib.import_module(name) for name in modules_with_examples()]
        # Not the module of each item: doctest leaves out an item whose `__module__` is another one's name.
        items = {id(item): (name, item) for name, item in public_items()}
        tests = [test for name, item in items.values() for test in finder.find(item, name, module=False)]
        tests += [test for module in modules for test in finder.find(module, module.__name__)]
        for test in tests:
            test.globs.update(kvconn=kvconn, asyncio=asyncio)
            said = io.StringIO()
            failed, tried = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.write)
            ran += tried
            self.assertEqual(failed, 0, said.getvalue())
        self.assertGreater(ran, 15)


def modules_with_examples():
    package = Path(kvconn.__file__).parent
    for path in package.rglob("*.py"):
        if ">>> " in path.read_text():
            yield ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")


if __name__ == "__main__":
    unittest.main()
