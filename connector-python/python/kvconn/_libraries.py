"""The native libraries of this process: kvconn's own, and those that other wheels carry.

Each has stores, a registry, threads and logging of its own, and knows nothing of the others: here they are chosen from.

- What kvconn's own library opens, it opens. Nobody who installs another wheel is given another store for it.
- Anything else is looked for in every wheel that is installed, imported or not. Two wheels that mean different things by one
  name are an error that names both.
- A library opens the stores that stand behind another one (``tiered://?back=acme://..``) itself. Where kvconn's own lacks
  one of them, a library that has them all is taken.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from kvconn import _kvconn, _modules
from kvconn._errors import KvconnError

#: Where an installed wheel says which package carries its library, in pyproject.toml.
ENTRY_POINTS = "kvconn.libraries"

#: kvconn's own first.
_libraries: list[ModuleType] = [_kvconn]


def carry(library: ModuleType) -> None:
    """Has kvconn use the stores of another wheel's library, too: one that ``connector_python::wheel!`` made.

    For the ``__init__.py`` of that wheel's package. Once is enough, twice is no harm.

    Raises:
        ImportError: the library was made with another version of kvconn than this one.
    """
    if library in _libraries:
        return
    built_with = getattr(library, "__version__", None)
    if not hasattr(library, "_opener_of"):
        raise TypeError(f"{library!r} is no library of kvconn's: give the module that `connector_python::wheel!` names")
    if built_with != _kvconn.__version__:
        raise ImportError(
            f"{library.__name__} was built with connector-python {built_with}, but kvconn {_kvconn.__version__} is installed: "
            f"run `pip install kvconn=={built_with}`, or build the wheel again"
        )
    _libraries.append(library)
    infos = library.connectors()
    _modules.add(infos)
    package = sys.modules.get(library.__name__.rpartition(".")[0])
    if package is not None and any(info.module == package.__name__ for info in infos):
        # It is there, so no finder is asked for it.
        _modules.furnish(package)


def of_url(url: str, options: Mapping[str, Any] | None = None) -> ModuleType:
    """The library to open ``url`` with. If there is none it is one whose error says so."""
    behind = [value for value in (options or {}).values() if isinstance(value, str)]
    own = _kvconn._opener_of(url, behind)
    if own is not None and own[1]:
        return _kvconn
    _discover()
    found = [(library, opener) for library in _libraries if (opener := library._opener_of(url, behind)) is not None]
    # Those that also have what stands behind it.
    found = [(library, opener) for library, opener in found if opener[1]] or found
    if not found:
        return _nearest(url)
    if found[0][0] is not _kvconn and len({name for _, (name, _) in found}) > 1:
        claims = " and ".join(f"{name} (in {library.__name__})" for library, (name, _) in found)
        # Not the URL, which may hold a password.
        raise KvconnError(
            f"{len(found)} wheels open this URL, each in a way of its own: {claims} (uninstall one, or use `connect` of the "
            "other's package)",
            kind="conflict",
            operation="open",
            hint="uninstall one, or use `connect` of the other's package",
        )
    return found[0][0]


def connectors() -> list[Any]:
    """Every connector of every library, sorted by module and name."""
    _discover()
    infos = {}
    for library in _libraries:
        for info in library.connectors():
            infos.setdefault((info.module, info.name, info.package, info.version), info)
    return [infos[key] for key in sorted(infos)]


def connect(url: str, *, pool_bytes: int | None = None, **options: Any) -> Any:
    """Opens the store that ``url`` names."""
    return of_url(url, options).connect(url, pool_bytes=pool_bytes, **options)


def connect_async(url: str, *, pool_bytes: int | None = None, **options: Any) -> Any:
    """``connect``, for asyncio."""
    return of_url(url, options).connect_async(url, pool_bytes=pool_bytes, **options)


class NativeClient(_kvconn.NativeClient):
    __doc__ = _kvconn.NativeClient.__doc__
    __slots__ = ()

    def __new__(cls, url: str, **options: Any) -> Any:
        library = of_url(url, options)
        if library is not _kvconn:
            return library.NativeClient(url, **options)
        return super().__new__(cls, url, **options)


for _public in (carry, connect, connect_async, connectors, NativeClient):
    _public.__module__ = "kvconn"


def module_of(url: str) -> str:
    """The module that an ``external://`` URL names; empty for another one."""
    scheme, _, rest = url.partition("://")
    path = rest.partition("?")[0].partition("/")[2]
    return path.strip("/").replace("/", ".") if scheme == "external" else ""


def _nearest(url: str) -> ModuleType:
    """The library that has the module that the URL names, or a scheme like its: that one's error helps most."""
    from difflib import get_close_matches

    module = module_of(url)
    for library in _libraries:
        if module and any(info.module == module for info in library.connectors()):
            return library
    schemes = {scheme: lib for lib in reversed(_libraries) for info in lib.connectors() for scheme in info.schemes}
    near = get_close_matches(url.partition("://")[0], schemes, 1)
    return schemes[near[0]] if near else _kvconn


@cache
def _discover() -> None:
    """Imports every installed wheel that carries a library. One that cannot be imported harms nobody else."""
    # Not at the top: they cost more than all of kvconn, and few need them.
    import logging
    from importlib.metadata import entry_points

    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        try:
            import_module(point.module)
        except Exception as e:
            logger = logging.getLogger("kvconn")
            logger.warning("the connectors of %s are not there, it cannot be imported: %s", point.module, e)
