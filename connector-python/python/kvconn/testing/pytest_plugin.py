"""Fixtures for pytest: a store in memory, new and empty for each test.

Write this in a ``conftest.py``::

    pytest_plugins = ["kvconn.testing.pytest_plugin"]

and a test takes a fixture by its name::

    def test_it(memory_store):
        memory_store.put(key, b"hello")

kvconn does not register the plugin by itself, because each run of pytest would then load kvconn.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

import kvconn

_number = count()


@pytest.fixture
def memory_store_url() -> str:
    """The URL of an empty store in memory, which every store of this process with this URL shares."""
    return f"memory://kvconn-testing-{next(_number)}"


@pytest.fixture
def memory_store(memory_store_url: str) -> Iterator[kvconn.Store]:
    """An empty `kvconn.Store` in memory. It is closed after the test."""
    with kvconn.connect(memory_store_url) as store:
        yield store


@pytest.fixture
def async_memory_store(memory_store: kvconn.Store) -> kvconn.AsyncStore:
    """The store of ``memory_store``, as a `kvconn.AsyncStore`. It works with pytest-asyncio, anyio and ``asyncio.run``."""
    return memory_store.aio
