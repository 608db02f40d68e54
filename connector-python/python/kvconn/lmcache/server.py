"""For LMCache's server: `KvconnL2Adapter` keeps its chunks in any store of kvconn."""

from __future__ import annotations

import itertools
import logging
import os
import select
import threading
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from kvconn import _libraries, _prometheus
from kvconn._errors import KvconnError
from kvconn._identity import is_local_path, warn_once
from kvconn._version import LMCACHE_FROM, check_version
from kvconn.lmcache import hash_seed, params

try:
    check_version(version("lmcache"))
except PackageNotFoundError:
    pass  # A source tree on the path has no version.
try:
    from lmcache.lmcache_native import Bitmap
    from lmcache.v1.distributed.api import KeyEntry, KeyListPage, ObjectKey
    from lmcache.v1.distributed.internal_api import L2AdapterListener, L2StoreResult
    from lmcache.v1.distributed.l2_adapters.base import AdapterUsage, L2AdapterInterface

    from kvconn.lmcache.object_keys import after_of, cursor_of, key_of, text_of
except ImportError as e:
    if e.name == "lmcache":
        raise ImportError("kvconn's KvconnL2Adapter needs LMCache: run `pip install lmcache`") from e
    raise ImportError(
        f"kvconn's KvconnL2Adapter does not find the L2 adapters of LMCache's server ({e}): "
        f"use LMCache {'.'.join(map(str, LMCACHE_FROM))} or newer, `pip install -U lmcache`"
    ) from e

if TYPE_CHECKING:
    from lmcache.v1.distributed.api import MemoryLayoutDesc
    from lmcache.v1.memory_management import MemoryObj

__all__ = ["KvconnL2Adapter"]

logger = logging.getLogger("kvconn.lmcache")

_GIB = 1 << 30
#: How long the adapter's thread sleeps at most, in milliseconds.
_TICK_MS = 1000
#: Keys that LMCache's eviction gets at once. It holds its lock meanwhile.
_FOUND_AT_ONCE = 5000
#: Keys that one call removes, so that an error leaves the others counted.
_REMOVED_AT_ONCE = 1000
#: Least time between two log lines about failures of one kind, in seconds.
_LOG_EVERY_S = 60.0


