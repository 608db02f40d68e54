"""The native libraries of this process: kvconn's own, and those of other wheels.

Each library has its own stores, registry, threads and logging, and does not know the others. This module chooses one for a URL:

- kvconn's own library, if it can open the URL. So another wheel never replaces a store of kvconn's.
- Otherwise the library of any installed wheel, imported or not. Two wheels with different connectors of one name are an error that
  names both.
- A library opens the stores behind a store (``tiered://?back=acme://..``) itself. If kvconn's own library lacks one of them, a
  library that has all of them opens the URL.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from kvconn import _kvconn, _modules
from kvconn._errors import InvalidTypeError, of_open
from kvconn._library import Library

#: The entry point in pyproject.toml that names the package with a wheel's library.
ENTRY_POINTS = "kvconn.libraries"

#: The interfaces of libraries that this code can call. kvconn's own library has the last one.
INTERFACES = range(1, 2)

#: kvconn's own library comes first.
_libraries: list[ModuleType] = [_kvconn]


def carry(library: ModuleType) -> Library:
    """Adds the stores of another wheel's library, which ``connector_python::wheel!`` made, to kvconn.

    For the ``__init__.py`` of that wheel's package. A second call adds nothing.

    Returns:
        The stores of that wheel only.

    Raises:
        ImportError: kvconn cannot call the library, because one of the two is too old. The message says which.
    """
    if library in _libraries:
        return Library(library)
    _check_interface(library)
    _libraries.append(library)
    infos = library.connectors()
    _modules.add(infos)
    package = sys.modules.get(library.__name__.rpartition(".")[0])
    if package is not None and any(info.module == package.__name__ for info in infos):
        # Python asks no finder for a package that is imported already.
        _modules.furnish(package)
    return Library(library)


def _check_interface(library: ModuleType) -> None:
    number = getattr(library, "INTERFACE", None)
    if number is None:
        raise InvalidTypeError(
            f"{library!r} is not a library of kvconn's; pass the module that `connector_python::wheel!` names", "invalid_input"
        )
    if number in INTERFACES:
        return
    known = f"{INTERFACES[0]} to {INTERFACES[-1]}" if len(INTERFACES) > 1 else f"{INTERFACES[0]}"
    if number > INTERFACES[-1]:
        hint = "run `pip install --upgrade kvconn`"
    else:
        package = library.__name__.partition(".")[0]
        hint = f"upgrade the package that has `{package}`, or build it again with connector-python {_kvconn.__version__}"
    raise ImportError(
        f"{library.__name__} (connector-python {library.__version__}) has interface {number}, and kvconn {_kvconn.__version__} "
        f"works with interface {known}: {hint}"
    )


def loaded() -> list[ModuleType]:
    """The libraries of this process."""
    return [*_libraries]


def of_url(url: str, options: Mapping[str, Any] | None = None) -> ModuleType:
    """The library that opens ``url``, or one whose error says why none does."""
    if not isinstance(url, str):
        how = f"; for files write {'fs://' + os.path.abspath(os.fsdecode(url))!r}" if isinstance(url, os.PathLike) else ""
        raise InvalidTypeError(f"a URL is a str, not a {type(url).__name__}{how}", "invalid_url")
    behind = [value for value in (options or {}).values() if isinstance(value, str)]
    own = _kvconn._opener_of(url, behind)
    if own is not None and own[1]:
        return _kvconn
    _discover()
    found = [(library, opener) for library in _libraries if (opener := library._opener_of(url, behind)) is not None]
    # Libraries that have all stores behind this one come first.
    found = [(library, opener) for library, opener in found if opener[1]] or found
    if not found:
        return _nearest(url)
    if found[0][0] is not _kvconn and len({name for _, (name, _) in found}) > 1:
        claims = " and ".join(f"{name} (in {library.__name__})" for library, (name, _) in found)
        # Without the URL, which may have a password in it.
        message = f"{len(found)} wheels have different connectors for this URL: {claims}"
        hint = "uninstall one, or use `connect` of the `Library` that `kvconn.carry` returned to one of them"
        raise of_open("conflict", message, hint)
    return found[0][0]


def connectors() -> list[_kvconn.ConnectorInfo]:
    """Every connector of every library, sorted by module and name."""
    _discover()
    infos: dict[tuple[str, ...], _kvconn.ConnectorInfo] = {}
    for library in _libraries:
        for info in library.connectors():
            infos.setdefault((info.module, info.name, info.package, info.version), info)
    return [infos[key] for key in sorted(infos)]


class NativeClient(_kvconn.NativeClient):
    __doc__ = _kvconn.NativeClient.__doc__
    __slots__ = ()

    def __new__(cls, url: str, **options: Any) -> Any:
        library = of_url(url, options)
        if "lmcache" in sys.modules:
            # Imported late, because that module imports this one.
            from kvconn._prometheus import export_in_engine

            export_in_engine()
        if library is not _kvconn:
            return library.NativeClient(url, **options)
        return super().__new__(cls, url, **options)


def module_of(url: str) -> str:
    """The module that an ``external://`` URL names; empty for another one."""
    scheme, _, rest = url.partition("://")
    path = rest.partition("?")[0].partition("/")[2]
    return path.strip("/").replace("/", ".") if scheme == "external" else ""


def _nearest(url: str) -> ModuleType:
    """The library with the URL's module, or with the most similar scheme. Its error helps most."""
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
    """Imports every installed wheel that has a library. A wheel that cannot be imported makes a warning."""
    # Not at the top: these imports take longer than all of kvconn, and few programs need them.
    import logging
    from importlib.metadata import entry_points

    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        try:
            import_module(point.module)
        except Exception as e:
            logger = logging.getLogger("kvconn")
            logger.warning("%s cannot be imported, so its connectors are missing: %s", point.module, e)
