"""The native module. ``stubtest`` compares it with this file."""

from asyncio import Future

# Two classes have a method `list`, so the type needs another name.
from builtins import list as List
from collections.abc import Sequence
from typing import Any, Literal, final

import torch as _torch
from numpy.typing import NDArray
from typing_extensions import Buffer, Self, disjoint_base

from kvconn._types import DType, KeyKind, Option, OptionInfo

__version__: str

@final
class AnyStore:
    """An open store. `_store.py` and `_async_store.py` have the types of its methods' answers."""

    @property
    def name(self) -> str: ...
    @property
    def capabilities(self) -> Any: ...
    @property
    def blocking(self) -> AnyStore: ...
    @property
    def aio(self) -> AnyStore: ...
    def put(self, key: Any, data: Any, *, shape: Any = ..., dtype: Any = None, format: Any = ..., timeout: Any = ...) -> Any: ...
    def get(self, key: Any, timeout: Any = ...) -> Any: ...
    def get_into(self, key: Any, buffer: Any, timeout: Any = ...) -> Any: ...
    def exists(self, key: Any, timeout: Any = ...) -> Any: ...
    def remove(self, key: Any, timeout: Any = ...) -> Any: ...
    def list(self, prefix: Any = ..., timeout: Any = ...) -> Any: ...
    def list_entries(self, prefix: Any = ..., timeout: Any = ...) -> Any: ...
    def ping(self, timeout: Any = ...) -> Any: ...
    def servers(self, timeout: Any = ...) -> Any: ...
    def close(self) -> Any: ...
    def batched_put(
        self, items: Any, *, shape: Any = ..., dtype: Any = None, format: Any = ..., return_exceptions: bool = False, timeout: Any = ...
    ) -> Any: ...
    def batched_get(self, keys: Any, *, return_exceptions: bool = False, timeout: Any = ...) -> Any: ...
    def batched_get_into(self, keys: Any, buffers: Any, *, return_exceptions: bool = False, timeout: Any = ...) -> Any: ...
    def batched_exists(self, keys: Any, *, return_exceptions: bool = False, timeout: Any = ...) -> Any: ...
    def batched_contains(self, keys: Any, timeout: Any = ...) -> Any: ...
    def get_prefix(self, keys: Any, timeout: Any = ...) -> Any: ...
    def batched_remove(self, keys: Any, *, return_exceptions: bool = False, timeout: Any = ...) -> Any: ...

