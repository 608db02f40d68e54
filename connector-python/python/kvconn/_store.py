"""`kvconn.Store`: a store for programs without an event loop."""

# The native methods have no types of their own, so that each signature stands once: here.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

# The stores have a method `list`, so the type needs another name.
from builtins import list as List
from collections.abc import Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from kvconn._errors import ClosedError, InvalidTypeError, KvconnError
from kvconn._kvconn import AnyStore, Chunk
from kvconn._listing import ListEntry, Listing
from kvconn._types import Buffer, Capabilities, DType, Items, K, ServerInfo, Tensor

if TYPE_CHECKING:
    from kvconn._async_store import AsyncStore


class StoreBase:
    """The properties of `Store` and `AsyncStore`."""

    __slots__ = ("__weakref__", "_native", "_reopen")

    def __init__(self, native: AnyStore, reopen: partial[Store] | None = None) -> None:
        if not hasattr(native, "batched_put"):
            # Not the value, which may be a URL with a password.
            given = type(native).__name__
            raise InvalidTypeError(f"a {given} is not an open store; `kvconn.connect(url)` opens one", "invalid_input")
        self._native = native
        # Opens the store again, for copies and pickles.
        self._reopen = reopen

    @property
    def url(self) -> str:
        """The URL with its options, without secrets."""
        return self._native.url

    @property
    def closed(self) -> bool:
        """Whether calls raise ``ClosedError``: after ``close``, and in a child of ``fork``."""
        return self._native.closed

    @property
    def name(self) -> str:
        """``module/Name`` of the connector."""
        return self._native.name

    @property
    def capabilities(self) -> Capabilities:
        """The operations that the store has beyond get, put and exists, and its limits."""
        return self._native.capabilities

    @property
    def aio(self) -> AsyncStore:
        """The same store, for asyncio."""
        from kvconn._async_store import AsyncStore

        return AsyncStore(self._native.aio, self._reopen)

    @property
    def blocking(self) -> Store:
        """The same store, for code without an event loop."""
        return Store(self._native.blocking, self._reopen)

    def __repr__(self) -> str:
        return f"<kvconn.{type(self).__name__} {self.url}{' (closed)' if self.closed else ''}>"

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedError(f"the store {self.url} is closed", "closed", connector=self.name)


