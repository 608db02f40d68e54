"""The base of all connector classes: LMCache's ``RemoteConnector`` over a store in Rust.

Imports LMCache. Code that works without LMCache does not import this module.
"""

from __future__ import annotations

import asyncio
import json
import logging

# `KvconnConnector` has a method `list`, so the type needs another name.
from builtins import list as List
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

from kvconn import _kvconn, _libraries, _prometheus
from kvconn._errors import KvconnError, of_open
from kvconn._version import LMCACHE_FROM, check_version

logger = logging.getLogger("kvconn.lmcache")

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
        raise ImportError("kvconn's connector classes need LMCache: run `pip install lmcache`") from e
    raise
try:
    check_version(version("lmcache"))
except PackageNotFoundError:
    # A source tree on the path has no version.
    logger.info("LMCache was imported from a source tree, so its version is not known")

#: The keys of LMCache's configuration that connectors read.
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


class KvconnConnector(RemoteConnector):  # type: ignore[misc]
    """A store of kvconn's as a connector of LMCache's. LMCache makes it with ``loop``, ``local_cpu_backend`` and ``config``.

    The configuration has the store's URL: ``remote_url``, or the keys of ``audit://`` or of the plugin that has this class.
    `open` takes a URL instead.
    """

    #: Module and name in the registry; None for a class that opens any URL.
    entry: tuple[str, str] | None = None
    #: The library whose registry has the entry.
    _library: ModuleType = _kvconn
    _remote: _kvconn.LMCacheRemote

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
        """The connector of ``url``."""
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
            # LMCache's scheduler has an empty backend, because it only asks what exists.
            has_memory = getattr(backend, "memory_allocator", None) is not None
            if metadata is None:
                metadata = getattr(backend, "metadata", None)
            if has_memory and config is not None and metadata is not None:
                super().__init__(config, metadata)
            self.loop = loop
            self.local_cpu_backend = backend
            # The class's own library may lack a store behind this one.
            library = _libraries.of_url(*self._named(url, config, plugin_name))
            self._remote = library.LMCacheRemote(
                url, backend if has_memory else None, _settings(config), _metadata(metadata), plugin_name
            )
            _prometheus.export_in_engine()
        except AttributeError as e:
            # LMCache would report an AttributeError as a missing class.
            hint = f"use LMCache {'.'.join(map(str, LMCACHE_FROM))}"
            raise of_open("unsupported", f"kvconn does not understand this LMCache: {e}", hint) from e

    def _named(self, url: str, config: LMCacheEngineConfig | None, plugin: str | None) -> tuple[str, dict[str, Any]]:
        """The URL that selects the library, and the options beside the URL."""
        options = _plugin_options(config, plugin)
        if plugin is not None:
            url = options.get("url", url)
        if self.entry is not None and url.startswith("plugin://"):
            url = "external://localhost:0/{}/?connector_name={}".format(*self.entry)
        # Options under LMCache's own keys: `audit_actual_remote_url`, `tiered_connector_back`.
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
            raise of_open(
                "invalid_option",
                f"{module}.{name} is the class of {len(plugins)} plugins ({', '.join(plugins)}), and LMCache does not say "
                "which of them it opens",
                "set `class_name: KvconnAdapter`, `module_path: kvconn.lmcache` and a `url` for each",
            )
        if unreadable is not None:
            raise unreadable
        raise of_open(
            "invalid_option",
            f"LMCache's configuration has no URL for {module}.{name}",
            f"set `remote_url: external://host:port/{module}/?connector_name={name}`; behind `audit://` set that as "
            "`audit_actual_remote_url`",
        )

    async def exists(self, key: CacheEngineKey) -> bool:
        return await self._remote.exists(key.to_string())

    def exists_sync(self, key: CacheEngineKey) -> bool:
        return self._remote.exists_sync(key.to_string())

    async def get(self, key: CacheEngineKey) -> MemoryObj | None:
        return await _chunks(self._remote.get(key.to_string()))

    async def put(self, key: CacheEngineKey, memory_obj: MemoryObj) -> None:
        await self._remote.put(key.to_string(), memory_obj)

    async def list(self) -> List[str]:
        return await self._remote.list()

    async def close(self) -> None:
        await self._remote.close()

    def support_ping(self) -> bool:
        return self._remote.can_ping

    async def ping(self) -> int:
        await self._remote.ping()
        return 0

    def support_batched_get(self) -> bool:
        return True

    async def batched_get(self, keys: List[CacheEngineKey]) -> List[MemoryObj | None]:
        return _without_errors(await _chunks(self._remote.batched_get(_texts(keys))))

    def support_batched_put(self) -> bool:
        return True

    async def batched_put(self, keys: List[CacheEngineKey], memory_objs: List[MemoryObj]) -> None:
        errors = await self._remote.batched_put(_texts(keys), [*memory_objs])
        failed = [e for e in errors if e is not None]
        if len(failed) > 1:
            logger.warning("%d of %d chunks were not stored", len(failed), len(errors))
        if failed:
            raise failed[0]

    def support_batched_contains(self) -> bool:
        return True

    def batched_contains(self, keys: List[CacheEngineKey]) -> int:
        return self._remote.contains_sync(_texts(keys))

    def support_batched_async_contains(self) -> bool:
        return True

    async def batched_async_contains(self, lookup_id: str, keys: List[CacheEngineKey], pin: bool = False) -> int:
        return await self._remote.contains(_texts(keys))

    def support_batched_get_non_blocking(self) -> bool:
        return True

    async def batched_get_non_blocking(self, lookup_id: str, keys: List[CacheEngineKey]) -> List[MemoryObj]:
        chunks = _without_errors(await _chunks(self._remote.batched_get(_texts(keys))))
        run = chunks.index(None) if None in chunks else len(chunks)
        _kvconn._give_back(chunks[run:])
        return chunks[:run]

    def remove_sync(self, key: CacheEngineKey) -> bool:
        return self._remote.remove_sync(key.to_string())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of kvconn: {self._remote.name}>"


