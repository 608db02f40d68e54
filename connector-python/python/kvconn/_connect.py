"""`kvconn.connect` and `kvconn.connect_async`: from a URL to an open store."""

from __future__ import annotations

from kvconn import _libraries
from kvconn._async_store import AsyncStore, Opening
from kvconn._library import Library, open_async, place_of_caller
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
    library = Library(_libraries.of_url(url, options))
    return library.connect(url, pool_bytes=pool_bytes, key_kind=key_kind, **options)


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
    return Opening(_open(url, pool_bytes, key_kind, options, place_of_caller()))


async def _open(
    url: str, pool_bytes: int | None, key_kind: KeyKind | None, options: dict[str, Option], place: str
) -> AsyncStore:
    library = Library(_libraries.of_url(url, options))
    return await open_async(library, url, pool_bytes, key_kind, options, place)


# Python names a coroutine that was never awaited.
_open.__qualname__ = "connect_async"
