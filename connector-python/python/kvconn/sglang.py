"""For SGLang's hierarchical cache: `KvconnHiCache` keeps its pages in any store of kvconn.

.. code-block:: console

    $ python -m sglang.launch_server --model-path .. --enable-hierarchical-cache --hicache-storage-backend dynamic \
        --hicache-storage-backend-extra-config '{"backend_name":"kvconn","module_path":"kvconn.sglang",
            "class_name":"KvconnHiCache","interface_v1":1,"url":"resp://127.0.0.1:6379"}'

Source of the interface: ``HiCacheStorage`` in SGLang's ``sglang/srt/mem_cache/hicache_storage.py``.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar, cast
from urllib.parse import parse_qs, urlsplit

from kvconn import _kvconn, _libraries, _prometheus, _sglang_hits, _sglang_names
from kvconn._errors import of_open
from kvconn._identity import warn_once
from kvconn._sglang_names import Names
from kvconn._sglang_pages import Batch, Pages

#: The version of SGLang that kvconn was tested with.
_TESTED = "0.5.23"

try:
    from sglang.srt.mem_cache.hicache_storage import HiCacheStorage, PoolHitPolicy, PoolName, PoolTransferResult
except ModuleNotFoundError as e:
    if (e.name or "").split(".")[0] != "sglang":
        raise
    raise ImportError(f"kvconn.sglang needs SGLang: run `pip install sglang=={_TESTED}`") from e
except ImportError as e:
    raise ImportError(f"kvconn.sglang needs SGLang {_TESTED}, or a version with the same storage interface: {e}") from e

__all__ = ["KvconnHiCache"]

logger = logging.getLogger("kvconn.sglang")

try:
    if (_installed := version("sglang").split("+")[0]) != _TESTED:
        logger.warning("kvconn %s was tested with SGLang %s, not with %s", _kvconn.__version__, _TESTED, _installed)
except PackageNotFoundError:
    logger.info("SGLang was imported from a source tree, so its version is not known")

# The keys of the JSON that SGLang reads itself.
_OF_SGLANG = frozenset(
    {
        "backend_name",
        "module_path",
        "class_name",
        "interface_v1",
        "prefetch_threshold",
        "prefetch_timeout_base",
        "prefetch_timeout_per_ki_token",
        "hicache_storage_pass_prefix_keys",
        "tp_lcm_size",
    }
)
_KV = "kv"
_GIB = 1 << 30
Method = TypeVar("Method", bound=Callable[..., Any])


def _or(miss: Callable[..., Any]) -> Callable[[Method], Method]:
    """Makes a method answer with `miss` of its arguments instead of an exception, and log one warning.

    An exception would end one of SGLang's threads.
    """

    def decorate(method: Method) -> Method:
        @functools.wraps(method)
        def guarded(self: KvconnHiCache, *args: Any, **kwargs: Any) -> Any:
            try:
                return method(self, *args, **kwargs)
            except Exception as e:
                warn_once(logger, f"{method.__name__} failed, and SGLang gets no pages from it: {type(e).__name__}: {e}")
                return miss(*args, **kwargs)

        return cast(Method, guarded)

    return decorate


def _none_of(keys: Sequence[str], *_: Any, **__: Any) -> list[bool]:
    return [False] * len(keys)


def _none_of_pools(transfers: Sequence[Any], *_: Any, **__: Any) -> dict[Any, list[bool]]:
    return {transfer.name: [False] * len(transfer.keys or []) for transfer in transfers}


class KvconnHiCache(HiCacheStorage):  # type: ignore[misc]
    """A store of kvconn as SGLang's storage backend.

    SGLang calls from three threads at once, for lookups, reads and writes. Every call ends: a lookup within ``lookup_timeout_ms``, the
    others within the store's timeouts. A call that fails gives no pages.

    `storage_config` is SGLang's ``HiCacheStorageConfig``. Its ``extra_config`` has ``url``, and may have ``revision``, the options of the
    store such as ``namespace``, and ``lookup_timeout_ms``. Raises `InvalidError` for a wrong configuration.
    """

    def __init__(self, storage_config: Any, kwargs: dict[str, Any] | None = None) -> None:
        options = {name: value for name, value in (storage_config.extra_config or {}).items() if name not in _OF_SGLANG}
        self._config = storage_config
        self._url = _text(options, "url")
        if not self._url:
            raise of_open(
                "invalid_option",
                "`url` is missing in --hicache-storage-backend-extra-config",
                'write for example "url":"resp://127.0.0.1:6379"',
            )
        self._revision = _text(options, "revision")
        in_url = parse_qs(urlsplit(self._url).query)
        self._namespace = _text(dict(options), "namespace") or in_url.get("namespace", [""])[-1]
        self._options = options
        self._in_files = options.get("layout", in_url.get("layout", [None])[-1]) == "sglang"
        if self._in_files and self._revision:
            raise of_open(
                "invalid_option",
                "`revision` has no place in the file names of layout=sglang",
                "use a directory or a `namespace` for each revision",
            )
        self._client: Any = None
        self._model = ""
        self._pools: dict[str, tuple[Pages, Names]] = {}
        self._moved = _Moved() if storage_config.enable_storage_metrics else None

    def register_mem_pool_host(self, mem_pool_host: Any) -> None:
        """Takes the KV pool, names its pages and opens the store. Raises `InvalidError` for a wrong option or a pool without pages."""
        super().register_mem_pool_host(mem_pool_host)
        config = self._config
        pages = Pages(mem_pool_host, _KV, one_object=self._in_files)
        if self._in_files:
            names = _sglang_names.of_pool_in_files(config, pages)
        else:
            self._model = _sglang_names.model_of(config, pages, self._namespace, self._revision)
            names = _sglang_names.of_pool(config, pages, self._model)
        self.close()
        self._pools = {_KV: (pages, names)}
        library = _libraries.of_url(self._url, self._options)
        self._client = library.EngineClient(self._url, self._options, engine="sglang", model=names.model, kv_rank=names.rank)
        if config.enable_storage_metrics:
            _prometheus.export_in_engine()
        if self._client.has_secret:
            warn_once(
                logger,
                "SGLang logs its arguments, and the configuration has a secret: use the option's twin for a file "
                "(`password_file`, `secret_access_key_file`), or `${NAME}`",
            )
        logger.info("pages of %d bytes go to the store as `%s`, rank %d", sum(pages.object_bytes), names.model, names.rank)

    def register_mem_host_pool_v2(self, host_pool: Any, host_pool_name: Any) -> None:
        """Takes a pool beside the KV pool, such as the states of a hybrid model. Raises `InvalidError` for a pool without pages."""
        super().register_mem_host_pool_v2(host_pool, host_pool_name)
        name = _plain_name(host_pool_name)
        if name == _KV:
            # SGLang gives the KV pool to `register_mem_pool_host` before.
            return
        pages = Pages(host_pool, name, one_object=self._in_files)
        config = self._config
        if self._in_files:
            names = _sglang_names.of_pool_in_files(config, pages)
        else:
            names = _sglang_names.of_pool(config, pages, self._model)
        if config.is_mla_model and config.tp_size > 1 and name != str(PoolName.MAMBA) and _sglang_names.is_of_each_rank(config, pages):
            warn_once(
                logger,
                f"SGLang writes the pool `{name}` on the first rank only, but each rank needs pages of its own: no prefix will hit. "
                "Use a draft model with MLA, or no draft model",
            )
        self._pools[name] = (pages, names)

    # The interface by addresses.

    @_or(_none_of)
    def batch_get_v1(self, keys: Sequence[str], host_indices: Any, extra_info: Any = None) -> list[bool]:
        """Reads pages into the KV pool. `host_indices` has one index a token. True for each page that was read whole."""
        return self._load(_KV, keys, host_indices)

    @_or(_none_of)
    def batch_set_v1(self, keys: Sequence[str], host_indices: Any, extra_info: Any = None) -> list[bool]:
        """Writes pages of the KV pool. `host_indices` has one index a token. True for each page that the store has taken whole."""
        return self._store(_KV, keys, host_indices)

    @_or(lambda *_, **__: 0)
    def batch_exists(self, keys: Sequence[str], extra_info: Any = None) -> int:
        """The number of pages from the start that the store has. 0 if it does not answer in time."""
        client = self._opened()
        pages, names = self._pools[_KV]
        if pages.logical or not keys:
            return 0
        return int(client.contains(names.keys(keys))) // names.objects

    # The interface for several pools.

    @_or(_none_of_pools)
    def batch_get_v2(self, transfers: Sequence[Any], extra_info: Any = None) -> dict[Any, list[bool]]:
        """Reads pages into pools. By pool, True for each page that was read whole."""
        return {one.name: self._load(_plain_name(one.name), one.keys or [], one.host_indices) for one in transfers}

    @_or(_none_of_pools)
    def batch_set_v2(self, transfers: Sequence[Any], extra_info: Any = None) -> dict[Any, list[bool]]:
        """Writes pages of pools. By pool, True for each page that the store has taken whole."""
        return {one.name: self._store(_plain_name(one.name), one.keys or [], one.host_indices) for one in transfers}

    @_or(lambda *_, **__: PoolTransferResult.empty())
    def batch_exists_v2(self, keys: Sequence[str], pool_transfers: Sequence[Any] | None = None, extra_info: Any = None) -> Any:
        """Which prefixes of `keys` the KV pool and every other pool can restore, by the pool's policy. Asks the store twice at most."""
        if not pool_transfers:
            found = self.batch_exists(keys, extra_info)
            return PoolTransferResult(found, {PoolName.KV: found} if found else {}, list(range(1, found + 1)))
        self._opened()
        # Without memory of its own, the KV pool allows every prefix, and the other pools decide.
        kv = len(keys) if self._pools[_KV][0].logical else self.batch_exists(keys, extra_info)
        if not kv:
            return PoolTransferResult(0, {}, [])
        hits: dict[Any, int] = {PoolName.KV: kv}
        restorable = set(range(1, kv + 1))
        for transfer, present in zip(pool_transfers, self._present(keys[:kv], pool_transfers), strict=True):
            if transfer.hit_policy == PoolHitPolicy.BLOCK_GROUPS:
                hits[transfer.name] = min(_sglang_hits.block_groups(present, transfer.group_pages, transfer.block_pages), len(keys))
                continue
            if transfer.hit_policy == PoolHitPolicy.ALL_PAGES:
                prefixes = _sglang_hits.all_pages(present)
            elif transfer.hit_policy == PoolHitPolicy.TRAILING_PAGES:
                prefixes = _sglang_hits.trailing_pages(present, max(1, len(transfer.keys or ())))
            else:
                raise ValueError(f"kvconn does not know the hit policy {transfer.hit_policy!r} of the pool `{transfer.name}`")
            if prefixes:
                hits[transfer.name] = max(prefixes)
            restorable &= prefixes
        return PoolTransferResult(max(restorable, default=0), hits, sorted(restorable))

    # The old interface, by tensors of whole pages.

    def get(self, key: str, target_location: Any = None, target_sizes: Any = None) -> Any:
        """Reads a page into a tensor of main memory and gives it. None if the store does not have it."""
        return self.batch_get([key], [target_location])[0]

    @_or(lambda keys, *_, **__: [None] * len(keys))
    def batch_get(self, keys: Sequence[str], target_locations: Any = None, target_sizes: Any = None) -> list[Any]:
        """Reads pages into tensors of main memory, and gives for each key the tensor or None."""
        self._opened()
        pages, _ = self._pools[_KV]
        targets = list(target_locations or [None] * len(keys))
        targets = [pages.pool.get_dummy_flat_data_page() if target is None else target for target in targets]
        loaded = self._move(_KV, keys, pages.in_tensors(targets), "load")
        return [target if ok else None for target, ok in zip(targets, loaded, strict=True)]

    def set(self, key: str, value: Any = None, target_location: Any = None, target_sizes: Any = None) -> bool:
        """Writes a page from a tensor of main memory."""
        return self.batch_set([key], [target_location if value is None else value])

    @_or(lambda *_, **__: False)
    def batch_set(self, keys: Sequence[str], values: Any = None, target_locations: Any = None, target_sizes: Any = None) -> bool:
        """Writes pages from tensors of main memory. True if the store has taken all."""
        self._opened()
        pages, _ = self._pools[_KV]
        tensors = [tensor.contiguous() for tensor in (target_locations if values is None else values)]
        return self._skips(pages) or all(self._move(_KV, keys, pages.in_tensors(tensors), "store"))

    def exists(self, key: str) -> bool:
        """Whether the store has the page."""
        return self.batch_exists([key]) == 1

    # The rest.

    def clear(self) -> bool:
        """Removes the pages of this configuration, of all its ranks, and nothing else. False if the store failed."""
        try:
            removed = self._opened().clear()
        except Exception as e:
            logger.error("the store was not cleared: %s", e)
            return False
        logger.info("%d objects were removed from the store", removed)
        return True

    def get_stats(self) -> Any:
        """The reads and writes since the last call, in pages and GiB a second, as SGLang's ``StorageMetrics``. None without metrics."""
        return self._moved.take() if self._moved else None

    def close(self) -> None:
        """Closes the store. The calls after that find nothing."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _opened(self) -> Any:
        """The client of the open store. Raises `ClosedError` without one."""
        client = self._client
        if client is None:
            raise of_open("closed", "the store is not open", "SGLang opens it with `register_mem_pool_host`")
        return client

    def _load(self, name: str, keys: Sequence[str], indices: Any) -> list[bool]:
        pages = self._pages(name, keys)
        if pages is None:
            return _none_of(keys)
        if pages.logical:
            return [True] * len(keys)
        batch = pages.in_pool(indices, len(keys), load=True)
        loaded = self._move(name, keys, batch, "load")
        if batch is not None:
            pages.put_back(batch, indices, loaded)
        return loaded

    def _store(self, name: str, keys: Sequence[str], indices: Any) -> list[bool]:
        pages = self._pages(name, keys)
        if pages is None:
            return _none_of(keys)
        if pages.logical or self._skips(pages):
            return [True] * len(keys)
        return self._move(name, keys, pages.in_pool(indices, len(keys), load=False), "store")

    def _skips(self, pages: Pages) -> bool:
        """Whether another rank writes the pages for this one."""
        return not (self._config.is_storage_writer or _sglang_names.is_of_each_rank(self._config, pages))

    def _pages(self, name: str, keys: Sequence[str]) -> Pages | None:
        if not keys:
            return None
        if name not in self._pools:
            warn_once(logger, f"SGLang has not registered the pool `{name}`, so none of its pages can move")
            return None
        return self._pools[name][0]

    def _move(self, name: str, keys: Sequence[str], batch: Batch | None, call: str) -> list[bool]:
        """Stores or loads whole pages. `batch` is None if SGLang's memory does not fit the keys: then all are False."""
        if not keys:
            return []
        if batch is None:
            warn_once(logger, f"a {call} of `{name}` has memory of another size than its pages, so no page moves")
            return _none_of(keys)
        names = self._pools[name][1]
        start = time.monotonic()
        done = getattr(self._opened(), call)(
            names.keys(keys), pointers=batch.pointers, sizes=batch.sizes, owner=batch.owner
        )
        whole = [all(done[at : at + names.objects]) for at in range(0, len(done), names.objects)]
        if self._moved and any(whole):
            page_bytes = sum(self._pools[name][0].object_bytes)
            self._moved.add(call, sum(whole), sum(whole) * page_bytes, time.monotonic() - start)
        return whole

    def _present(self, keys: Sequence[str], transfers: Sequence[Any]) -> list[list[bool]]:
        """For each pool, whether the store has each of its pages. One lookup serves all pools."""
        asked: list[str] = []
        for transfer in transfers:
            if (pool := self._pools.get(_plain_name(transfer.name))) is not None:
                of_blocks = transfer.hit_policy == PoolHitPolicy.BLOCK_GROUPS
                asked += pool[1].keys((transfer.keys or ()) if of_blocks else keys)
        answers = iter(self._opened().lookup(asked) if asked else ())
        found = []
        for transfer in transfers:
            pool = self._pools.get(_plain_name(transfer.name))
            of_blocks = transfer.hit_policy == PoolHitPolicy.BLOCK_GROUPS
            pages = len(transfer.keys or ()) if of_blocks else len(keys)
            objects = pool[1].objects if pool else 0
            found.append([bool(objects) and all([next(answers) for _ in range(objects)]) for _ in range(pages)])
        return found


