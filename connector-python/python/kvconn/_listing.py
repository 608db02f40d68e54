"""The listings of a store."""

from __future__ import annotations

from typing import Any, NamedTuple


class ListEntry(NamedTuple):
    """One chunk of a listing: its key, its size and the time of its last put."""

    key: str
    """The text of the key."""
    size: int | None
    """The bytes that the store keeps for the chunk, with its header if the store keeps one; None if the store cannot say."""
    modified: float | None
    """The time of the last put, on the store's clock, in seconds since 1970; None if the store cannot say."""


class AsyncKeys:
    """An async iterator over keys or entries. The listing ends with it. A call of `__anext__` that is cancelled loses no key."""

    def __init__(self, keys: Any) -> None:
        self._keys = keys

    def __aiter__(self) -> AsyncKeys:
        return self

    async def __anext__(self) -> Any:
        # Nothing may be awaited between `_take` and the return: a call that is cancelled there would lose the key.
        while (key := self._keys._take()) is None:
            await self._keys._more()
        return key
