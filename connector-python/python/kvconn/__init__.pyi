# The stores have a method `list`, so the type needs another name.
from builtins import list as List
from collections.abc import AsyncIterator, Iterator, Sequence
from types import ModuleType, TracebackType
from typing import Literal, TypedDict, overload

from typing_extensions import Buffer, Self

from kvconn._errors import ClosedError as ClosedError
from kvconn._errors import InvalidError as InvalidError
from kvconn._errors import KvconnError as KvconnError
from kvconn._errors import TimedOutError as TimedOutError
from kvconn._errors import UnavailableError as UnavailableError
from kvconn._listing import ListEntry as ListEntry

__version__: str

Option = str | int | float | bool | None

class Capabilities(TypedDict):
    remove: bool
    list: bool
    ping: bool
    keeps_layout: bool
    max_key_bytes: int | None
    max_chunk_bytes: int | None

class ServerInfo(TypedDict):
    """One server of a store."""

    address: str
    role: str | None
    """``master``, ``replica`` or ``sentinel``; None for a store that has no roles."""
    details: dict[str, str]
    """Further facts, such as ``version``, ``tls`` and ``slots``."""
    error: KvconnError | None
    """Why the store cannot use it. None if it answered."""

class OptionInfo(TypedDict):
    type: str
    default: str | None
    doc: str
    secret: bool