class _Moved:
    """The reads and writes since the last `get_stats`, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[str, list[tuple[int, float]]] = {"load": [], "store": []}

    def add(self, call: str, pages: int, size: int, seconds: float) -> None:
        """Adds a call that moved `pages` pages, of `size` bytes together."""
        with self._lock:
            self._calls[call].append((pages, size / _GIB / max(seconds, 1e-9)))

    def take(self) -> Any:
        """Gives SGLang's ``StorageMetrics`` of the calls, and forgets the calls."""
        from sglang.srt.observability.metrics_collector import StorageMetrics

        with self._lock:
            calls, self._calls = self._calls, {"load": [], "store": []}
        metrics = StorageMetrics()
        for pages, speed in calls["load"]:
            metrics.prefetch_pgs.append(pages)
            metrics.prefetch_bandwidth.append(speed)
        for pages, speed in calls["store"]:
            metrics.backup_pgs.append(pages)
            metrics.backup_bandwidth.append(speed)
        return metrics


def _text(options: dict[str, Any], name: str) -> str:
    """Removes a text option from `options` and gives its value. Empty if it is not set."""
    value = options.pop(name, None)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise of_open("invalid_option", f"`{name}` is {type(value).__name__}, not text", "write it in quotes")
    return value


def _plain_name(name: Any) -> str:
    return str(getattr(name, "value", name))


def __getattr__(name: str) -> Any:
    """Names the class to a user of another name: SGLang shows this error as it is."""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