class KvconnL2Adapter(L2AdapterInterface):  # type: ignore[misc]
    """A store of kvconn as an L2 adapter of LMCache's server.

    ``adapter_params`` has:

    - ``url`` (required): the store.
    - ``max_capacity_gb`` (default 0: no bound): GiB that the store may hold before LMCache's ``eviction`` removes chunks.
    - ``usage_interval_min`` (default 30): minutes between two listings of the store. 0 lists it only at the start.
    - ``quota_grace_s`` (default 60): seconds after the start in which LMCache's quotas do not remove chunks that were there before.
      LMCache forgets its quotas when it ends, and removes all chunks of a salt without a quota.
    - ``lookup_timeout_ms``, ``store_backlog`` and all options of the store, as in its URL.

    Chunks have the names and the bytes of LMCache's own ``resp`` and ``fs`` adapters, and of ``native_plugin``.
    """

    def __init__(self, adapter_params: Mapping[str, Any], l1_memory_desc: object = None) -> None:
        """Opens the store. A store that is down is a warning, and a later call connects.

        Raises `kvconn.InvalidError` for a missing ``url`` and for a wrong value.
        """
        own, url, options = params.read(adapter_params)
        super().__init__(max_capacity_bytes=int(own.max_capacity_gb * _GIB))
        hash_seed.warn_in_server()
        # The library of another wheel, if that wheel has the store.
        library = _libraries.of_url(url, options)
        self._client = library.EngineClient(url, options, engine="lmcache")
        _prometheus.export_in_engine()
        if self._client.has_secret:
            warn_once(
                logger,
                "`adapter_params` has a secret, and LMCache logs `adapter_params`: use the option's twin for a file "
                "(`password_file`, `secret_access_key_file`), or write `${NAME}` for the environment variable NAME",
            )
        try:
            self._usage = library.EngineUsage(self._client, interval_s=own.usage_interval_min * 60)
        except BaseException:
            self._client.close()
            raise
        self._quota_grace_ends = time.monotonic() + own.quota_grace_s
        self._tasks = itertools.count(1)
        self._models: set[str] = set()
        # Guards everything below.
        self._lock = threading.Lock()
        self._storing: dict[int, tuple[list[ObjectKey], list[str], list[int]]] = {}
        # The keys, and those that a `delete` was removing when they were locked.
        self._asking: dict[int, tuple[list[ObjectKey], set[ObjectKey]]] = {}
        self._loading: dict[int, list[ObjectKey]] = {}
        self._stored: dict[int, L2StoreResult] = {}
        self._found: dict[int, Bitmap] = {}
        self._loaded: dict[int, Bitmap] = {}
        self._locks: dict[ObjectKey, int] = {}
        self._deleting: set[ObjectKey] = set()
        # Keys that this process stored before LMCache's eviction had the older ones, in the order of eviction. None after that.
        self._newer: dict[ObjectKey, None] | None = {}
        self._has_told = False
        self._logged: dict[str, tuple[float, int]] = {}
        self._is_closed = False
        flags = os.EFD_NONBLOCK | os.EFD_CLOEXEC
        # Not the client's: LMCache clears a descriptor before it asks for results, and asks for one task at a time.
        self._store_fd, self._lookup_fd, self._load_fd, self._stop_fd = (os.eventfd(0, flags) for _ in range(4))
        self._thread = threading.Thread(target=self._run, name="kvconn-l2-adapter", daemon=True)
        self._thread.start()

    def get_store_event_fd(self) -> int:
        """The descriptor that is readable when a store has ended."""
        return self._store_fd

    def get_lookup_and_lock_event_fd(self) -> int:
        """The descriptor that is readable when a lookup has ended."""
        return self._lookup_fd

    def get_load_event_fd(self) -> int:
        """The descriptor that is readable when a load has ended."""
        return self._load_fd

    def submit_store_task(self, keys: list[ObjectKey], objects: list[MemoryObj]) -> int:
        """Stores each object's bytes. The task succeeds if all of them were stored."""
        for model in {key.model_name for key in keys} - self._models:
            self._models.add(model)
            if is_local_path(model):
                warn_once(
                    logger,
                    f"the model {model!r} is a local path, which does not say which weights are there: give each set of weights its own "
                    "`namespace` in `adapter_params`",
                )
        task, texts = next(self._tasks), [text_of(key) for key in keys]
        memory, sizes = _memory(objects)
        with self._lock:
            self._storing[task] = (list(keys), texts, sizes)
        try:
            self._client.submit_store(task, texts, **memory)
        except BaseException:
            with self._lock:
                del self._storing[task]
            raise
        return task

    def pop_completed_store_tasks(self) -> dict[int, L2StoreResult]:
        """The results of the stores that have ended since the last call."""
        with self._lock:
            stored, self._stored = self._stored, {}
        return stored

    def submit_lookup_and_lock_task(self, keys: list[ObjectKey], group_layout_descs: dict[int, MemoryLayoutDesc]) -> int:
        """Asks which chunks are there. `delete` keeps those chunks until `submit_unlock`.

        The store's own eviction ignores these locks, so a chunk may still vanish. Its load is then a miss.
        """
        task, texts = next(self._tasks), [text_of(key) for key in keys]
        with self._lock:
            self._asking[task] = (list(keys), self._deleting.intersection(keys))
            # Before the answer, so that no chunk is deleted between the answer and its lock.
            for key in keys:
                self._locks[key] = self._locks.get(key, 0) + 1
        try:
            self._client.submit_lookup(task, texts)
        except BaseException:
            with self._lock:
                del self._asking[task]
            self.submit_unlock(keys)
            raise
        return task

    def query_lookup_and_lock_result(self, task_id: int) -> Bitmap | None:
        """The chunks that are there and are now locked. Gives them once. None before the end of the lookup."""
        with self._lock:
            return self._found.pop(task_id, None)

    def submit_unlock(self, keys: list[ObjectKey]) -> None:
        """Takes one lock from each key."""
        with self._lock:
            for key in keys:
                count = self._locks.pop(key, 0)
                if count > 1:
                    self._locks[key] = count - 1

    def submit_load_task(self, keys: list[ObjectKey], objects: list[MemoryObj]) -> int:
        """Loads each chunk into its object. A chunk of another size than its object is a miss."""
        task, texts = next(self._tasks), [text_of(key) for key in keys]
        memory, _ = _memory(objects)
        with self._lock:
            self._loading[task] = list(keys)
        try:
            self._client.submit_load(task, texts, **memory)
        except BaseException:
            with self._lock:
                del self._loading[task]
            raise
        return task

    def query_load_result(self, task_id: int) -> Bitmap | None:
        """The chunks that were loaded. Gives them once. None before the end of the load."""
        with self._lock:
            return self._loaded.pop(task_id, None)

    def register_listener(self, listener: L2AdapterListener) -> None:
        """Adds a listener, such as LMCache's eviction. It also learns of the chunks that a listing of the store finds."""
        super().register_listener(listener)
        self._usage.keep_found()

    def delete(self, keys: list[ObjectKey]) -> None:
        """Removes the chunks that are not locked. Waits for the store. A failure is logged, and LMCache's eviction tries again."""
        for first in range(0, len(keys), _REMOVED_AT_ONCE):
            with self._lock:
                # A prefetch may have locked chunks while the parts before were removed.
                part = [key for key in keys[first : first + _REMOVED_AT_ONCE] if key not in self._locks]
                self._deleting.update(part)
            texts = [text_of(key) for key in part]
            try:
                removed = self._client.remove(texts) if texts else []
            except KvconnError as e:
                self._complain("removals", f"{len(keys) - first} chunks were not removed: {e}")
                return
            finally:
                with self._lock:
                    self._deleting.difference_update(part)
            known = self._usage.removed(texts)
            # LMCache's eviction must also drop the key of a chunk that the store evicted before.
            gone = [key for key, was_there, was_known in zip(part, removed, known) if was_there or was_known]
            with self._lock:
                newer = self._newer or {}
                for key in gone:
                    newer.pop(key, None)
            if gone:
                # `get_usage` does not use the base's count of bytes.
                self._notify_keys_deleted(gone, [0] * len(gone))

    def list_l2_keys(self, model_name: str | None = None, page_size: int = 500, cursor: str | None = None) -> KeyListPage:
        """A page of the chunks in the store, in the order of their names, with their sizes in bytes (0 if unknown).

        One listing of the store serves up to 128 pages within a minute. Raises `ValueError` for a page size below 1 or
        a cursor that is not from a page, and `kvconn.KvconnError` if the store does not answer.
        """
        if page_size < 1:
            raise ValueError(f"page_size is {page_size}; give 1 or more")
        after = None if cursor is None else after_of(cursor)
        prefix = "" if model_name is None else f"{model_name}@"
        entries, after = self._usage.page(prefix, after, page_size)
        page = tuple(KeyEntry(key_of(text).to_encoded_object_key(), size or 0) for text, size in entries)
        return KeyListPage(page, None if after is None else cursor_of(after))

    def get_usage(self) -> AdapterUsage:
        """The bytes that the store holds, by salt. `report_status` says how old the listing behind them is."""
        total, by_salt = self._usage.totals()
        return AdapterUsage(total, self._max_capacity_bytes, MappingProxyType(by_salt))

    def report_status(self) -> dict[str, Any]:
        """The state of the store (``ok``, ``lost``, ``closed``), the calls under way, and the listing behind the usage."""
        state = self._client.state()
        with self._lock:
            locked, lookups = len(self._locks), len(self._asking)
            stores, loads = len(self._storing), len(self._loading)
        return {
            "is_healthy": state == "ok" and self._thread.is_alive(),
            "type": "kvconn",
            "state": state,
            "store": self._client.name,
            "shared": self._shared,
            "stores_under_way": stores,
            "lookups_under_way": lookups,
            "loads_under_way": loads,
            "locked_keys": locked,
            "bytes_used": self._usage.totals()[0],
            "bytes_capacity": self._max_capacity_bytes,
            "listing": self._usage.report(),
            "counters": self._client.stats(),
        }

    def close(self) -> None:
        """Ends all calls and closes the store. Nothing touches LMCache's memory afterwards. Twice is fine.

        Logs an error of the store's own close. LMCache would leave its other adapters open.
        """
        with self._lock:
            was_closed, self._is_closed = self._is_closed, True
        if was_closed:
            return
        self._usage.close()
        try:
            self._client.close()
        except KvconnError as e:
            logger.error("the store failed to close: %s", e)
        finally:
            os.eventfd_write(self._stop_fd, 1)
            self._thread.join()
            for fd in (self._store_fd, self._lookup_fd, self._load_fd, self._stop_fd):
                os.close(fd)

    def _run(self) -> None:
        """Delivers results until `close`."""
        drains = {
            self._client.store_fd(): self._drain_stores,
            self._client.lookup_fd(): self._drain_lookups,
            self._client.load_fd(): self._drain_loads,
        }
        poller = select.poll()
        for fd in [*drains, self._stop_fd]:
            poller.register(fd, select.POLLIN)
        is_open = True
        while is_open:
            ready = [fd for fd, _ in poller.poll(_TICK_MS)]
            is_open = self._stop_fd not in ready
            for step in [*(drains[fd] for fd in ready if fd in drains), self._tell_found]:
                try:
                    step()
                except Exception:  # A listener of LMCache may raise. The thread must continue.
                    logger.exception("the adapter's thread continues after an error")

    def _drain_stores(self) -> None:
        for task, yes, error, _, _ in self._client.drain_stores():
            with self._lock:
                keys, texts, sizes = self._storing.pop(task)
            done = [i for i, stored in enumerate(yes) if stored]
            stored_sizes = [sizes[i] for i in done]
            try:
                if done:
                    self._usage.stored([texts[i] for i in done], stored_sizes)
                    stored_keys = [keys[i] for i in done]
                    with self._lock:
                        if (newer := self._newer) is not None and self._listeners:
                            # As LMCache's LRU: the last key of a list is evicted first.
                            for key in reversed(stored_keys):
                                newer.pop(key, None)
                                newer[key] = None
                    self._notify_keys_stored(stored_keys, stored_sizes)
            except Exception:  # A listener of LMCache may raise. The other results of this drain must not be lost.
                logger.exception("LMCache did not count %d chunks that were stored", len(done))
            with self._lock:
                self._stored[task] = L2StoreResult(len(done) == len(keys), sum(stored_sizes))
            os.eventfd_write(self._store_fd, 1)
            if error is not None:
                self._complain("stores", f"{len(keys) - len(done)} of {len(keys)} chunks were not stored: {error}")

    def _drain_lookups(self) -> None:
        for task, yes, error, _, _ in self._client.drain_lookups():
            with self._lock:
                keys, deleted = self._asking.pop(task)
            yes = bytes(is_there and key not in deleted for key, is_there in zip(keys, yes))
            found = _bitmap(yes)
            self.submit_unlock([key for key, is_there in zip(keys, yes) if not is_there])
            with self._lock:
                self._found[task] = found
            os.eventfd_write(self._lookup_fd, 1)
            if error is not None:
                self._complain("lookups", f"a lookup of {len(keys)} chunks counts as a miss: {error}")

    def _drain_loads(self) -> None:
        for task, yes, error, _, _ in self._client.drain_loads():
            with self._lock:
                keys = self._loading.pop(task)
            try:
                loaded = [key for key, is_there in zip(keys, yes) if is_there]
                if loaded:
                    self._notify_keys_accessed(loaded)
            except Exception:  # As in `_drain_stores`.
                logger.exception("LMCache did not count the use of %d chunks that were loaded", sum(yes))
            with self._lock:
                self._loaded[task] = _bitmap(yes)
            os.eventfd_write(self._load_fd, 1)
            if error is not None:
                self._complain("loads", f"{len(keys) - sum(yes)} of {len(keys)} chunks were not loaded: {error}")

    def _tell_found(self) -> None:
        """Passes chunks from before the start, or from other processes, to LMCache's eviction."""
        if not self._listeners or (time.monotonic() < self._quota_grace_ends and any(map(_isolates, self._listeners))):
            return
        found = self._usage.take_found(_FOUND_AT_ONCE)
        if found:
            # LMCache takes the last key of a list for the first one to evict.
            keys, sizes = [key_of(text) for text, _ in reversed(found)], [size for _, size in reversed(found)]
            # Only to the eviction, not as an event on LMCache's bus, because these chunks were stored before.
            self._has_told = True
            for listener in self._listeners:
                listener.on_l2_keys_stored(keys, sizes)
        elif self._newer is not None and self._usage.report()["state"] in ("done", "unsupported"):
            with self._lock:
                newer, self._newer = [*reversed(self._newer)], None
            for listener in self._listeners if self._has_told else ():
                listener.on_l2_keys_accessed(newer)

    def _complain(self, kind: str, message: str) -> None:
        """Logs at most one warning a minute about failures of one kind."""
        now = time.monotonic()
        with self._lock:
            last, untold = self._logged.get(kind, (-_LOG_EVERY_S, 0))
            is_due = now - last >= _LOG_EVERY_S
            self._logged[kind] = (now, 0) if is_due else (last, untold + 1)
        if is_due:
            logger.warning("%s%s", message, f" ({untold} more failures since the last message)" if untold else "")


def _isolates(listener: L2AdapterListener) -> bool:
    """Whether LMCache bounds each salt by a quota (``IsolatedLRU``)."""
    return bool(getattr(getattr(listener, "policy", None), "support_isolation", False))


def _memory(objects: Sequence[MemoryObj]) -> tuple[dict[str, Any], list[int]]:
    """The objects' memory as arguments of a submit, and the bytes of each object."""
    owner = list(objects)
    try:
        sizes = [obj.get_size() for obj in owner]
        return {"pointers": [obj.data_ptr for obj in owner], "sizes": sizes, "owner": owner}, sizes
    except (AttributeError, TypeError):
        # Objects over Python's `bytes` have no address.
        buffers = [memoryview(obj.byte_array) for obj in owner]
        return {"buffers": buffers, "owner": owner}, [buffer.nbytes for buffer in buffers]


def _bitmap(yes: bytes) -> Bitmap:
    bitmap = Bitmap(len(yes))
    for i, is_set in enumerate(yes):
        if is_set:
            bitmap.set(i)
    return bitmap
