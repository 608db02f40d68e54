"""Runs checks and reports their results."""

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Report:
    """Prints each check when it ends."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed: list[str] = []

    @property
    def ended(self) -> int:
        """The number of checks that have ended."""
        return self.passed + len(self.failed)

    def has(self, name: str, require: Callable[[], None]) -> bool:
        """Runs a check that other checks need. The caller skips those if this one fails."""
        failed = len(self.failed)
        with self.check(name):
            require()
        return len(self.failed) == failed

    @contextmanager
    def check(self, name: str) -> Iterator[None]:
        """Runs a check. The check fails if its block raises."""
        start = time.monotonic()
        try:
            yield
        except Exception as e:  # noqa: BLE001: the other checks still run
            self.failed.append(name)
            where = "" if isinstance(e, Failed) else f"\n{traceback.format_exc()}"
            print(f"FAIL  {name}: {e}{where}", flush=True)
        else:
            self.passed += 1
            print(f"ok    {name} ({time.monotonic() - start:.1f} s)", flush=True)


class Failed(Exception):
    """A check has failed."""


def equal(name: str, found: object, wanted: object) -> None:
    """Fails unless the two values are equal. The error shows both, shortened."""
    if found != wanted:
        raise Failed(f"{name}: {_short(found)} instead of {_short(wanted)}")


def _short(value: object) -> str:
    if isinstance(value, bytes) and len(value) > 64:
        return f"{len(value)} bytes {value[:32].hex()}.."
    text = repr(value)
    return text if len(text) <= 600 else f"{text[:600]}.."
