"""The types in the signatures of the package."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol, SupportsFloat, SupportsIndex, TypedDict, TypeVar

from kvconn._errors import KvconnError

if TYPE_CHECKING:
    from typing_extensions import Buffer as Buffer
elif sys.version_info >= (3, 12):
    from collections.abc import Buffer
else:
    # Python 3.11 has no class of all bytes-like objects.
    Buffer = bytes | bytearray | memoryview


class Tensor(Protocol):
    """An array of a library that has DLPack: torch, numpy, jax, cupy."""

    # And `__dlpack__`, which numpy declares for its own dtypes only: not for bfloat16 of ml_dtypes.
    @property
    def __dlpack_device__(self) -> Callable[..., Any]: ...


class DType(Protocol):
    """A dtype of torch or numpy."""

    @property
    def itemsize(self) -> int: ...


# A mapping of `Key`s is not a `Mapping[str, ..]`, because a mapping is invariant in its keys.
K = TypeVar("K", bound=str)

Items = Mapping[K, Buffer | Tensor] | Iterable[tuple[str, Buffer | Tensor]]
"""Keys and their data."""

Option = str | int | float | bool | os.PathLike[str] | SupportsIndex | SupportsFloat | None
"""The value of a store's option, also a number of numpy's or a path. None leaves the option out."""

KeyKind = Literal["engine", "object"]
"""How a store reads the text of a key: as LMCache inside vLLM writes it, or as LMCache's server does."""


class Capabilities(TypedDict):
    """The operations that a store has beyond get, put and exists, and its limits."""

    remove: bool
    list: bool
    ping: bool
    keeps_layout: bool
    """Whether the shape, dtype and format of a chunk come back."""
    max_key_bytes: int | None
    """The longest key, in bytes of UTF-8. None if the store has no limit."""
    max_chunk_bytes: int | None
    """The largest chunk, in bytes. None if the store has no limit."""


class ServerInfo(TypedDict):
    """One server of a store."""

    address: str
    role: str | None
    """``master``, ``replica`` or ``sentinel``. None for a store that has no roles."""
    details: dict[str, str]
    """Further facts, such as ``version``, ``tls`` and ``slots``."""
    error: KvconnError | None
    """Why the store cannot use the server. None if the server answered."""


class OptionInfo(TypedDict):
    """One option of a connector."""

    type: str
    unit: str | None
    """The unit of a number: ``ms``, ``bytes``. None for a number without a unit, and for other types."""
    default: str | None
    """The default as a URL has it. None if the option has no default."""
    doc: str
    secret: bool
    """Whether the value is a secret, which kvconn never shows."""
