"""LMCache's connectors on a CPU, without an inference engine."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from lmcache.utils import parse_cache_key
from lmcache.v1.config import LMCacheEngineConfig
from lmcache.v1.memory_management import MemoryFormat
from lmcache.v1.metadata import LMCacheMetadata
from lmcache.v1.storage_backend.connector import CreateConnector
from lmcache.v1.storage_backend.local_cpu_backend import LocalCPUBackend

from .chunks import Chunk, Model

TIMEOUT_S = 60
POOL_GB = 0.1


class Remote:
    """Calls one of LMCache's connectors from outside its event loop."""

    def __init__(self, connector, backend: LocalCPUBackend, loop: asyncio.AbstractEventLoop) -> None:
        self.connector = connector
        self.backend = backend
        self.loop = loop

    def allocate(self, chunk: Chunk):
        """Makes a memory object with the chunk's bytes."""
        obj = self.backend.allocate(shapes(chunk), dtypes(chunk), MemoryFormat[chunk.format])
        view(obj)[:] = chunk.data
        return obj

    def put(self, key: str, chunk: Chunk) -> None:
        """Writes a chunk as the engine does."""
        obj = self.allocate(chunk)
        # LMCache's wrapper around the connector frees the memory.
        self.run(self.connector.put(parse_cache_key(key), obj))

    def get(self, key: str, like: Chunk) -> Chunk | None:
        """Reads a chunk. `like` gives only its name."""
        obj = self.run(self.connector.get(parse_cache_key(key)))
        if obj is None:
            return None
        groups = tuple(
            (tuple(shape), str(dtype).removeprefix("torch."))
            for shape, dtype in zip(obj.get_shapes(), obj.get_dtypes(), strict=True)
        )
        read = Chunk(like.name, bytes(view(obj)), groups, obj.get_memory_format().name)
        obj.ref_count_down()
        return read

    def free(self) -> int:
        """The free bytes of LMCache's pool."""
        return self.backend.memory_allocator.pin_allocator.address_manager.get_free_size()

    def exists(self, key: str) -> bool:
        """Whether LMCache finds the key."""
        return self.run(self.connector.exists(parse_cache_key(key)))

    def run(self, work):
        """Runs a coroutine on LMCache's loop and gives its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(TIMEOUT_S)


@dataclass(frozen=True)
class Side:
    """The objects that LMCache makes before it opens a connector."""

    config: LMCacheEngineConfig
    metadata: LMCacheMetadata
    loop: asyncio.AbstractEventLoop
    backend: LocalCPUBackend
    plugin: str | None


@contextmanager
def remote(url: str, model: Model, **options) -> Iterator[Remote]:
    """Opens LMCache's connector for `url`, which may be `plugin://name`. `options` are the `extra_config`.

    Open only one at a time, because LMCache keeps the number of groups in a global variable.
    """
    with side(url, model, **options) as made:
        connector = CreateConnector(url, made.loop, made.backend, made.config, made.metadata, plugin_name=made.plugin)
        try:
            yield Remote(connector, made.backend, made.loop)
        finally:
            end(connector, made.loop)


@contextmanager
def side(url: str, model: Model, **options) -> Iterator[Side]:
    """Makes LMCache's configuration, memory and event loop, without a connector."""
    plugin = url.removeprefix("plugin://") if url.startswith("plugin://") else None
    plugins = sorted({key.split(".", 1)[1].rsplit(".", 1)[0] for key in options if key.startswith("remote_storage_plugin.")})
    config = LMCacheEngineConfig.from_defaults(
        chunk_size=model.chunk_tokens,
        local_cpu=False,
        max_local_cpu_size=POOL_GB,
        remote_url=None if plugin else url,
        remote_storage_plugins=plugins,
        remote_serde="naive",
        save_unfull_chunk=options.get("save_chunk_meta", True),
        extra_config=options or None,
    )
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    metadata = metadata_of(model)
    backend = LocalCPUBackend(config, metadata, dst_device="cpu")
    try:
        yield Side(config, metadata, loop, backend, plugin)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(TIMEOUT_S)
        backend.memory_allocator.close()


def end(connector, loop: asyncio.AbstractEventLoop) -> None:
    """Ends a connector without `connector.close()`, because `redis://` waits there for workers that never end."""
    wrapped = connector.getWrappedConnector()
    asyncio.run_coroutine_threadsafe(_end(getattr(wrapped, "cluster", None)), loop).result(TIMEOUT_S)
    # The client of `resp://`, and the one of `valkey://`.
    for native in (getattr(wrapped, name, None) for name in ("client", "_pool")):
        if native is not None:
            native.close()


async def _end(redis_cluster) -> None:
    running = asyncio.all_tasks() - {asyncio.current_task()}
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    if redis_cluster is not None:
        await redis_cluster.aclose()


def metadata_of(model: Model) -> LMCacheMetadata:
    """Makes the metadata that an engine gives to LMCache."""
    first = model.groups[0]
    groups = [
        SimpleNamespace(
            dtype=getattr(torch, group.dtype),
            num_layers=group.layers,
            hidden_dim_size=group.hidden,
            shape_desc=SimpleNamespace(kv_size=group.kv_size),
        )
        for group in model.groups
    ]
    return LMCacheMetadata(
        model_name="interop",
        world_size=1,
        local_world_size=1,
        worker_id=0,
        local_worker_id=0,
        kv_dtype=getattr(torch, first.dtype),
        kv_shape=(first.layers, first.kv_size, model.chunk_tokens, 1, first.hidden),
        use_mla=first.kv_size == 1,
        chunk_size=model.chunk_tokens,
        kv_layer_groups_manager=SimpleNamespace(kernel_groups=groups, num_kernel_groups=len(groups)),
    )


def view(obj) -> memoryview:
    """The bytes of a memory object."""
    array = obj.byte_array
    return (array if isinstance(array, memoryview) else memoryview(array)).cast("B")


def shapes(chunk: Chunk) -> list[torch.Size]:
    """The shapes of a chunk, as LMCache takes them."""
    return [torch.Size(shape) for shape, _ in chunk.groups]


def dtypes(chunk: Chunk) -> list[torch.dtype]:
    """The dtypes of a chunk, as LMCache takes them."""
    return [getattr(torch, dtype) for _, dtype in chunk.groups]
