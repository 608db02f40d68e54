"""What was checked, and what came of it."""

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Report:
    """Prints each check as it ends."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed: list[str] = []

    def has(self, name: str, require: Callable[[], None]) -> bool:
        """A check that the others of a store need: without it they would only fail for the same reason."""
        failed = len(self.failed)
        with self.check(name):
            require()
        return len(self.failed) == failed

    @contextmanager
    def check(self, name: str) -> Iterator[None]:
        """A check fails if its block raises."""
        start = time.monotonic()
        try:
            yield
        except Exception as e:  # noqa: BLE001: whatever it is, the other checks go on
            self.failed.append(name)
            where = "" if isinstance(e, Failed) else f"\n{traceback.format_exc()}"
            print(f"FAIL  {name}: {e}{where}", flush=True)
        else:
            self.passed += 1
            print(f"ok    {name} ({time.monotonic() - start:.1f} s)", flush=True)


class Failed(Exception):
    """What is not as it should be."""


def equal(what: str, found: object, wanted: object) -> None:
    """Fails with both values, shortened."""
    if found != wanted:
        raise Failed(f"{what}: {_short(found)} instead of {_short(wanted)}")


def _short(value: object) -> str:
    if isinstance(value, bytes) and len(value) > 64:
        return f"{len(value)} bytes {value[:32].hex()}.."
    text = repr(value)
    return text if len(text) <= 600 else f"{text[:600]}.."