def connect(
    url: str, *, pool_bytes: int | None = ..., key_kind: KeyKind | None = ..., **options: Option
) -> AnyStore: ...
def connect_async(
    url: str, *, pool_bytes: int | None = ..., key_kind: KeyKind | None = ..., **options: Option
) -> Future[AnyStore]: ...
@final
class Chunk:
    """A chunk's bytes, read-only. ``memoryview(chunk)`` is the memory that the store read into; ``bytes(chunk)`` copies it.

    ``numpy``, ``torch``, ``numpy.from_dlpack(chunk)`` and ``torch.from_dlpack(chunk)`` give that memory as an array, which
    keeps it alive. Equal to any bytes-like object with the same bytes.
    """

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shape of each group of layers; ``[(bytes, 0, 0, 0)]`` if the store keeps no shapes."""

    @property
    def dtypes(self) -> list[str | None]:
        """The element type of each group of layers, by torch's name: ``"bfloat16"``."""

    @property
    def format(self) -> str:
        """LMCache's name for the memory format: ``"KV_2LTD"``, or ``"BINARY"`` if the store keeps no format."""

    def numpy(
        self,
        dtype: str | DType | type[Any] | None = None,
        shape: Sequence[int] | None = None,
        *,
        group: int | None = None,
    ) -> NDArray[Any]:
        """The chunk as a read-only array, without a copy.

        Args:
            dtype: anything that ``numpy.dtype`` takes, or torch's name of a dtype, in place of the stored dtype. numpy has
                bfloat16 and float8 from the package ml_dtypes.
            shape: in place of the stored shape. One dimension may be -1.
            group: the group of layers, from 0 on. A chunk with several groups needs it.

        Raises:
            InvalidError: the store keeps no dtype of the chunk, and none is given; or the bytes do not have that dtype and shape.
            ImportError: numpy, or ml_dtypes for its dtypes, is not installed.
        """

    def torch(
        self,
        dtype: str | DType | None = None,
        shape: Sequence[int] | None = None,
        *,
        group: int | None = None,
    ) -> _torch.Tensor:
        """The chunk as a tensor on the CPU, without a copy.

        torch has no read-only tensors, and other chunks may share the memory: write to a ``clone()`` only.

        Args:
            dtype: a dtype of torch, or its name, in place of the stored dtype.
            shape: in place of the stored shape. One dimension may be -1.
            group: the group of layers, from 0 on. A chunk with several groups needs it.

        Raises:
            InvalidError: the store keeps no dtype of the chunk, and none is given; or the bytes do not have that dtype and shape.
            ImportError: torch is not installed.
        """

    def __dlpack__(
        self,
        *,
        stream: None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...
    def _part(
        self, group: int | None, *, need_dtype: bool
    ) -> tuple[int, int, str | None, tuple[int, ...] | None]: ...
    def _capsule(self, at: int, len: int) -> Any: ...
    def tobytes(self) -> bytes:
        """A copy of the bytes."""

    def __len__(self) -> int: ...
    def __bool__(self) -> Literal[True]: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class ConnectorInfo:
    """One connector of this wheel or of another wheel."""

    @property
    def module(self) -> str:
        """The dotted path of an ``external://`` URL: ``"kvconn.redis"``."""

    @property
    def name(self) -> str:
        """The ``connector_name`` of an ``external://`` URL: ``"RedisConnector"``."""

    @property
    def schemes(self) -> list[str]:
        """The connector's own schemes: ``["redis", "unix"]``."""

    @property
    def summary(self) -> str:
        """The first sentence of its documentation."""

    @property
    def doc(self) -> str:
        """Its author's documentation."""

    @property
    def package(self) -> str:
        """Its Rust package."""

    @property
    def version(self) -> str:
        """That package's version."""

    @property
    def options(self) -> dict[str, OptionInfo]:
        """Options, by name."""

def connectors() -> list[ConnectorInfo]: ...

METRIC_BUCKETS: list[float]

# Name, kind, unit, help, names of the labels; and the samples: labels, sorted by name, and a float or a histogram's buckets and sum.
def metrics() -> list[tuple[str, str, str, str, list[str], list[tuple[tuple[tuple[str, str], ...], Any]]]]: ...
def _opener_of(url: str, behind: Sequence[str]) -> tuple[str, bool] | None: ...

@disjoint_base
class NativeClient:
    """LMCache's ``native_plugin`` interface over any store.

    ``{"type": "native_plugin", "module_path": "kvconn", "class_name": "NativeClient",
    "adapter_params": {"url": "resp://127.0.0.1:6379"}}``

    A submit gives an id at once. When the call has ended, exactly one completion for that id waits to be drained. Buffers
    belong to the store from the submit to that completion.
    """

    def __new__(cls, url: str, **options: Option) -> Self: ...
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

    def drain_completions(self) -> list[tuple[int, bool, str, list[bool] | None]]:
        """All completions since the last call: id, whether all keys succeeded, the first error, a bool for each key."""

    def close(self) -> None:
        """Refuses new submits, ends calls in flight, and returns when nothing touches a buffer any more."""

# For the classes of vLLM, SGLang and LMCache's server.
_Drained = tuple[int, bytes, str | None, float, int]

@final
class EngineClient:
    def __new__(
        cls,
        url: str,
        options: dict[str, Any] | None = None,
        *,
        engine: str,
        model: str = "",
        kv_rank: int = 0,
        rows: Any = None,
    ) -> Self: ...
    @property
    def has_secret(self) -> bool: ...
    @property
    def name(self) -> str: ...
    @property
    def row_bytes(self) -> int: ...
    def submit_store(self, tag: int, keys: Any, *, salt: str = "", **memory: Any) -> None: ...
    def submit_load(self, tag: int, keys: Any, *, salt: str = "", **memory: Any) -> None: ...
    def submit_lookup(self, tag: int, keys: Any, *, salt: str = "", run: bool = False) -> None: ...
    def drain_stores(self) -> list[_Drained]: ...
    def drain_loads(self) -> list[_Drained]: ...
    def drain_lookups(self) -> list[_Drained]: ...
    def store_fd(self) -> int: ...
    def load_fd(self) -> int: ...
    def lookup_fd(self) -> int: ...
    def store(self, keys: Any, *, salt: str = "", **memory: Any) -> list[bool]: ...
    def load(self, keys: Any, *, salt: str = "", **memory: Any) -> list[bool]: ...
    def lookup(self, keys: Any, *, salt: str = "") -> list[bool]: ...
    def contains(self, keys: Any, *, salt: str = "") -> int: ...
    def remove(self, keys: Any, *, salt: str = "") -> list[bool]: ...
    def clear(self) -> int: ...
    def pending(self) -> tuple[int, int]: ...
    def wait_idle(self) -> None: ...
    def stats(self) -> dict[str, float]: ...
    def state(self) -> Literal["ok", "lost", "closed"]: ...
    def close(self) -> None: ...

@final
class EngineUsage:
    def __new__(cls, client: EngineClient, *, interval_s: float) -> Self: ...
    def stored(self, keys: Sequence[str], sizes: Sequence[int]) -> None: ...
    def removed(self, keys: Sequence[str]) -> list[bool]: ...
    def totals(self) -> tuple[int, dict[str, int]]: ...
    def keep_found(self) -> None: ...
    def take_found(self, limit: int) -> list[tuple[str, int]]: ...
    def page(self, prefix: str, after: str | None, limit: int) -> tuple[list[tuple[str, int | None]], str | None]: ...
    def report(self) -> dict[str, Any]: ...
    def close(self) -> None: ...

# For LMCache inside vLLM.
@final
class LMCacheRemote:
    def __new__(
        cls,
        url: str,
        backend: Any,
        config: Sequence[tuple[str, str]],
        metadata: tuple[str, int, int, int, Sequence[tuple[int, int, int, str]]] | None,
        plugin_name: str | None,
    ) -> Self: ...
    @property
    def name(self) -> str: ...
    @property
    def can_ping(self) -> bool: ...
    def exists(self, key: str) -> Future[bool]: ...
    def exists_sync(self, key: str) -> bool: ...
    def contains(self, keys: Sequence[str]) -> Future[int]: ...
    def contains_sync(self, keys: Sequence[str]) -> int: ...
    def get(self, key: str) -> Future[Any]: ...
    def batched_get(self, keys: Sequence[str]) -> Future[List[Any]]: ...
    def put(self, key: str, object: Any) -> Future[None]: ...
    def batched_put(self, keys: Sequence[str], objects: Sequence[Any]) -> Future[List[Any]]: ...
    def remove_sync(self, key: str) -> bool: ...
    def list(self) -> Future[List[str]]: ...
    def ping(self) -> Future[None]: ...
    def close(self) -> Future[None]: ...

def _error_kinds() -> List[str]: ...
def _give_back(value: Any) -> None: ...
def _entry_of(url: str) -> tuple[str, str] | None: ...
def _command(args: Sequence[str]) -> int: ...
def _close_open_stores() -> Any: ...
