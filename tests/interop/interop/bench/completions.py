"""Calls of LMCache's native interface, which LMCache's C++ clients and kvconn's share."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from typing import Protocol

TIMEOUT_S = 120
Completion = tuple[int, bool, str, list[bool] | None]
"""The call, whether it succeeded, its error, and which keys it found."""


class Client(Protocol):
    """The part of the interface that every measurement needs. A `submit_..` gives the call's number."""

    submit_batch_get: Callable[..., int]
    submit_batch_set: Callable[..., int]
    submit_batch_exists: Callable[..., int]

    def event_fd(self) -> int:
        """Readable once a call has ended."""
        ...

    def drain_completions(self) -> list[Completion]:
        """The results of the calls that have ended."""
        ...

    def close(self) -> None:
        """Closes the connections."""
        ...


class Waiter:
    """Makes one call at a time and waits for the eventfd, as LMCache's adapter does."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.held = 0.0
        """Seconds inside of the client's methods so far."""

    def do(self, submit: Callable[..., int], *args: object) -> list[bool]:
        """Waits for the result of one call."""
        start = time.perf_counter()
        call = submit(*args)
        self.held += time.perf_counter() - start
        while True:
            if not select.select([self.client.event_fd()], [], [], TIMEOUT_S)[0]:
                raise TimeoutError(f"the client did not answer within {TIMEOUT_S} s")
            start = time.perf_counter()
            drained = self.client.drain_completions()
            self.held += time.perf_counter() - start
            for done, ok, error, bools in drained:
                if not ok:
                    raise RuntimeError(error)
                if done == call:
                    return bools or []


class Blocking:
    """The base of the clients that are written in Python: each call has ended when its `submit_..` returns."""

    def __init__(self) -> None:
        self._event = os.eventfd(0, os.EFD_NONBLOCK)
        self._done: list[Completion] = []

    def event_fd(self) -> int:
        """Readable once a call has ended."""
        return self._event

    def drain_completions(self) -> list[Completion]:
        """The results of the calls."""
        os.eventfd_read(self._event)
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        """Closes the descriptor."""
        os.close(self._event)

    def ended(self, found: list[bool] | None) -> int:
        """Completes the call."""
        self._done.append((0, True, "", found))
        os.eventfd_write(self._event, 1)
        return 0