def class_of_entry(module: str, name: str, doc: str, library: ModuleType) -> type[KvconnConnector]:
    """The class of one connector of ``library``."""
    about = {"__module__": module, "__doc__": doc, "entry": (module, name), "_library": library}
    metaclass: Any = type(KvconnConnector)
    made: type[KvconnConnector] = metaclass(name, (KvconnConnector,), about)
    return made


def _texts(keys: list[CacheEngineKey]) -> list[str]:
    return [key.to_string() for key in keys]


async def _chunks(answer: asyncio.Future[Any]) -> Any:
    """Awaits an answer with LMCache's memory objects in it, and gives them back if the caller is cancelled."""
    try:
        return await answer
    except asyncio.CancelledError:
        # The answer may have come just before.
        if answer.done() and not answer.cancelled() and answer.exception() is None:
            _kvconn._give_back(answer.result())
        raise


def _without_errors(chunks: list[Any]) -> list[MemoryObj | None]:
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
    """The options of a plugin in ``extra_config``, without those of a plugin with a longer name (``kv.disk``)."""
    if name is None:
        return {}
    extra = (config and config.extra_config) or {}
    named = ((key.removeprefix(_PLUGIN % name), value) for key, value in extra.items())
    return {key: value for key, value in named if "." not in key}


def _settings(config: LMCacheEngineConfig | None) -> list[tuple[str, str]]:
    values = ((key, getattr(config, key, None)) for key in _SETTINGS)
    return [(key, json.dumps(value, default=str)) for key, value in values if value is not None]


def _metadata(metadata: LMCacheMetadata | None) -> tuple[str, int, int, int, list[tuple[int, int, int, str]]] | None:
    if metadata is None:
        return None
    groups = [
        (shape[0], shape[1], shape[3], str(dtype))
        for shape, dtype in zip(metadata.get_shapes(), metadata.get_dtypes(), strict=True)
    ]
    return metadata.model_name, metadata.world_size, metadata.worker_id, metadata.chunk_size, groups
