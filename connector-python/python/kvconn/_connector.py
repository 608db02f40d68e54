"""The base of all connector classes: LMCache's ``RemoteConnector`` over a store in Rust.

Imports LMCache; nothing that works without LMCache imports this.
"""

from __future__ import annotations

import asyncio
import json
import logging
import weakref
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

from kvconn import _kvconn, _libraries
from kvconn._errors import InvalidError, KvconnError

logger = logging.getLogger("kvconn.lmcache")

#: The first LMCache whose connectors look like this, and the first that was not tried.
LMCACHE_FROM = (0, 5)
LMCACHE_BEFORE = (0, 6)


def check_version(found: str) -> None:
    """Refuses an LMCache that is too old, and warns of one that is newer than all that were tried."""
    digits = [part for part in found.split(".")[:2] if part.isdigit()]
    installed = tuple(int(part) for part in digits)
    first, last = (".".join(map(str, limit)) for limit in (LMCACHE_FROM, LMCACHE_BEFORE))
    if installed < LMCACHE_FROM:
        raise KvconnError(
            f"kvconn {_kvconn.__version__} needs LMCache {first} or newer, not {found} (run `pip install -U lmcache`)",
            kind="unsupported",
            operation="open",
            hint="run `pip install -U lmcache`",
        )
    if installed >= LMCACHE_BEFORE:
        logger.warning("kvconn %s was tested with LMCache before %s, not with %s", _kvconn.__version__, last, found)


try:
    from lmcache.utils import CacheEngineKey
    from lmcache.v1.config import LMCacheEngineConfig
    from lmcache.v1.memory_management import MemoryObj
    from lmcache.v1.metadata import LMCacheMetadata
    from lmcache.v1.storage_backend.connector.base_connector import RemoteConnector
except ModuleNotFoundError as e:
    if (e.name or "").split(".")[0] != "lmcache":
        raise
    try:
        check_version(version("lmcache"))
    except PackageNotFoundError:
        raise ImportError("the connector classes of kvconn are LMCache's: run `pip install lmcache`") from e
    raise
try:
    check_version(version("lmcache"))
except PackageNotFoundError:
    # A source tree on the path: nothing says which version it is.
    logger.info("LMCache is imported, but not installed: its version is not known")

#: What connectors read of LMCache's configuration.
_SETTINGS = (
    "chunk_size",
    "max_local_cpu_size",
    "remote_url",
    "remote_serde",
    "use_layerwise",
    "save_unfull_chunk",
    "blocking_timeout_secs",
    "audit_actual_remote_url",
    "remote_storage_plugins",
    "extra_config",
)
_PLUGIN = "remote_storage_plugin.%s."
#: Whether LMCache asks for a single chunk on the thread that wants to know, or on its event loop. In ``extra_config``.
_EXISTS_SYNC = "use_exists_sync"


