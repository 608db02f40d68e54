"""The listings of a store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

T_co = TypeVar("T_co", covariant=True)


class ListEntry(NamedTuple):
    """One chunk of a listing: its key, its size and the time of its last put."""

    key: str
    """The text of the key."""
    size: int | None
    """The bytes that the store keeps for the chunk, with its header if the store keeps one; None if the store cannot say."""
    modified: float | None
    """The time of the last put, on the store's clock, in seconds since 1970; None if the store cannot say."""


class Listing(Iterator[T_co]):
    """The keys or entries of a store, one after another. The store lists ahead while you read.

    The listing ends when you drop it, when you `close` it, and at the end of a ``with`` block.
    """

    __slots__ = ("_keys",)

    def __init__(self, keys: Any) -> None:
        self._keys = keys

    def __next__(self) -> T_co:
        entry: T_co = next(self._keys)
        return entry

    def close(self) -> None:
        """Ends the listing. Then it gives no more keys. May be called twice."""
        self._keys.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AsyncListing(AsyncIterator[T_co]):
    """A `Listing` for ``async for`` on asyncio. A call of ``anext`` that is cancelled loses no key."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Any) -> None:
        self._keys = keys

    async def __anext__(self) -> T_co:
        # Nothing may be awaited between `_take` and the return: a call that is cancelled there would lose the key.
        while (entry := self._keys._take()) is None:
            await self._keys._more()
        taken: T_co = entry
        return taken

    async def aclose(self) -> None:
        """Ends the listing. Then it gives no more keys. May be called twice."""
        self._keys.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
