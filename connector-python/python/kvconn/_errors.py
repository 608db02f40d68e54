"""The exceptions of kvconn."""

from __future__ import annotations


class KvconnError(Exception):
    """What went wrong, where, and what to do about it.

    ``str()`` is one line that says all of it; no attribute ever holds a password.

    Attributes:
        kind: what went wrong, to compare with: ``"not_found"``, ``"corrupt"``, ``"pool_full"``, ..
        operation: what was being done: ``"get"``, ``"open"``, ..; ``None`` if that is not known.
        connector: which connector, as ``"module/Name"``; ``None`` if that is not known.
        key: the text of the key that it was about, if one was.
        hint: what to do or to write instead, if that is known.
        temporary: whether the same call may succeed later without anyone's doing.
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
        # All of them, so that the exception survives pickle on its way to another process.
        super().__init__(message, kind, operation, connector, key, hint, temporary)
        self.kind = kind
        self.operation = operation
        self.connector = connector
        self.key = key
        self.hint = hint
        self.temporary = temporary

    def __str__(self) -> str:
        return str(self.args[0])


class InvalidError(KvconnError, ValueError):
    """A URL, a key, an option or a value is wrong (kinds ``invalid_url``, ``invalid_key``, ..)."""


class UnavailableError(KvconnError, ConnectionError):
    """The store cannot be reached, or went away."""

    __str__ = KvconnError.__str__


class TimedOutError(KvconnError, TimeoutError):
    """The store did not answer in time."""

    __str__ = KvconnError.__str__


class ClosedError(KvconnError):
    """The store was closed before."""