class ConnectorInfo:
    """One connector of this wheel or of another wheel."""

    @property
    def module(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def schemes(self) -> List[str]: ...
    @property
    def summary(self) -> str: ...
    @property
    def doc(self) -> str: ...
    @property
    def package(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def options(self) -> dict[str, OptionInfo]: ...

def connectors() -> List[ConnectorInfo]:
    """Every connector of this wheel and of other installed wheels, sorted by module and name."""

def carry(library: ModuleType) -> None:
    """Adds the stores of another wheel's library, which ``connector_python::wheel!`` made, to kvconn.

    For the ``__init__.py`` of that wheel's package. A second call does nothing.

    Raises:
        ImportError: the library was built with another version of kvconn.
    """

class Chunk:
    """A chunk's bytes, read-only. ``memoryview(chunk)`` is the memory that the store read into; ``bytes(chunk)`` copies it.

    Equal to any bytes-like object with the same bytes.
    """

    @property
    def shapes(self) -> List[tuple[int, ...]]:
        """The shape of each group of layers; ``[(bytes, 0, 0, 0)]`` if the store keeps no shapes."""
    @property
    def dtypes(self) -> List[str | None]:
        """The element type of each group of layers, by torch's name: ``"bfloat16"``."""
    @property
    def format(self) -> str:
        """LMCache's name for the memory format: ``"KV_2LTD"``, or ``"BINARY"`` if the store keeps no format."""
    def tobytes(self) -> bytes:
        """A copy of the bytes."""
    def __len__(self) -> int: ...
    def __bool__(self) -> Literal[True]: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

KeyKind = Literal["engine", "object"]

def connect(
    url: str, *, pool_bytes: int | None = None, key_kind: KeyKind | None = None, **options: Option
) -> Store:
    """Opens the store that ``url`` names.

    Args:
        url: as LMCache's ``remote_url``: ``redis://host:6379``, ``fs:///path``, ``external://..``
        pool_bytes: the most bytes that chunks from ``get`` hold at once; 5 GiB by default.
        key_kind: how the store reads the text of a key: ``"engine"`` (LMCache inside vLLM) or ``"object"`` (LMCache's server).
            Without it, a text whose second field is eight hex digits is an object key.
        options: the store's options, as in the URL's query; ``connectors()`` lists them.

    Raises:
        KvconnError: the store cannot be opened. The message says why, and how to write the URL.
    """

async def connect_async(
    url: str, *, pool_bytes: int | None = None, key_kind: KeyKind | None = None, **options: Option
) -> AsyncStore:
    """``connect``, for asyncio."""

class Store:
    """A store whose methods return when they are done. Usable from any thread, not across ``fork``.

    Every method may raise ``KvconnError``. Methods wait without the interpreter's lock; Ctrl-C ends the wait.
    """

    @property
    def name(self) -> str:
        """``module/Name`` of the connector."""
    @property
    def capabilities(self) -> Capabilities:
        """What the store can do beyond get, put and exists."""
    @property
    def aio(self) -> AsyncStore:
        """The same store, for asyncio."""
    @property
    def blocking(self) -> Store: ...
    def put(
        self,
        key: str,
        data: Buffer,
        *,
        shape: Sequence[int] | None = None,
        dtype: str | None = None,
        format: str | None = None,
    ) -> None:
        """Stores the bytes under the key, in place of an older chunk. ``data`` must not change during the call.

        Shape, dtype and format (all three, or none) come back from a store that keeps them.
        """
    def get(self, key: str) -> Chunk | None:
        """The key's chunk, or None if it is not stored."""
    def get_into(self, key: str, buffer: Buffer) -> int | None:
        """Reads the chunk into the writable buffer and gives its length in bytes; None if it is not stored.

        A chunk longer than the buffer is an error of kind ``size_mismatch``. Do not touch the buffer during the call.
        """
    def exists(self, key: str) -> bool:
        """Whether the key's chunk is stored."""
    def remove(self, key: str) -> bool:
        """Removes the chunk; True if it was stored."""
    def list(self, prefix: str = "") -> Iterator[str]:
        """All keys whose text starts with ``prefix``, in no order."""
    def list_entries(self, prefix: str = "") -> Iterator[ListEntry]:
        """As ``list``, with the size of each chunk and the time of its last put, if the store has them."""
    def ping(self) -> None:
        """Checks that the store answers."""
    def servers(self) -> List[ServerInfo]:
        """The servers of the store, and what each says about itself. Empty for a store without servers."""
    def close(self) -> None:
        """Waits for calls in flight, then closes connections. Later calls raise ``ClosedError``."""
    @overload
    def batched_put(self, items: Sequence[tuple[str, Buffer]]) -> List[None]: ...
    @overload
    def batched_put(
        self, items: Sequence[tuple[str, Buffer]], *, return_exceptions: bool
    ) -> List[KvconnError | None]:
        """Stores each pair. The first error is raised, unless ``return_exceptions`` puts each error into its place in the list."""
    @overload
    def batched_get(self, keys: Sequence[str]) -> List[Chunk | None]: ...
    @overload
    def batched_get(self, keys: Sequence[str], *, return_exceptions: bool) -> List[Chunk | KvconnError | None]:
        """``get`` of each key, in the order of the keys."""
    @overload
    def batched_get_into(self, keys: Sequence[str], buffers: Sequence[Buffer]) -> List[int | None]: ...
    @overload
    def batched_get_into(
        self, keys: Sequence[str], buffers: Sequence[Buffer], *, return_exceptions: bool
    ) -> List[int | KvconnError | None]:
        """``get_into`` of each pair, in the order of the keys."""
    @overload
    def batched_exists(self, keys: Sequence[str]) -> List[bool]: ...
    @overload
    def batched_exists(self, keys: Sequence[str], *, return_exceptions: bool) -> List[bool | KvconnError]:
        """``exists`` of each key, in the order of the keys."""
    def batched_contains(self, keys: Sequence[str]) -> int:
        """The length of the leading run of keys that exist."""
    def get_prefix(self, keys: Sequence[str]) -> List[Chunk]:
        """The chunks of the leading run: those before the first key that is missing, corrupt or an error.

        Only the first key's error is raised.
        """
    @overload
    def batched_remove(self, keys: Sequence[str]) -> List[bool]: ...
    @overload
    def batched_remove(self, keys: Sequence[str], *, return_exceptions: bool) -> List[bool | KvconnError]:
        """``remove`` of each key, in the order of the keys."""
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...

class AsyncStore:
    """A store whose methods are awaited on asyncio. They do the same as those of `Store`.

    A call may be cancelled. It may hold its buffer a little longer.
    """

    @property
    def name(self) -> str: ...
    @property
    def capabilities(self) -> Capabilities: ...
    @property
    def aio(self) -> AsyncStore: ...
    @property
    def blocking(self) -> Store:
        """The same store, for code without an event loop."""
    async def put(
        self,
        key: str,
        data: Buffer,
        *,
        shape: Sequence[int] | None = None,
        dtype: str | None = None,
        format: str | None = None,
    ) -> None: ...
    async def get(self, key: str) -> Chunk | None: ...
    async def get_into(self, key: str, buffer: Buffer) -> int | None: ...
    async def exists(self, key: str) -> bool: ...
    async def remove(self, key: str) -> bool: ...
    def list(self, prefix: str = "") -> AsyncIterator[str]: ...
    def list_entries(self, prefix: str = "") -> AsyncIterator[ListEntry]: ...
    async def ping(self) -> None: ...
    async def servers(self) -> List[ServerInfo]: ...
    async def close(self) -> None: ...
    @overload
    async def batched_put(self, items: Sequence[tuple[str, Buffer]]) -> List[None]: ...
    @overload
    async def batched_put(
        self, items: Sequence[tuple[str, Buffer]], *, return_exceptions: bool
    ) -> List[KvconnError | None]: ...
    @overload
    async def batched_get(self, keys: Sequence[str]) -> List[Chunk | None]: ...
    @overload
    async def batched_get(self, keys: Sequence[str], *, return_exceptions: bool) -> List[Chunk | KvconnError | None]: ...
    @overload
    async def batched_get_into(self, keys: Sequence[str], buffers: Sequence[Buffer]) -> List[int | None]: ...
    @overload
    async def batched_get_into(
        self, keys: Sequence[str], buffers: Sequence[Buffer], *, return_exceptions: bool
    ) -> List[int | KvconnError | None]: ...
    @overload
    async def batched_exists(self, keys: Sequence[str]) -> List[bool]: ...
    @overload
    async def batched_exists(self, keys: Sequence[str], *, return_exceptions: bool) -> List[bool | KvconnError]: ...
    async def batched_contains(self, keys: Sequence[str]) -> int: ...
    async def get_prefix(self, keys: Sequence[str]) -> List[Chunk]: ...
    @overload
    async def batched_remove(self, keys: Sequence[str]) -> List[bool]: ...
    @overload
    async def batched_remove(self, keys: Sequence[str], *, return_exceptions: bool) -> List[bool | KvconnError]: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...

class NativeClient:
    """LMCache's ``native_plugin`` interface over any store.

    ``{"type": "native_plugin", "module_path": "kvconn", "class_name": "NativeClient",
    "adapter_params": {"url": "resp://127.0.0.1:6379"}}``

    A submit gives an id at once. When the call has ended, exactly one completion for that id waits to be drained. Buffers
    belong to the store from the submit to that completion.
    """

    def __init__(self, url: str, **options: Option) -> None: ...
    def event_fd(self) -> int:
        """An eventfd that is readable while completions wait to be drained."""
    def submit_batch_get(self, keys: Sequence[str], views: Sequence[Buffer]) -> int:
        """Reads each chunk into its writable buffer. A chunk of another length than its buffer is not loaded."""
    def submit_batch_set(self, keys: Sequence[str], views: Sequence[Buffer]) -> int:
        """Stores each buffer's bytes."""
    def submit_batch_exists(self, keys: Sequence[str]) -> int:
        """Asks which keys exist."""
    def submit_batch_delete(self, keys: Sequence[str]) -> int:
        """Removes the keys."""
    def drain_completions(self) -> List[tuple[int, bool, str, List[bool] | None]]:
        """All completions since the last call: id, whether all keys succeeded, the first error, a bool for each key."""
    def close(self) -> None:
        """Refuses new submits, ends calls in flight, and returns when nothing touches a buffer any more."""
