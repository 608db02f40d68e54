"""The exceptions of kvconn."""

from __future__ import annotations

import errno
from typing import ClassVar, Literal

#: The kinds of errors, as Rust and the metrics name them.
ErrorKind = Literal[
    "invalid_url",
    "invalid_key",
    "invalid_option",
    "invalid_input",
    "not_found",
    "conflict",
    "unsupported",
    "closed",
    "pool_full",
    "store_full",
    "too_large",
    "size_mismatch",
    "corrupt",
    "timeout",
    "unavailable",
    "throttled",
    "read_only",
    "denied",
    "io",
    "other",
]


class KvconnError(Exception):
    """The base of kvconn's errors, and the error of a connector that fails in a way of its own.

    ``str()`` is one line with all of the attributes below, and never shows a password. ``except OSError`` catches the
    errors of the network, the disk and permissions, and no other errors of kvconn.

    Attributes:
        kind: the kind of error: ``"not_found"``, ``"corrupt"``, ``"pool_full"``, ..
        operation: ``"get"``, ``"open"``, ..; ``None`` if unknown.
        connector: the connector, as ``"module/Name"``; ``None`` if unknown.
        key: the text of the key, if the error is about one.
        hint: how to mend it, if kvconn knows.
        temporary: whether the same call may succeed later.
    """

    _kind: ClassVar[ErrorKind] = "other"
    _errno: ClassVar[int | None] = None

    kind: ErrorKind
    operation: str | None
    connector: str | None
    key: str | None
    hint: str | None
    temporary: bool

    def __init__(
        self,
        message: str,
        kind: ErrorKind | None = None,
        operation: str | None = None,
        connector: str | None = None,
        key: str | None = None,
        hint: str | None = None,
        temporary: bool = False,
    ) -> None:
        kind = kind or self._kind
        # All arguments, so that the exception can be pickled and copied.
        super().__init__(message, kind, operation, connector, key, hint, temporary)
        self.kind = kind
        self.operation = operation
        self.connector = connector
        self.key = key
        self.hint = hint
        self.temporary = temporary
        if self._errno is not None:
            # Only those of the classes that are an `OSError` have a number.
            setattr(self, "errno", self._errno)

    def __str__(self) -> str:
        return str(self.args[0])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r}, kind={self.kind!r})"


class InvalidError(KvconnError, ValueError):
    """A URL, a key, an option or a value is wrong."""

    _kind = "invalid_input"


class InvalidTypeError(InvalidError, TypeError):
    """An argument has the wrong type."""


class NoEventLoopError(KvconnError, RuntimeError):
    """A call of an `AsyncStore` outside of an event loop."""

    _kind = "invalid_input"


class NotFoundError(KvconnError, LookupError):
    """No connector has this name or scheme. A chunk that is not stored is ``None``, not an error."""

    _kind = "not_found"


class ConflictError(KvconnError):
    """Two connectors claim one name or one scheme."""

    _kind = "conflict"


class UnsupportedError(KvconnError, NotImplementedError):
    """The store does not have this operation, or cannot keep this kind of chunk."""

    _kind = "unsupported"


class ClosedError(KvconnError, RuntimeError):
    """The store is closed, or belongs to the process that this one was forked from."""

    _kind = "closed"


class PoolFullError(KvconnError, MemoryError):
    """The pool that ``get`` reads into has no free memory. It has some when a chunk is dropped."""

    _kind = "pool_full"


class TooLargeError(KvconnError, ValueError):
    """The chunk can never fit: it is larger than the pool, the store, or a limit of the server."""

    _kind = "too_large"


class SizeMismatchError(KvconnError, ValueError):
    """The chunk does not fit the memory that the call gave for it."""

    _kind = "size_mismatch"


class CorruptError(KvconnError):
    """The store returned bytes that are short, torn, or not a chunk."""

    _kind = "corrupt"


class UnavailableError(KvconnError, ConnectionError):
    """The store cannot be reached, or the connection to it broke."""

    _kind = "unavailable"


class TimedOutError(KvconnError, TimeoutError):
    """The store did not answer in time: within ``timeout``, or the options ``timeout_ms`` and ``connect_timeout_ms``."""

    _kind = "timeout"
    _errno = errno.ETIMEDOUT


class ThrottledError(KvconnError, OSError):
    """The store asks for fewer requests."""

    _kind = "throttled"


class StoreFullError(KvconnError, OSError):
    """The store has no room: a full disk, a quota, redis at its ``maxmemory``. ``errno`` is ``ENOSPC``."""

    _kind = "store_full"
    _errno = errno.ENOSPC


class ReadOnlyError(KvconnError, OSError):
    """The store takes no writes: a read-only file system, a replica. ``errno`` is ``EROFS``."""

    _kind = "read_only"
    _errno = errno.EROFS


class DeniedError(KvconnError, PermissionError):
    """The store refused access: a wrong password, a missing permission. ``errno`` is ``EACCES``."""

    _kind = "denied"
    _errno = errno.EACCES


class StoreIOError(KvconnError, OSError):
    """Another error of the operating system."""

    _kind = "io"


_CLASSES: dict[ErrorKind, type[KvconnError]] = {
    "invalid_url": InvalidError,
    "invalid_key": InvalidError,
    "invalid_option": InvalidError,
    "invalid_input": InvalidError,
    "not_found": NotFoundError,
    "conflict": ConflictError,
    "unsupported": UnsupportedError,
    "closed": ClosedError,
    "pool_full": PoolFullError,
    "store_full": StoreFullError,
    "too_large": TooLargeError,
    "size_mismatch": SizeMismatchError,
    "corrupt": CorruptError,
    "timeout": TimedOutError,
    "unavailable": UnavailableError,
    "throttled": ThrottledError,
    "read_only": ReadOnlyError,
    "denied": DeniedError,
    "io": StoreIOError,
    "other": KvconnError,
}


def of_kind(
    message: str,
    kind: ErrorKind,
    operation: str | None = None,
    connector: str | None = None,
    key: str | None = None,
    hint: str | None = None,
    temporary: bool = False,
) -> KvconnError:
    """The error of a kind, in the class that the kind has. A newer library may have a kind that this package does not know."""
    return _CLASSES.get(kind, KvconnError)(message, kind, operation, connector, key, hint, temporary)


def of_open(kind: ErrorKind, message: str, hint: str) -> KvconnError:
    """The error of a store that cannot be opened."""
    return of_kind(f"{message} ({hint})", kind, operation="open", hint=hint)


# Tracebacks and pickles name the classes as programs do.
for _class in (*_CLASSES.values(), InvalidTypeError, NoEventLoopError):
    _class.__module__ = "kvconn"
