"""The keys of a store, on asyncio."""

from __future__ import annotations

from typing import Any


class AsyncKeys:
    """An async iterator over keys. The listing ends with it. A call of `__anext__` that is cancelled loses no key."""

    def __init__(self, keys: Any) -> None:
        self._keys = keys

    def __aiter__(self) -> AsyncKeys:
        return self

    async def __anext__(self) -> str:
        # Nothing may be awaited between `_take` and the return: a call that is cancelled there would lose the key.
        while (key := self._keys._take()) is None:
            await self._keys._more()
        return key
