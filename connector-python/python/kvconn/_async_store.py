"""`kvconn.AsyncStore`: a store for asyncio."""

# The native methods have no types of their own, so that each signature stands once: here.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

# The stores have a method `list`, so the type needs another name.
from builtins import list as List
from collections.abc import Coroutine, Generator, Iterable, Sequence
from types import TracebackType
from typing import Any, Literal, NoReturn, Self, overload

from kvconn._errors import InvalidTypeError, KvconnError
from kvconn._kvconn import Chunk
from kvconn._listing import AsyncListing, ListEntry
from kvconn._store import StoreBase
from kvconn._types import Buffer, DType, Items, K, ServerInfo, Tensor


class AsyncStore(StoreBase):
    """A store whose methods are awaited on asyncio. ``kvconn.connect_async`` opens one.

    The methods do the same as those of `Store`. No call takes a thread of its own. A call may be cancelled: a put then
    leaves the old chunk, the new one, or none. A cancelled call may hold its buffer a little longer.

    >>> async def main():
    ...     async with kvconn.connect_async("memory://example") as store:
    ...         await store.put("model@1@0@1f2e3d@bfloat16", b"hello")
    ...         return bytes(await store.get("model@1@0@1f2e3d@bfloat16"))
    >>> asyncio.run(main())
    b'hello'
    """

    __slots__ = ()

    async def put(
        self,
        key: str,
        data: Buffer | Tensor,
        *,
        shape: Sequence[int] | None = None,
        dtype: str | DType | type[Any] | None = None,
        format: str | None = None,
        timeout: float | None = None,
    ) -> None:
        """Stores bytes, an array or a tensor under the key, in place of an older chunk. See `Store.put`."""
        return await self._native.put(key, data, shape=shape, dtype=dtype, format=format, timeout=timeout)

    async def get(self, key: str, *, timeout: float | None = None) -> Chunk | None:
        """The key's chunk, or None if it is not stored. See `Store.get`."""
        return await self._native.get(key, timeout)

    async def get_into(self, key: str, buffer: Buffer | Tensor, *, timeout: float | None = None) -> int | None:
        """Reads the chunk into the writable buffer or tensor and gives its length in bytes. See `Store.get_into`."""
        return await self._native.get_into(key, buffer, timeout)

    async def exists(self, key: str, *, timeout: float | None = None) -> bool:
        """Whether the key's chunk is stored."""
        return await self._native.exists(key, timeout)

    async def remove(self, key: str, *, timeout: float | None = None) -> bool:
        """Removes the chunk; True if it was stored."""
        return await self._native.remove(key, timeout)

    def list(self, prefix: str = "", *, timeout: float | None = None) -> AsyncListing[str]:
        """All keys whose text starts with ``prefix``, in no order, for ``async for``."""
        return AsyncListing(self._native.list(prefix, timeout))

    def list_entries(self, prefix: str = "", *, timeout: float | None = None) -> AsyncListing[ListEntry]:
        """As ``list``, with the size of each chunk and the time of its last put, if the store has them."""
        return AsyncListing(self._native.list_entries(prefix, timeout))

    async def ping(self, *, timeout: float | None = None) -> None:
        """Checks that the store answers."""
        return await self._native.ping(timeout)

    async def servers(self, *, timeout: float | None = None) -> List[ServerInfo]:
        """The servers of the store, and their facts. Empty for a store without servers."""
        return await self._native.servers(timeout)

    async def close(self) -> None:
        """Waits for calls in flight, then closes connections. Later calls raise ``ClosedError``. May be called twice."""
        return await self._native.close()

    @overload
    async def batched_put(
        self,
        items: Items[K],
        *,
        shape: Sequence[int] | None = None,
        dtype: str | DType | type[Any] | None = None,
        format: str | None = None,
        return_exceptions: Literal[False] = False,
        timeout: float | None = None,
    ) -> List[None]: ...
    @overload
    async def batched_put(
        self,
        items: Items[K],
        *,
        shape: Sequence[int] | None = None,
        dtype: str | DType | type[Any] | None = None,
        format: str | None = None,
        return_exceptions: bool,
        timeout: float | None = None,
    ) -> List[KvconnError | None]: ...
    async def batched_put(
        self,
        items: Items[K],
        *,
        shape: Sequence[int] | None = None,
        dtype: str | DType | type[Any] | None = None,
        format: str | None = None,
        return_exceptions: bool = False,
        timeout: float | None = None,
    ) -> List[None] | List[KvconnError | None]:
        """Stores each pair of a key and bytes, an array or a tensor. See `Store.batched_put`."""
        return await self._native.batched_put(
            items, shape=shape, dtype=dtype, format=format, return_exceptions=return_exceptions, timeout=timeout
        )

    @overload
    async def batched_get(
        self, keys: Iterable[str], *, return_exceptions: Literal[False] = False, timeout: float | None = None
    ) -> List[Chunk | None]: ...
    @overload
    async def batched_get(
        self, keys: Iterable[str], *, return_exceptions: bool, timeout: float | None = None
    ) -> List[Chunk | KvconnError | None]: ...
    async def batched_get(
        self, keys: Iterable[str], *, return_exceptions: bool = False, timeout: float | None = None
    ) -> List[Chunk | None] | List[Chunk | KvconnError | None]:
        """``get`` of each key, in the order of the keys. See `Store.batched_get`."""
        return await self._native.batched_get(keys, return_exceptions=return_exceptions, timeout=timeout)

    @overload
    async def batched_get_into(
        self, keys: Iterable[str], buffers: Iterable[Buffer | Tensor], *, return_exceptions: Literal[False] = False, timeout: float | None = None
    ) -> List[int | None]: ...
    @overload
    async def batched_get_into(
        self, keys: Iterable[str], buffers: Iterable[Buffer | Tensor], *, return_exceptions: bool, timeout: float | None = None
    ) -> List[int | KvconnError | None]: ...
    async def batched_get_into(
        self, keys: Iterable[str], buffers: Iterable[Buffer | Tensor], *, return_exceptions: bool = False, timeout: float | None = None
    ) -> List[int | None] | List[int | KvconnError | None]:
        """``get_into`` of each key and its buffer, in the order of the keys. See `Store.batched_get_into`."""
        return await self._native.batched_get_into(keys, buffers, return_exceptions=return_exceptions, timeout=timeout)

    @overload
    async def batched_exists(
        self, keys: Iterable[str], *, return_exceptions: Literal[False] = False, timeout: float | None = None
    ) -> List[bool]: ...
    @overload
    async def batched_exists(self, keys: Iterable[str], *, return_exceptions: bool, timeout: float | None = None) -> List[bool | KvconnError]: ...
    async def batched_exists(
        self, keys: Iterable[str], *, return_exceptions: bool = False, timeout: float | None = None
    ) -> List[bool] | List[bool | KvconnError]:
        """``exists`` of each key, in the order of the keys. See `Store.batched_exists`."""
        return await self._native.batched_exists(keys, return_exceptions=return_exceptions, timeout=timeout)

    async def batched_contains(self, keys: Iterable[str], *, timeout: float | None = None) -> int:
        """The length of the leading run of keys that exist."""
        return await self._native.batched_contains(keys, timeout)

    async def get_prefix(self, keys: Iterable[str], *, timeout: float | None = None) -> List[Chunk]:
        """The chunks of the leading run of keys. See `Store.get_prefix`."""
        return await self._native.get_prefix(keys, timeout)

    @overload
    async def batched_remove(
        self, keys: Iterable[str], *, return_exceptions: Literal[False] = False, timeout: float | None = None
    ) -> List[bool]: ...
    @overload
    async def batched_remove(self, keys: Iterable[str], *, return_exceptions: bool, timeout: float | None = None) -> List[bool | KvconnError]: ...
    async def batched_remove(
        self, keys: Iterable[str], *, return_exceptions: bool = False, timeout: float | None = None
    ) -> List[bool] | List[bool | KvconnError]:
        """``remove`` of each key, in the order of the keys. See `Store.batched_remove`."""
        return await self._native.batched_remove(keys, return_exceptions=return_exceptions, timeout=timeout)

    def __contains__(self, key: object) -> NoReturn:
        raise InvalidTypeError("`in` cannot wait for an AsyncStore; write `await store.exists(key)`", "invalid_input")

    def __reduce__(self) -> NoReturn:
        # Only a coroutine can open such a store.
        raise TypeError("an AsyncStore cannot be copied or pickled; copy `store.blocking`, and take `.aio` of the copy")

    async def __aenter__(self) -> Self:
        self._check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


class Opening(Coroutine[Any, Any, AsyncStore]):
    """The coroutine of ``kvconn.connect_async``, which ``async with`` takes, too: it then closes the store at its end."""

    __slots__ = ("_coroutine", "_store")

    def __init__(self, coroutine: Coroutine[Any, Any, AsyncStore]) -> None:
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, AsyncStore]:
        return self._coroutine.__await__()

    def send(self, value: Any, /) -> Any:
        return self._coroutine.send(value)

    def throw(self, *error: Any) -> Any:
        return self._coroutine.throw(*error)

    def close(self) -> None:
        self._coroutine.close()

    async def __aenter__(self) -> AsyncStore:
        self._store = await self._coroutine
        return self._store

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._store.close()
