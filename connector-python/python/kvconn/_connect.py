"""`kvconn.connect` and `kvconn.connect_async`: from a URL to an open store."""

from __future__ import annotations

import sys
from functools import partial

from kvconn import _libraries
from kvconn._async_store import AsyncStore, Opening
from kvconn._store import Store
from kvconn._types import KeyKind, Option


def connect(
    url: str, *, pool_bytes: int | None = None, key_kind: KeyKind | None = None, **options: Option
) -> Store:
    """Opens the store that ``url`` names.

    >>> with kvconn.connect("memory://example", timeout_ms=500) as store:
    ...     store.name
    'kvconn.memory/MemoryConnector'

    Args:
        url: as LMCache's ``remote_url``: ``redis://host:6379``, ``fs:///path``, ``external://..``
        pool_bytes: the most bytes that chunks from ``get`` hold at once; 5 GiB by default.
        key_kind: how the store reads the text of a key: ``"engine"`` (LMCache inside vLLM) or ``"object"`` (LMCache's server).
            Without it, a text whose second field is eight hex digits is an object key.
        options: the store's options, as in the URL's query. ``connectors()`` lists them.

    Raises:
        KvconnError: the store cannot be opened. The message says why, and how to write the URL.
    """
    library = _libraries.of_url(url, options)
    native = library.connect(url, pool_bytes=pool_bytes, key_kind=key_kind, **options)
    native._set_place(_place_of_caller())
    return Store(native, partial(connect, url, pool_bytes=pool_bytes, key_kind=key_kind, **options))


def connect_async(
    url: str, *, pool_bytes: int | None = None, key_kind: KeyKind | None = None, **options: Option
) -> Opening:
    """As ``connect``, for asyncio: await it, or open and close the store by ``async with``.

    >>> async def main():
    ...     async with kvconn.connect_async("memory://example") as store:
    ...         return await store.exists("model@1@0@1f2e3d@bfloat16")
    >>> asyncio.run(main())
    False
    """
    return Opening(_open(url, pool_bytes, key_kind, options, _place_of_caller()))


async def _open(
    url: str, pool_bytes: int | None, key_kind: KeyKind | None, options: dict[str, Option], place: str
) -> AsyncStore:
    library = _libraries.of_url(url, options)
    opening = library.connect_async(url, pool_bytes=pool_bytes, key_kind=key_kind, **options)
    try:
        native = await opening
        native._set_place(place)
        return AsyncStore(native, partial(connect, url, pool_bytes=pool_bytes, key_kind=key_kind, **options))
    except BaseException:
        # The caller was cancelled after the store was opened, and gets no store to close.
        if opening.done() and not opening.cancelled() and opening.exception() is None:
            opening.result().close()
        raise


# Python names a coroutine that was never awaited.
_open.__qualname__ = "connect_async"


def _place_of_caller() -> str:
    """File and line of the code that calls kvconn, for the warning of a store that is never closed."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "kvconn":
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
