"""The exceptions of kvconn."""

from __future__ import annotations


class KvconnError(Exception):
    """The base of kvconn's errors.

    ``str()`` is one line with all of the attributes below; none of them has a password in it.

    Attributes:
        kind: the kind of error: ``"not_found"``, ``"corrupt"``, ``"pool_full"``, ..
        operation: ``"get"``, ``"open"``, ..; ``None`` if unknown.
        connector: the connector, as ``"module/Name"``; ``None`` if unknown.
        key: the text of the key, if the error is about one.
        hint: how to mend it, if kvconn knows.
        temporary: whether the same call may succeed later.
    """

    def __init__(
        self,
        message: str,
        kind: str = "other",
        operation: str | None = None,
        connector: str | None = None,
        key: str | None = None,
        hint: str | None = None,
        temporary: bool = False,
    ) -> None:
        # All arguments, so that the exception can be pickled.
        super().__init__(message, kind, operation, connector, key, hint, temporary)
        self.kind = kind
        self.operation = operation
        self.connector = connector
        self.key = key
        self.hint = hint
        self.temporary = temporary

    @classmethod
    def _of_open(cls, kind: str, message: str, hint: str) -> KvconnError:
        """The error of a store that cannot be opened."""
        return cls(f"{message} ({hint})", kind=kind, operation="open", hint=hint)

    def __str__(self) -> str:
        return str(self.args[0])


class InvalidError(KvconnError, ValueError):
    """A URL, a key, an option or a value is wrong (kinds ``invalid_url``, ``invalid_key``, ..)."""


class InvalidTypeError(InvalidError, TypeError):
    """An argument has the wrong type."""


class NoEventLoopError(KvconnError, RuntimeError):
    """A call of an `AsyncStore` outside of an event loop."""


class UnavailableError(KvconnError, ConnectionError):
    """The store cannot be reached."""

    __str__ = KvconnError.__str__


class TimedOutError(KvconnError, TimeoutError):
    """The store did not answer in time."""

    __str__ = KvconnError.__str__


class ClosedError(KvconnError):
    """The store is closed."""
