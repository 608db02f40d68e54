"""Every connector that is compiled in, as the Python module and class that its registration names.

``import kvconn.redis`` works although there is no such file: the modules and the classes in them are made from the
registry when they are asked for. The classes are subclasses of LMCache's ``RemoteConnector``, so LMCache is imported by the
first one that is looked at, not before.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cached_property
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from kvconn import _kvconn


def install() -> None:
    """Has ``import`` find the registered modules, after everything else that it finds."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


class _Finder(MetaPathFinder, Loader):
    @cached_property
    def modules(self) -> dict[str, dict[str, str]]:
        """By module, then by name: what the connector's author says of it."""
        modules: dict[str, dict[str, str]] = {}
        for info in _kvconn.connectors():
            modules.setdefault(info.module, {})[info.name] = info.doc
        return modules

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package = any(module.startswith(fullname + ".") for module in self.modules)
        if not package and fullname not in self.modules:
            return None
        return ModuleSpec(fullname, self, origin="kvconn's registry", is_package=package)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        connectors = self.modules.get(module.__name__, {})
        module.__doc__ = "\n\n".join(f"{name}: {doc}" for name, doc in connectors.items())

        def make(name: str) -> type:
            if name not in connectors:
                there = ", ".join(sorted(connectors)) or "none"
                raise AttributeError(f"module {module.__name__!r} has no connector {name!r}; it has {there}")
            from kvconn import _connector

            made = _connector.class_of_entry(module.__name__, name, connectors[name])
            setattr(module, name, made)
            return made

        module.__getattr__ = make  # type: ignore[method-assign]
        # Not `__all__`: `from kvconn.redis import *` would import LMCache.
        module.__dir__ = lambda: sorted({*module.__dict__, *connectors})  # type: ignore[method-assign]
