"""The documents agree with the wheel."""

import ast
import os
import re
import unittest

import kvconn

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")


def text(*path):
    with open(os.path.join(TOP, *path)) as file:
        return file.read()


class Documents(unittest.TestCase):
    def test_the_oldest_python(self):
        oldest = re.search(r'requires-python = ">=(.*)"', text("connector-python", "pyproject.toml"))[1]
        for path in (["README.md"], ["docs", "LMCACHE.md"], ["connector-python", "README.md"]):
            said = set(re.findall(r"Python (\d\.\d+) or newer", text(*path)))
            self.assertLessEqual(said, {oldest}, path)

    def test_the_modules_of_the_wheel(self):
        said = re.search(r"^\['kvconn\..*\]$", text("docs", "LMCACHE.md"), re.MULTILINE)[0]
        # Other tests may have carried other wheels.
        modules = [c.module for c in kvconn._kvconn.connectors()]
        self.assertEqual(ast.literal_eval(said), modules)


if __name__ == "__main__":
    unittest.main()