class KvconnConnector(RemoteConnector):
    """A store of kvconn's, as LMCache calls it: as ``external://`` does, with ``loop``, ``local_cpu_backend``, ``config``.

    Which store, the configuration says: its ``remote_url``, or, if LMCache opens this class behind ``audit://`` or as a
    plugin, what stands there. `open` is for those who know the URL.
    """

    #: Module and name in the registry; None for a class that opens any URL.
    entry: tuple[str, str] | None = None
    #: The library whose registry has the entry.
    _library: ModuleType = _kvconn

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop | None = None,
        local_cpu_backend: Any = None,
        config: LMCacheEngineConfig | None = None,
    ) -> None:
        if config is None:
            config = getattr(local_cpu_backend, "config", None)
        url, plugin = self._find_url(config)
        self._open(url, loop, local_cpu_backend, config, None, plugin)
        own = type(self)
        # A subclass may ask in a way of its own.
        if (own.exists, own.exists_sync) == (KvconnConnector.exists, KvconnConnector.exists_sync):
            ask_without_loop(config, url)

    @classmethod
    def open(
        cls,
        url: str,
        loop: asyncio.AbstractEventLoop | None = None,
        local_cpu_backend: Any = None,
        config: LMCacheEngineConfig | None = None,
        metadata: LMCacheMetadata | None = None,
        plugin_name: str | None = None,
    ) -> KvconnConnector:
        """The connector of ``url``, whatever the configuration names."""
        self = cls.__new__(cls)
        self._open(url, loop, local_cpu_backend, config, metadata, plugin_name)
        return self

    def _open(
        self,
        url: str,
        loop: asyncio.AbstractEventLoop | None,
        backend: Any,
        config: LMCacheEngineConfig | None,
        metadata: LMCacheMetadata | None,
        plugin_name: str | None,
    ) -> None:
        try:
            # The scheduler has a stub of a backend, with nothing in it: it only asks what exists.
            has_memory = getattr(backend, "memory_allocator", None) is not None
            if metadata is None:
                metadata = getattr(backend, "metadata", None)
            if has_memory and config is not None and metadata is not None:
                super().__init__(config, metadata)
            self.loop = loop
            self.local_cpu_backend = backend
            # The class's own library may lack a store that stands behind this one.
            library = _libraries.of_url(*self._named(url, config, plugin_name))
            self._remote = library.LMCacheRemote(
                url, backend if has_memory else None, _settings(config), _metadata(metadata), plugin_name
            )
        except AttributeError as e:
            # LMCache would say that there is no such class.
            raise RuntimeError(f"kvconn does not understand this LMCache: {e}") from e

    def _named(self, url: str, config: LMCacheEngineConfig | None, plugin: str | None) -> tuple[str, dict[str, Any]]:
        """The URL that says whose store it is, and the options beside it."""
        options = _plugin_options(config, plugin)
        if plugin is not None:
            url = options.get("url", url)
        if self.entry is not None and url.startswith("plugin://"):
            url = "external://localhost:0/{}/?connector_name={}".format(*self.entry)
        # LMCache's own keys for options: `audit_actual_remote_url`, `tiered_connector_back`.
        store = _libraries.module_of(url).rpartition(".")[2] or url.partition("://")[0]
        extra = {**((config and config.extra_config) or {}), "audit_actual_remote_url": config and config.audit_actual_remote_url}
        beside = {key: value for key, value in extra.items() if key.startswith(store + "_")}
        return url, beside | options

    def _find_url(self, config: LMCacheEngineConfig | None) -> tuple[str, str | None]:
        """The URL that the configuration has for this class, and the plugin's name if it is one."""
        unreadable: Exception | None = None
        for url in _urls(config):
            try:
                if self._library._entry_of(url) == self.entry:
                    return url, None
            except KvconnError as e:
                unreadable = unreadable or e
        plugins = []
        for name in (config and config.remote_storage_plugins) or []:
            options = _plugin_options(config, name)
            if (options.get("module_path"), options.get("class_name")) == self.entry:
                plugins.append(name)
        if len(plugins) == 1:
            return f"plugin://{plugins[0]}", plugins[0]
        module, name = self.entry or ("?", "?")
        if plugins:
            raise InvalidError(
                f"{module}.{name} is the class of {len(plugins)} plugins ({', '.join(plugins)}), and LMCache does not tell "
                "it which one it is (set `class_name: KvconnAdapter`, `module_path: kvconn.lmcache` and a `url` for each)",
                kind="invalid_option",
                operation="open",
                hint="set `class_name: KvconnAdapter`, `module_path: kvconn.lmcache` and a `url` for each",
            )
        if unreadable is not None:
            raise unreadable
        hint = (
            f"set `remote_url: external://host:port/{module}/?connector_name={name}`; behind `audit://` set that as "
            "`audit_actual_remote_url`"
        )
        raise InvalidError(
            f"LMCache's configuration has no URL for {module}.{name} ({hint})",
            kind="invalid_option",
            operation="open",
            hint=hint,
        )

    async def exists(self, key: CacheEngineKey) -> bool:
        return await self._ask(self._remote.exists, key.to_string())

    def exists_sync(self, key: CacheEngineKey) -> bool:
        return self._remote.exists_sync(key.to_string())

    async def get(self, key: CacheEngineKey) -> MemoryObj | None:
        return await self._ask(self._remote.get, key.to_string())

    async def put(self, key: CacheEngineKey, memory_obj: MemoryObj) -> None:
        await self._ask(self._remote.put, key.to_string(), memory_obj)

    async def list(self) -> list[str]:
        return await self._ask(self._remote.list)

    async def close(self) -> None:
        await self._ask(self._remote.close)

    def support_ping(self) -> bool:
        return self._remote.can_ping

    async def ping(self) -> int:
        await self._ask(self._remote.ping)
        return 0

    def support_batched_get(self) -> bool:
        return True

    async def batched_get(self, keys: list[CacheEngineKey]) -> list[MemoryObj | None]:
        return _without_errors(await self._ask(self._remote.batched_get, _texts(keys)))

    def support_batched_put(self) -> bool:
        return True

    async def batched_put(self, keys: list[CacheEngineKey], memory_objs: list[MemoryObj]) -> None:
        errors = await self._ask(self._remote.batched_put, _texts(keys), [*memory_objs])
        failed = [e for e in errors if e is not None]
        if len(failed) > 1:
            logger.warning("%d of %d chunks were not stored", len(failed), len(errors))
        if failed:
            raise failed[0]

    def support_batched_contains(self) -> bool:
        return True

    def batched_contains(self, keys: list[CacheEngineKey]) -> int:
        return self._remote.contains_sync(_texts(keys))

    def support_batched_async_contains(self) -> bool:
        return True

    async def batched_async_contains(self, lookup_id: str, keys: list[CacheEngineKey], pin: bool = False) -> int:
        return await self._ask(self._remote.contains, _texts(keys))

    def support_batched_get_non_blocking(self) -> bool:
        return True

    async def batched_get_non_blocking(self, lookup_id: str, keys: list[CacheEngineKey]) -> list[MemoryObj]:
        chunks = _without_errors(await self._ask(self._remote.batched_get, _texts(keys)))
        run = chunks.index(None) if None in chunks else len(chunks)
        _kvconn._give_back(chunks[run:])
        return chunks[:run]

    def remove_sync(self, key: CacheEngineKey) -> bool:
        return self._remote.remove_sync(key.to_string())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of kvconn: {self._remote.name}>"

    async def _ask(self, ask: Callable[..., Any], *arguments: Any) -> Any:
        answer, call = ask(*arguments, asyncio.get_running_loop())
        if call is None:
            return answer
        try:
            return await answer
        except asyncio.CancelledError:
            call.cancel()
            # The answer may have come just before: nobody else will take it.
            if not answer.cancelled() and answer.exception() is None:
                _kvconn._give_back(answer.result())
            raise


