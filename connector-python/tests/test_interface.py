"""The interface between kvconn's Python code and a library, which other wheels bring: recorded in interface.txt.

    python3 test_interface.py --record                  after a new INTERFACE
    python3 test_interface.py --record --same-number    for a number that no release has
"""

import ast
import importlib
import inspect
import re
import sys
import unittest
from pathlib import Path

from kvconn import _kvconn, _libraries

HERE = Path(__file__).resolve().parent
RECORD = HERE / "interface.txt"
STUB = HERE.parent / "python" / "kvconn" / "_kvconn.pyi"
RUST = HERE.parent / "src"
HOW = """the interface is not the recorded one. A wheel and a kvconn from before and after the change may not work together.
If a release has the number, raise INTERFACE in connector-python/src/lib.rs and INTERFACES in python/kvconn/_libraries.py.
Then run `python3 connector-python/tests/test_interface.py --record` (`--same-number` if no release has the number)."""


def signature(item):
    try:
        return str(inspect.signature(item))
    except (TypeError, ValueError):
        return ""


def members(prefix, item):
    """A line for a function or a value, and one for each member of a class."""
    if not inspect.isclass(item):
        return [f"{prefix}{signature(item)}" if callable(item) else prefix]
    lines = [f"{prefix}{signature(item)}"]
    for name, member in vars(item).items():
        if not name.startswith("__") or name in ("__init__", "__new__"):
            member = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
            lines.append(f"{prefix}.{name}{signature(member)}")
    return lines


def native():
    """The names of the native module, with the signatures that the interpreter shows."""
    names = [name for name in vars(_kvconn) if not name.startswith("__") and name != "INTERFACE"]
    return [line for name in names for line in members(f"native {name}", getattr(_kvconn, name))]


def types():
    """The signatures of the same names in the stub, which have types."""
    lines = []

    def read(prefix, body):
        for item in body:
            if isinstance(item, ast.ClassDef):
                read(f"{prefix}{item.name}.", item.body)
            elif isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)):
                answer = f" -> {ast.unparse(item.returns)}" if item.returns else ""
                lines.append(f"type {prefix}{item.name}({ast.unparse(item.args)}){answer}")
            elif isinstance(item, (ast.Assign, ast.AnnAssign)):
                lines.append(f"type {prefix}{ast.unparse(item)}")

    read("", ast.parse(STUB.read_text()).body)
    return lines


def called():
    """The Python code that the native code imports: the functions and classes that its sources name."""
    literals = {text for file in RUST.rglob("*.rs") for text in re.findall(r'"([\w.]+)"', file.read_text())}
    lines = []
    for name in sorted(text for text in literals if re.fullmatch(r"kvconn\._\w+", text) and text != "kvconn._kvconn"):
        module = importlib.import_module(name)
        own = {key: value for key, value in vars(module).items() if key in literals and callable(value)}
        lines += [f"python {name}.{key}{signature(value)}" for key, value in own.items()]
    return lines


def interface():
    return [f"INTERFACE {_kvconn.INTERFACE}", *sorted({*native(), *types(), *called()})]


class Interface(unittest.TestCase):
    maxDiff = None

    def test_it_has_the_recorded_number_and_names(self):
        self.assertEqual(RECORD.read_text().splitlines(), interface(), HOW)

    def test_the_newest_supported_number_is_that_of_kvconns_own_library(self):
        self.assertEqual(_libraries.INTERFACES[-1], _kvconn.INTERFACE)

    def test_the_record_has_the_names_that_matter(self):
        lines = interface()
        for start in (
            "native AnyStore.put(",
            "native connect(url, *, pool_bytes",
            "native EngineClient.submit_store(",
            "type _opener_of(url: str, behind: Sequence[str]) -> tuple[str, bool] | None",
            "python kvconn._errors.of_kind(",
            "python kvconn._exit.close_stores(",
            "python kvconn._listing.ListEntry",
        ):
            self.assertTrue(any(line.startswith(start) for line in lines), start)


def record():
    now = interface()
    old = RECORD.read_text().splitlines() if RECORD.exists() else []
    if old and old != now and old[0] == now[0] and "--same-number" not in sys.argv:
        sys.exit(f"the interface changed and its number did not: {HOW}")
    RECORD.write_text("\n".join(now) + "\n")


if __name__ == "__main__":
    if "--record" in sys.argv:
        record()
    else:
        unittest.main()
