"""The libraries of several wheels in one process. A real one: test_author_wheel.py."""

import importlib
import os
import sys
from types import ModuleType, SimpleNamespace
from unittest import mock

import kvconn
from kvconn import _libraries, _modules
from support import TestCase, run_child


def library(name, openers, interface=_libraries.INTERFACES[-1], module="gadget.kv"):
    """A library that opens these schemes: `{"gadget": "gadget.kv/Gadget of gadget 1.0"}`."""

    def opener_of(url, behind):
        opens = openers.get(url.partition("://")[0])
        return opens and (opens, all(url.partition("://")[0] in openers for url in behind if "://" in url))

    made = ModuleType(name)
    made.__version__, made.INTERFACE = "0.0.1", interface
    made._opener_of = opener_of
    made.connect = lambda url, **options: SimpleNamespace(name=f"{url} of {name}", batched_put=None, _set_place=id)
    made.NativeClient = lambda url, **options: (name, url)
    info = SimpleNamespace(module=module, name="Gadget", schemes=list(openers), package="gadget", version="1.0", doc="A gadget.")
    made.connectors = lambda: [info]
    return made


class Libraries(TestCase):
    def setUp(self):
        for patch in (
            mock.patch.object(_libraries, "_libraries", [*_libraries._libraries]),
            mock.patch.dict(_modules._connectors),
            mock.patch.dict(sys.modules),
        ):
            patch.start()
            self.addCleanup(patch.stop)

    def test_a_carried_library_opens_its_scheme(self):
        gadget = library("gadget._native", {"gadget": "gadget.kv/Gadget of gadget 1.0"})
        for _ in range(2):
            own = kvconn.carry(gadget)
            self.assertEqual(repr(own), "<kvconn.Library gadget._native>")
            self.assertEqual((type(own.connect("gadget://h")), own.NativeClient), (kvconn.Store, gadget.NativeClient))
        store = kvconn.connect("gadget://h")
        self.assertEqual((type(store), store.name), (kvconn.Store, "gadget://h of gadget._native"))
        self.assertEqual(kvconn.NativeClient("gadget://h"), ("gadget._native", "gadget://h"))
        self.assertEqual([info.module for info in kvconn.connectors()].count("gadget.kv"), 1)

    def test_kvconn_opens_its_own_schemes_itself(self):
        kvconn.carry(library("gadget._native", {"memory": "gadget.kv/Gadget of gadget 1.0"}))
        with kvconn.connect(f"memory://{self.id()}") as store:
            self.assertEqual(store.name, "kvconn.memory/MemoryConnector")

    def test_one_library_opens_a_store_and_the_store_behind_it(self):
        both = {"gadget": "gadget.kv/Gadget of gadget 1.0", "tiered": "kvconn.tiered/TieredConnector of connectors 0.1.0"}
        kvconn.carry(library("gadget._native", both))
        self.assertIs(_libraries.of_url("tiered://?front=memory://a&back=memory://b"), kvconn._kvconn)
        front = {"front": "tiered://", "back": "gadget://h"}
        self.assertEqual(_libraries.of_url("tiered://", front).__name__, "gadget._native")

    def test_two_connectors_of_one_scheme_are_an_error_that_names_both(self):
        kvconn.carry(library("gadget._native", {"gadget": "gadget.kv/Gadget of gadget 1.0"}))
        kvconn.carry(library("gizmo._native", {"gadget": "gizmo.kv/Gizmo of gizmo 2.0"}, module="gizmo.kv"))
        with self.assertRaises(kvconn.KvconnError) as raised:
            kvconn.connect("gadget://user:secret@h")
        self.assertEqual(raised.exception.kind, "conflict")
        for said in ("gadget.kv/Gadget of gadget 1.0 (in gadget._native)", "gizmo.kv/Gizmo of gizmo 2.0 (in gizmo._native)"):
            self.assertIn(said, str(raised.exception))
        self.assertNotIn("secret", str(raised.exception))

    def test_one_connector_in_two_wheels_is_not_a_conflict(self):
        for name in ("gadget._native", "gizmo._native"):
            kvconn.carry(library(name, {"gadget": "gadget.kv/Gadget of gadget 1.0"}))
        self.assertEqual(kvconn.connect("gadget://h").name, "gadget://h of gadget._native")

    def test_a_library_of_another_interface_is_an_error_that_says_which_side_to_upgrade(self):
        newest = _libraries.INTERFACES[-1]
        newer = rf"gadget\._native \(connector-python 0\.0\.1\) has interface {newest + 1}, and kvconn .* works with interface"
        with self.assertRaisesRegex(ImportError, newer + ".*: run `pip install --upgrade kvconn`"):
            kvconn.carry(library("gadget._native", {}, interface=newest + 1))
        with (
            mock.patch.object(_libraries, "INTERFACES", range(newest + 1, newest + 3)),
            self.assertRaisesRegex(ImportError, f"works with interface {newest + 1} to {newest + 2}: upgrade the package that has `gadget`"),
        ):
            kvconn.carry(library("gadget._native", {}))
        with self.assertRaisesRegex(TypeError, "is not a library of kvconn's"):
            kvconn.carry(os)

    def test_every_supported_interface_is_accepted(self):
        for number in _libraries.INTERFACES:
            self.assertIsInstance(kvconn.carry(library(f"gadget{number}._native", {}, interface=number)), kvconn.Library)

    def test_a_misspelt_scheme_is_compared_with_all_libraries(self):
        gadget = library("gadget._native", {"gadget": "gadget.kv/Gadget of gadget 1.0"})
        kvconn.carry(gadget)
        self.assertIs(_libraries.of_url("gadgets://h"), gadget)
        self.assertIs(_libraries.of_url("rediss://h"), kvconn._kvconn)

    def test_a_package_that_is_itself_the_module_of_a_connector_has_its_class(self):
        package = sys.modules["gadget"] = ModuleType("gadget")
        kvconn.carry(library("gadget._native", {}, module="gadget"))
        self.assertIn("Gadget", dir(package))
        with self.assertRaisesRegex(AttributeError, "has no connector 'Gizmo'; it has Gadget"):
            importlib.import_module("gadget").Gizmo

    def test_a_wheel_that_cannot_be_imported_makes_a_warning(self):
        folder = self.directory()
        os.makedirs(f"{folder}/broken-1.0.dist-info")
        with open(f"{folder}/broken-1.0.dist-info/entry_points.txt", "w") as file:
            file.write("[kvconn.libraries]\nbroken = broken_wheel\n")
        with open(f"{folder}/broken_wheel.py", "w") as file:
            file.write("raise ImportError('no such luck')\n")
        code = """
import logging, sys
logging.basicConfig(stream=sys.stdout, format="%(message)s")
sys.path.append(sys.argv[1])
import kvconn
kvconn.connect("memory://a").close()
assert "broken_wheel" not in sys.modules
try:
    kvconn.connect("broken://h")
except kvconn.KvconnError as e:
    print(e)
kvconn.connect("memory://a").close()
"""
        said = run_child(code, folder).splitlines()
        self.assertIn("broken_wheel cannot be imported, so its connectors are missing: no such luck", said[0])
        self.assertIn("no connector serves the scheme `broken://`", said[1])
        self.assertEqual(len(said), 2)
