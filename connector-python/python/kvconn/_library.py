"""The stores of one library. `_libraries` has all of them."""

from __future__ import annotations

import sys
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from kvconn._async_store import AsyncStore, Opening
from kvconn._store import Store
from kvconn._types import KeyKind, Option

if TYPE_CHECKING:
    from kvconn import _kvconn


class Library:
    """The stores of one wheel, without those of kvconn and of other wheels. ``kvconn.carry`` makes it.

    ``kvconn.connect`` opens the stores of all wheels. Use this one if two wheels have a store of one name.
    """

    __slots__ = ("_native",)

    def __init__(self, native: ModuleType) -> None:
        self._native = native

    def connect(
        self, url: str, *, pool_bytes: int | None = None, key_kind: KeyKind | None = None, **options: Option
    ) -> Store:
        """Opens the store that ``url`` names, as ``kvconn.connect`` does."""
        native = self._native.connect(url, pool_bytes=pool_bytes, key_kind=key_kind, **options)
        native._set_place(place_of_caller())
        return Store(native, partial(self.connect, url, pool_bytes=pool_bytes, key_kind=key_kind, **options))

    def connect_async(
        self, url: str, *, pool_bytes: int | None = None, key_kind: KeyKind | None = None, **options: Option
    ) -> Opening:
        """As ``connect``, for asyncio. Await it, or use it in ``async with``."""
        return Opening(open_async(self, url, pool_bytes, key_kind, options, place_of_caller()))

    @property
    def NativeClient(self) -> type[_kvconn.NativeClient]:
        """The class ``kvconn.NativeClient`` of this wheel."""
        client: type[_kvconn.NativeClient] = self._native.NativeClient
        return client

    def __reduce__(self) -> tuple[object, tuple[str]]:
        # A store's copy in another process imports the wheel's package, which gives the library to kvconn.
        return _library_of, (self._native.__name__,)

    def __repr__(self) -> str:
        return f"<kvconn.Library {self._native.__name__}>"


def _library_of(name: str) -> Library:
    return Library(import_module(name))


async def open_async(
    library: Library,
    url: str,
    pool_bytes: int | None,
    key_kind: KeyKind | None,
    options: dict[str, Option],
    place: str,
) -> AsyncStore:
    """Opens the store on the running event loop. A cancelled call leaves no open store."""
    opening = library._native.connect_async(url, pool_bytes=pool_bytes, key_kind=key_kind, **options)
    try:
        native = await opening
        native._set_place(place)
        return AsyncStore(native, partial(library.connect, url, pool_bytes=pool_bytes, key_kind=key_kind, **options))
    except BaseException:
        # The caller was cancelled after the store was opened, and gets no store to close.
        if opening.done() and not opening.cancelled() and opening.exception() is None:
            opening.result().close()
        raise


# Python names a coroutine that was never awaited.
open_async.__qualname__ = "Library.connect_async"


def place_of_caller() -> str:
    """File and line of the code that calls kvconn, for the warning of a store that is never closed."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "kvconn":
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