def class_of_entry(module: str, name: str, doc: str, library: ModuleType) -> type[KvconnConnector]:
    """The class of one connector that is registered in ``library``."""
    about = {"__module__": module, "__doc__": doc, "entry": (module, name), "_library": library}
    return type(KvconnConnector)(name, (KvconnConnector,), about)


def _texts(keys: list[CacheEngineKey]) -> list[str]:
    return [key.to_string() for key in keys]


def _without_errors(chunks: list) -> list[MemoryObj | None]:
    errors = [chunk for chunk in chunks if isinstance(chunk, BaseException)]
    if errors:
        logger.warning("%d of %d chunks were not read: %s", len(errors), len(chunks), errors[0])
    return [None if isinstance(chunk, BaseException) else chunk for chunk in chunks]


def _urls(config: LMCacheEngineConfig | None) -> Iterator[str]:
    if config is None:
        return
    extra = config.extra_config or {}
    for url in (config.remote_url, extra.get("audit_actual_remote_url"), config.audit_actual_remote_url):
        if url:
            yield url


def _plugin_options(config: LMCacheEngineConfig | None, name: str | None) -> dict[str, Any]:
    """What ``extra_config`` says of a plugin, and not of another one whose name goes on (``kv.disk``)."""
    if name is None:
        return {}
    extra = (config and config.extra_config) or {}
    named = ((key.removeprefix(_PLUGIN % name), value) for key, value in extra.items())
    return {key: value for key, value in named if "." not in key}


#: The stores of each configuration that LMCache has opened through kvconn, as it names them; by the configuration's `id`.
_opened: dict[int, set[str]] = {}


def ask_without_loop(config: LMCacheEngineConfig | None, opened: str) -> None:
    """Sets LMCache's ``use_exists_sync``, if the configuration does not say and, with ``opened``, all remote stores are kvconn's.

    LMCache reads it at each question, for all remote stores of the engine. Its loop takes several times as long as the question,
    and is for connectors that cannot be asked without it: so only where there are none. What counts is who opened a store: a
    plugin's name may be one that LMCache's own adapters take.
    """
    extra = getattr(config, "extra_config", None) or {}
    if config is None or _EXISTS_SYNC in extra:
        return
    if id(config) not in _opened:
        _opened[id(config)] = set()
        weakref.finalize(config, _opened.pop, id(config), None).atexit = False
    ours = _opened[id(config)]
    ours.add(opened)
    stores = {f"plugin://{name}" for name in getattr(config, "remote_storage_plugins", None) or []}
    if url := getattr(config, "remote_url", None):
        stores.add(url)
    if stores and stores <= ours:
        # In a copy: the dict may be somebody else's, too.
        config.extra_config = {**extra, _EXISTS_SYNC: True}
        logger.info(
            "`%s: true`: all remote stores are kvconn's, which are asked for single chunks without LMCache's event loop "
            "(`false` in `extra_config` goes through it)",
            _EXISTS_SYNC,
        )


def _settings(config: LMCacheEngineConfig | None) -> list[tuple[str, str]]:
    values = ((key, getattr(config, key, None)) for key in _SETTINGS)
    return [(key, json.dumps(value, default=str)) for key, value in values if value is not None]


def _metadata(metadata: LMCacheMetadata | None) -> tuple | None:
    if metadata is None:
        return None
    groups = [
        (shape[0], shape[1], shape[3], str(dtype))
        for shape, dtype in zip(metadata.get_shapes(), metadata.get_dtypes(), strict=True)
    ]
    return metadata.model_name, metadata.world_size, metadata.worker_id, metadata.chunk_size, groups
