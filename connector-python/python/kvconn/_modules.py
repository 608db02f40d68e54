"""A Python module and class for every connector that is compiled in.

``import kvconn.redis`` works without such a file: kvconn makes modules and classes from the registry when a program asks for
them. The classes are subclasses of LMCache's ``RemoteConnector``, so the first access to a class imports LMCache.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

#: The documentation of each connector of all libraries, by module and name.
_connectors: dict[str, dict[str, str]] = {}


def add(infos: Iterable[Any]) -> None:
    """Makes the modules of these connectors importable. Any other module of the same name comes first."""
    for info in infos:
        _connectors.setdefault(info.module, {}).setdefault(info.name, info.doc)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def furnish(module: ModuleType) -> None:
    """Adds the classes of its connectors to a module."""
    connectors = _connectors.get(module.__name__, {})
    # An author's package may have its own.
    author_getattr, author_dir = module.__dict__.get("__getattr__"), module.__dict__.get("__dir__")

    def make(name: str) -> Any:
        if name not in connectors:
            if author_getattr is not None:
                return author_getattr(name)
            there = ", ".join(sorted(connectors)) or "none"
            raise AttributeError(f"module {module.__name__!r} has no connector {name!r}; it has {there}")
        from kvconn import _connector, _libraries

        library = _libraries.of_url(f"external://localhost:0/{module.__name__}/?connector_name={name}")
        made = _connector.class_of_entry(module.__name__, name, connectors[name], library)
        setattr(module, name, made)
        return made

    module.__getattr__ = make  # type: ignore[method-assign]
    # Not `__all__`, because `from kvconn.redis import *` would then import LMCache.
    module.__dir__ = lambda: sorted({*(author_dir() if author_dir else module.__dict__), *connectors})  # type: ignore[method-assign]


# Without the base classes of `importlib.abc`, whose import takes as long as all of kvconn.
class _Finder:
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package = any(module.startswith(fullname + ".") for module in _connectors)
        if not package and fullname not in _connectors:
            return None
        loader: Any = self
        return ModuleSpec(fullname, loader, origin="kvconn's registry", is_package=package)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        connectors = _connectors.get(module.__name__, {})
        module.__doc__ = "\n\n".join(f"{name}: {doc}" for name, doc in connectors.items())
        furnish(module)
