"""Every connector that is compiled in, as the Python module and class that its registration names.

``import kvconn.redis`` works although there is no such file: the modules and the classes in them are made from the
registry when they are asked for. The classes are subclasses of LMCache's ``RemoteConnector``, so LMCache is imported by the
first one that is looked at, not before.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

#: By module, then by name: what the connector's author says of it. Of all libraries; which one opens it is asked later.
_connectors: dict[str, dict[str, str]] = {}


def add(infos: Iterable[Any]) -> None:
    """Has ``import`` find the modules of these connectors, after everything else that it finds."""
    for info in infos:
        _connectors.setdefault(info.module, {}).setdefault(info.name, info.doc)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def furnish(module: ModuleType) -> None:
    """Gives the module the classes of its connectors."""
    connectors = _connectors.get(module.__name__, {})
    # A package of its author's may have them for itself.
    make_theirs, list_theirs = module.__dict__.get("__getattr__"), module.__dict__.get("__dir__")

    def make(name: str) -> Any:
        if name not in connectors:
            if make_theirs is not None:
                return make_theirs(name)
            there = ", ".join(sorted(connectors)) or "none"
            raise AttributeError(f"module {module.__name__!r} has no connector {name!r}; it has {there}")
        from kvconn import _connector, _libraries

        library = _libraries.of_url(f"external://localhost:0/{module.__name__}/?connector_name={name}")
        made = _connector.class_of_entry(module.__name__, name, connectors[name], library)
        setattr(module, name, made)
        return made

    module.__getattr__ = make  # type: ignore[method-assign]
    # Not `__all__`: `from kvconn.redis import *` would import LMCache.
    module.__dir__ = lambda: sorted({*(list_theirs() if list_theirs else module.__dict__), *connectors})  # type: ignore[method-assign]


# Finder and loader by their methods: `importlib.abc` takes as long to import as all of kvconn.
class _Finder:
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package = any(module.startswith(fullname + ".") for module in _connectors)
        if not package and fullname not in _connectors:
            return None
        return ModuleSpec(fullname, self, origin="kvconn's registry", is_package=package)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        connectors = _connectors.get(module.__name__, {})
        module.__doc__ = "\n\n".join(f"{name}: {doc}" for name, doc in connectors.items())
        furnish(module)