class Store(StoreBase):
    """A store whose methods return when they are done. ``kvconn.connect`` opens one.

    Any thread may use it. A child of ``fork`` opens its own. A call waits without the interpreter's lock, and Ctrl-C ends
    it. Each method raises ``KvconnError`` if the store fails: ``UnavailableError`` if its server is away,
    ``TimedOutError`` after ``timeout``, ``ClosedError`` after ``close``, ``InvalidError`` for a wrong argument.

    ``timeout`` is the longest time of a call in seconds, with its retries. It replaces the limits of the store's options
    (``timeout_ms``, ``batch_timeout_ms``, ``lookup_timeout_ms``); ``math.inf`` removes them. When the time ends, each key
    of a batch has the error. For a listing, it is the time for each key.

    >>> with kvconn.connect("memory://example") as store:
    ...     store.put("model@1@0@1f2e3d@bfloat16", b"hello")
    ...     len(store.get("model@1@0@1f2e3d@bfloat16"))
    5
    """

    __slots__ = ()

    def put(
        self,
        key: str,
        data: Buffer | Tensor,
        *,
        shape: Sequence[int] | None = None,
        dtype: str | DType | type[Any] | None = None,
        format: str | None = None,
        timeout: float | None = None,
    ) -> None:
        """Stores bytes, an array or a tensor under the key, in place of an older chunk.

        Dtype and shape come from an array. A store that cannot keep them keeps the bytes, as ``BINARY``. With ``shape``,
        ``dtype`` or ``format``, a store with ``keeps_layout`` in its ``capabilities`` refuses a layout that it cannot keep.

        >>> import numpy
        >>> with kvconn.connect("memory://example") as store:
        ...     store.put("model@1@0@d0@bfloat16", numpy.ones((2, 3), "float32"))
        ...     store.get("model@1@0@d0@bfloat16").numpy()
        array([[1., 1., 1.],
               [1., 1., 1.]], dtype=float32)

        Args:
            key: the text of the chunk's key.
            data: bytes, or an array of torch, numpy, jax or another library, contiguous in the host's memory. It must not
                change during the call.
            shape: the lengths of one to four dimensions, in place of the array's.
            dtype: the element type, in place of the array's: a name of torch such as ``"bfloat16"``, or a dtype of torch or numpy.
            format: LMCache's name for the memory format: ``"KV_2LTD"``.

        Raises:
            InvalidError: shape and dtype make another number of bytes than ``data`` has, or ``data`` is not contiguous, or not
                in the host's memory.
        """
        return self._native.put(key, data, shape=shape, dtype=dtype, format=format, timeout=timeout)

    def get(self, key: str, *, timeout: float | None = None) -> Chunk | None:
        """Reads a chunk into memory of the store's pool.

        >>> store = kvconn.connect("memory://example")
        >>> store.put("model@1@0@c4@bfloat16", b"hello")
        >>> bytes(store.get("model@1@0@c4@bfloat16"))
        b'hello'
        >>> store.get("model@1@0@c5@bfloat16") is None
        True
        >>> store.close()

        Returns:
            The chunk, or None if it is not stored.

        Raises:
            PoolFullError: drop chunks, or open the store with a larger ``pool_bytes``.
            CorruptError: the stored bytes are not a whole chunk.
        """
        return self._native.get(key, timeout)

    def get_into(self, key: str, buffer: Buffer | Tensor, *, timeout: float | None = None) -> int | None:
        """Reads a chunk into your own memory.

        Memory of bytes takes any chunk. A tensor takes chunks of its own dtype and shape, and chunks without them. A
        tensor of one dimension takes chunks of its dtype.

        Args:
            key: the text of the chunk's key.
            buffer: writable bytes, or a writable array or tensor, contiguous in the host's memory, which may be pinned. Do
                not touch it during the call.

        Returns:
            The chunk's length in bytes, or None if it is not stored.

        Raises:
            SizeMismatchError: the chunk is longer than the buffer, or the tensor has another dtype or shape. The buffer's
                bytes are unspecified then.
            InvalidError: the buffer is read-only, not contiguous, or not in the host's memory.
        """
        return self._native.get_into(key, buffer, timeout)

    def exists(self, key: str, *, timeout: float | None = None) -> bool:
        """Whether the key's chunk is stored."""
        return self._native.exists(key, timeout)

    def remove(self, key: str, *, timeout: float | None = None) -> bool:
        """Removes the chunk; True if it was stored."""
        return self._native.remove(key, timeout)

    def list(self, prefix: str = "", *, timeout: float | None = None) -> Listing[str]:
        """All keys whose text starts with ``prefix``, in no order."""
        return Listing(self._native.list(prefix, timeout))

    def list_entries(self, prefix: str = "", *, timeout: float | None = None) -> Listing[ListEntry]:
        """As ``list``, with the size of each chunk and the time of its last put, if the store has them."""
        return Listing(self._native.list_entries(prefix, timeout))

    def ping(self, *, timeout: float | None = None) -> None:
        """Checks that the store answers."""
        return self._native.ping(timeout)

    def servers(self, *, timeout: float | None = None) -> List[ServerInfo]:
        """The servers of the store, and their facts. Empty for a store without servers."""
        return self._native.servers(timeout)

    def close(self) -> None:
        """Waits for calls in flight, then closes connections. Later calls raise ``ClosedError``. May be called twice."""
        return self._native.close()

    @overload
    def batched_put(
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
    def batched_put(
        self,
        items: Items[K],
        *,
        shape: Sequence[int] | None = None,
        dtype: str | DType | type[Any] | None = None,
        format: str | None = None,
        return_exceptions: bool,
        timeout: float | None = None,
    ) -> List[KvconnError | None]: ...
    def batched_put(
        self,
        items: Items[K],
        *,
        shape: Sequence[int] | None = None,
        dtype: str | DType | type[Any] | None = None,
        format: str | None = None,
        return_exceptions: bool = False,
        timeout: float | None = None,
    ) -> List[None] | List[KvconnError | None]:
        """Stores each pair of a key and bytes, an array or a tensor.

        >>> with kvconn.connect("memory://example") as store:
        ...     store.batched_put({"model@1@0@b1@bfloat16": b"first", "model@1@0@b2@bfloat16": b"second"})
        [None, None]

        Args:
            items: a mapping, or any iterable of pairs, which is read to its end before the first put. The memory must not change
                during the call.
            shape: as in ``put``, for all items.
            dtype: as in ``put``, for all items.
            format: as in ``put``, for all items.
            return_exceptions: whether the list has a failed item's error in the item's place. Otherwise the
                first error is raised.

        Returns:
            None for each item that was stored, in the order of the items.
        """
        return self._native.batched_put(
            items, shape=shape, dtype=dtype, format=format, return_exceptions=return_exceptions, timeout=timeout
        )

    @overload
    def batched_get(
        self, keys: Iterable[str], *, return_exceptions: Literal[False] = False, timeout: float | None = None
    ) -> List[Chunk | None]: ...
    @overload
    def batched_get(
        self, keys: Iterable[str], *, return_exceptions: bool, timeout: float | None = None
    ) -> List[Chunk | KvconnError | None]: ...
    def batched_get(
        self, keys: Iterable[str], *, return_exceptions: bool = False, timeout: float | None = None
    ) -> List[Chunk | None] | List[Chunk | KvconnError | None]:
        """``get`` of each key, in the order of the keys. ``return_exceptions`` is as in ``batched_put``.

        >>> with kvconn.connect("memory://example") as store:
        ...     store.batched_put([("model@1@0@a1@bfloat16", b"first"), ("model@1@0@a2@bfloat16", b"second")])
        ...     second, missing = store.batched_get(["model@1@0@a2@bfloat16", "model@1@0@a3@bfloat16"])
        [None, None]
        >>> bytes(second), missing
        (b'second', None)
        """
        return self._native.batched_get(keys, return_exceptions=return_exceptions, timeout=timeout)

    @overload
    def batched_get_into(
        self, keys: Iterable[str], buffers: Iterable[Buffer | Tensor], *, return_exceptions: Literal[False] = False, timeout: float | None = None
    ) -> List[int | None]: ...
    @overload
    def batched_get_into(
        self, keys: Iterable[str], buffers: Iterable[Buffer | Tensor], *, return_exceptions: bool, timeout: float | None = None
    ) -> List[int | KvconnError | None]: ...
    def batched_get_into(
        self, keys: Iterable[str], buffers: Iterable[Buffer | Tensor], *, return_exceptions: bool = False, timeout: float | None = None
    ) -> List[int | None] | List[int | KvconnError | None]:
        """``get_into`` of each key and its buffer, in the order of the keys. ``return_exceptions`` is as in ``batched_put``."""
        return self._native.batched_get_into(keys, buffers, return_exceptions=return_exceptions, timeout=timeout)

    @overload
    def batched_exists(self, keys: Iterable[str], *, return_exceptions: Literal[False] = False, timeout: float | None = None) -> List[bool]: ...
    @overload
    def batched_exists(self, keys: Iterable[str], *, return_exceptions: bool, timeout: float | None = None) -> List[bool | KvconnError]: ...
    def batched_exists(
        self, keys: Iterable[str], *, return_exceptions: bool = False, timeout: float | None = None
    ) -> List[bool] | List[bool | KvconnError]:
        """``exists`` of each key, in the order of the keys. ``return_exceptions`` is as in ``batched_put``."""
        return self._native.batched_exists(keys, return_exceptions=return_exceptions, timeout=timeout)

    def batched_contains(self, keys: Iterable[str], *, timeout: float | None = None) -> int:
        """The length of the leading run of keys that exist."""
        return self._native.batched_contains(keys, timeout)

    def get_prefix(self, keys: Iterable[str], *, timeout: float | None = None) -> List[Chunk]:
        """The chunks of the leading run: those before the first key that is missing, corrupt or an error.

        Only the first key's error is raised.
        """
        return self._native.get_prefix(keys, timeout)

    @overload
    def batched_remove(self, keys: Iterable[str], *, return_exceptions: Literal[False] = False, timeout: float | None = None) -> List[bool]: ...
    @overload
    def batched_remove(self, keys: Iterable[str], *, return_exceptions: bool, timeout: float | None = None) -> List[bool | KvconnError]: ...
    def batched_remove(
        self, keys: Iterable[str], *, return_exceptions: bool = False, timeout: float | None = None
    ) -> List[bool] | List[bool | KvconnError]:
        """``remove`` of each key, in the order of the keys. ``return_exceptions`` is as in ``batched_put``."""
        return self._native.batched_remove(keys, return_exceptions=return_exceptions, timeout=timeout)

    def __contains__(self, key: object) -> bool:
        """``key in store``: whether the key's chunk is stored."""
        return self._native.exists(key)

    def __reduce__(self) -> tuple[partial[Store], tuple[()]]:
        """A copy or a pickle opens the store again by its URL and options. The pickle holds a password that they have."""
        if self._reopen is None:
            raise TypeError("only a store that `kvconn.connect` opened can be copied or pickled")
        return self._reopen, ()

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
