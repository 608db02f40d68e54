"""LMCacheEngine: one engine stores through kvconn, and a fresh engine retrieves the same bytes.

The CPU does the work of a GPU. The caches of the inference engine are tensors in main memory. `_Whole` and `_Layerwise` copy between
them and LMCache's memory objects, where LMCache's GPU connectors launch kernels. All other parts are LMCache's: token hashes, storage
manager, CPU backend, and the remote backend with kvconn's connector.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from kvconn.lmcache import KvconnConnector
from lmcache.v1.cache_engine import LMCacheEngine, LMCacheEngineBuilder
from lmcache.v1.config import LMCacheEngineConfig
from lmcache.v1.gpu_connector.gpu_connectors import GPUConnectorInterface, VLLMPagedMemLayerwiseGPUConnector
from lmcache.v1.storage_backend.remote_backend import RemoteBackend

from . import chunks
from .engine import POOL_GB, TIMEOUT_S, metadata_of
from .report import Failed, Report, equal
from .server import RedisServer
from .wheel import external, plugin

SLOTS = 256
#: Five chunks and a part of a sixth.
TOKENS = 5 * chunks.PLAIN.chunk_tokens + 7


@dataclass(frozen=True)
class _Case:
    """One configuration of LMCache."""

    name: str
    url: str = ""
    plugin: str = ""
    model: chunks.Model = chunks.PLAIN
    settings: dict = field(default_factory=dict)
    extra: dict = field(default_factory=dict)
    #: The URL of LMCache's own connector on the same store, for the engine that stores or for the engine that retrieves.
    stored_by: str = ""
    retrieved_by: str = ""

    @property
    def config(self) -> LMCacheEngineConfig:
        extra = self.extra | (plugin("kv", self.plugin) if self.plugin else {})
        named = {"remote_storage_plugins": ["kv"]} if self.plugin else {"remote_url": self.url, "remote_serde": "naive"}
        settings = {"chunk_size": self.model.chunk_tokens, "local_cpu": False, "max_local_cpu_size": POOL_GB}
        return LMCacheEngineConfig.from_defaults(**settings | named | self.settings, extra_config=extra or None)

    @property
    def stored(self) -> int:
        """The number of `TOKENS` that LMCache stores."""
        return TOKENS if self.config.save_unfull_chunk else TOKENS - TOKENS % self.model.chunk_tokens


def run(report: Report) -> None:
    """Runs all checks of this group."""
    with tempfile.TemporaryDirectory(prefix="kvconn-interop-") as folder, RedisServer() as server:
        for case in _cases(Path(folder), f"127.0.0.1:{server.port}"):
            with report.check(f"engine: {case.name}"):
                server.ask("FLUSHALL")
                _one_stores_another_retrieves(case)


def _cases(root: Path, address: str) -> Iterator[_Case]:
    layerwise, raw, full = {"use_layerwise": True}, {"save_chunk_meta": False}, {"save_unfull_chunk": False}
    redis, resp = external("redis", "RedisConnector", address), external("resp", "RESPConnector", address)
    made = 0

    def files() -> str:
        nonlocal made
        made += 1
        return str(root / str(made))

    def fs() -> str:
        return external("fs", "FSConnector", base_path=files())

    yield _Case("external://, redis", redis)
    yield _Case("external://, redis, layerwise", redis, settings=layerwise)
    yield _Case("external://, fs", fs())
    yield _Case("external://, fs, layerwise", fs(), settings=layerwise)
    yield _Case("external://, fs, no headers", fs(), extra=raw)
    # LMCache ignores the option for layers and writes headers, because the length of a layer's chunk is ambiguous.
    yield _Case("external://, fs, layerwise, headers in spite of the option", fs(), settings=layerwise, extra=raw)
    yield _Case("external://, resp, full chunks", resp, settings=full, extra=raw)
    yield _Case("plugin://, redis", plugin=f"redis://{address}")
    yield _Case("plugin://, redis, layerwise", plugin=f"redis://{address}", settings=layerwise)
    yield _Case("plugin://, fs", plugin=f"fs://{files()}")
    yield _Case("plugin://, fs, layerwise", plugin=f"fs://{files()}", settings=layerwise)
    yield _Case("plugin://, fs, no headers", plugin=f"fs://{files()}", extra=raw)
    yield _Case("plugin://, resp, full chunks", plugin=f"resp://{address}", settings=full, extra=raw)
    for name, settings in (("", {}), (", layerwise", layerwise)):
        path = files()
        theirs, ours = f"fs://localhost:0{path}", external("fs", "FSConnector", base_path=path)
        yield _Case(f"fs://, LMCache's own stores{name}", ours, settings=settings, stored_by=theirs)
        path = files()
        theirs, ours = f"fs://localhost:0{path}", external("fs", "FSConnector", base_path=path)
        yield _Case(f"fs://, LMCache's own retrieves{name}", ours, settings=settings, retrieved_by=theirs)
    # Otherwise rank 0 would send its chunks to the other GPUs.
    mla = {"save_only_first_rank": False}
    yield _Case("external://, redis, MLA", redis, model=chunks.MLA, extra=mla)
    yield _Case("external://, redis, MLA, layerwise", redis, model=chunks.MLA, settings=layerwise, extra=mla)
    yield _Case("external://, fs, two groups of layers", fs(), model=chunks.TWO_GROUPS)
    yield _Case("external://, redis, a memory cache in front", redis, settings={"local_cpu": True})
    yield _Case("external://, redis, async loading", redis, settings={"enable_async_loading": True})
    yield _Case("plugin://, fs, async loading", plugin=f"fs://{files()}", settings={"enable_async_loading": True})


def _one_stores_another_retrieves(case: _Case) -> None:
    tokens = torch.arange(1000, 1000 + TOKENS)
    written = _Cache.random(case.model, seed=1)
    from_slots = torch.randperm(SLOTS, generator=torch.Generator().manual_seed(2))[:TOKENS]
    with _engine(case, case.stored_by) as engine:
        before = _free(engine)
        equal("tokens found in an empty store", engine.lookup(tokens), 0)
        _store(engine, tokens, written, from_slots)
        # Leaves out the memory cache, which has all chunks at once.
        remote = [name for name in engine.storage_manager.storage_backends if name != "LocalCPUBackend"]
        _until("all tokens are stored", lambda: engine.lookup(tokens, search_range=remote) == case.stored)
        if not case.config.local_cpu:
            _until("LMCache has its memory back after a store", lambda: _free(engine) == before)
    to_slots = torch.randperm(SLOTS, generator=torch.Generator().manual_seed(3))[:TOKENS]
    with _engine(case, case.retrieved_by) as engine:
        before = _free(engine)
        equal("tokens that a fresh engine finds", engine.lookup(tokens), case.stored)
        read = _Cache.zeros(case.model)
        equal("tokens that are retrieved", _retrieve(engine, tokens, read, to_slots), case.stored)
        written.require_same(from_slots[: case.stored], read, to_slots[: case.stored])
        equal("changed bytes in other slots", read.changed_outside(to_slots[: case.stored]), 0)
        if not case.config.local_cpu:
            _until("LMCache has its memory back after a retrieve", lambda: _free(engine) == before)
        _retrieve_prefix(engine, case, tokens, written, from_slots)
        if not engine.use_layerwise and not case.retrieved_by:
            # LMCache 0.5.6 does not clear layers: it removes the key of the whole chunk.
            engine.clear(tokens)
            equal("tokens found after a clear", engine.lookup(tokens), 0)


def _retrieve_prefix(engine: LMCacheEngine, case: _Case, tokens: torch.Tensor, written: "_Cache", slots: torch.Tensor) -> None:
    """A request with the same beginning gets the full chunks of that beginning. A request with another beginning gets nothing."""
    shared = 2 * case.model.chunk_tokens
    other = tokens.clone()
    other[shared + 3 :] += 1
    equal("tokens found of a common beginning", engine.lookup(other), shared)
    read = _Cache.zeros(case.model)
    equal("tokens retrieved of a common beginning", _retrieve(engine, other, read, slots), shared)
    written.require_same(slots[:shared], read, slots[:shared])
    equal("changed bytes outside the common beginning", read.changed_outside(slots[:shared]), 0)
    equal("tokens found of another text", engine.lookup(tokens + 1), 0)
    if not engine.use_layerwise and not engine.async_loading:
        # With layers or async loading, LMCache 0.5.6 fails if it finds nothing, so engines look up first.
        equal("tokens retrieved of another text", _retrieve(engine, tokens + 1, read, slots), 0)


def _store(engine: LMCacheEngine, tokens: torch.Tensor, cache: "_Cache", slots: torch.Tensor) -> None:
    if engine.use_layerwise:
        # The generator has a step before the first layer, and a step after each layer.
        for _ in engine.store_layer(tokens, cache=cache, slots=slots):
            pass
    else:
        engine.store(tokens, cache=cache, slots=slots)


def _retrieve(engine: LMCacheEngine, tokens: torch.Tensor, cache: "_Cache", slots: torch.Tensor) -> int:
    """Retrieves the tokens and gives their number."""
    request = f"request {time.monotonic_ns()}"
    if engine.use_layerwise:
        *_, mask = engine.retrieve_layer(tokens, cache=cache, slots=slots, req_id=request)
    else:
        if engine.async_loading:
            engine.async_lookup_and_prefetch(request, tokens)
            _until("the prefetch has ended", lambda: request in engine.answered)
        mask = engine.retrieve(tokens, cache=cache, slots=slots, req_id=request)
    count = int(mask.sum())
    equal("the retrieved tokens are the first ones", bool(mask[:count].all()), True)
    return count


@contextmanager
def _engine(case: _Case, theirs: str = "") -> Iterator[LMCacheEngine]:
    """Makes a fresh engine with empty memory. `theirs` is the URL of LMCache's own connector, for an engine without kvconn."""
    if theirs:
        case = replace(case, url=theirs)
    connector = _Layerwise(case.model) if case.config.use_layerwise else _Whole()
    engine = LMCacheEngineBuilder.get_or_create(
        "interop", case.config, metadata_of(case.model), connector, lambda tensor, rank: None, lambda thing, rank: thing
    )
    answered: dict[str, int] = {}
    engine.answered = answered
    try:
        engine.post_init(async_lookup_server=_Scheduler(answered))
        backends = engine.storage_manager.storage_backends.values()
        (remote,) = (backend for backend in backends if isinstance(backend, RemoteBackend))
        wrapped = remote.connection.getWrappedConnector()
        equal("the connector is kvconn's", isinstance(wrapped, KvconnConnector), not theirs)
        yield engine
    finally:
        thread = engine.storage_manager.thread
        LMCacheEngineBuilder.destroy("interop")
        equal("the storage manager's thread is alive", thread.is_alive(), False)


class _Scheduler:
    """Receives the number of tokens that an engine with async loading has."""

    def __init__(self, answered: dict[str, int]) -> None:
        self.answered = answered

    def send_response_to_scheduler(self, lookup_id: str, tokens: int) -> None:
        self.answered[lookup_id] = tokens


class _Cache:
    """An inference engine's paged cache: for each group of layers, (keys and values, layers, slots, hidden)."""

    def __init__(self, groups: list[torch.Tensor]) -> None:
        self.groups = groups

    @staticmethod
    def zeros(model: chunks.Model) -> "_Cache":
        """Makes an empty cache."""
        return _Cache([torch.zeros((g.kv_size, g.layers, SLOTS, g.hidden), dtype=_dtype(g)) for g in model.groups])

    @staticmethod
    def random(model: chunks.Model, seed: int) -> "_Cache":
        """Makes a cache of random bytes, which include NaNs."""
        cache, chance = _Cache.zeros(model), torch.Generator().manual_seed(seed)
        for group in cache.groups:
            _bytes(group).random_(1, 256, generator=chance)
        return cache

    def require_same(self, slots: torch.Tensor, other: "_Cache", other_slots: torch.Tensor) -> None:
        """Fails unless the other cache has the same bytes in its slots."""
        for mine, theirs in zip(self.groups, other.groups, strict=True):
            wrong = int((_bytes(mine)[:, :, slots] != _bytes(theirs)[:, :, other_slots]).sum())
            if wrong:
                raise Failed(f"{wrong} bytes of {_bytes(mine)[:, :, slots].numel()} differ from the stored bytes")

    def changed_outside(self, slots: torch.Tensor) -> int:
        """Counts the bytes of the other slots that are not zero."""
        outside = torch.ones(SLOTS, dtype=torch.bool)
        outside[slots] = False
        return sum(int((_bytes(group)[:, :, outside] != 0).sum()) for group in self.groups)


class _Whole(GPUConnectorInterface):
    """Copies whole chunks: for each group, (keys and values, layers, tokens, hidden)."""

    def batched_from_gpu(self, memory_objs, starts, ends, *, cache: _Cache, slots: torch.Tensor, **kwargs) -> None:
        """Copies from the inference engine to LMCache."""
        for obj, start, end in zip(memory_objs, starts, ends, strict=True):
            for number, group in enumerate(cache.groups):
                _bytes(obj.get_tensor(number))[:] = _bytes(group)[:, :, slots[start:end]]

    def batched_to_gpu(self, memory_objs, starts, ends, *, cache: _Cache, slots: torch.Tensor, **kwargs) -> None:
        """Copies from LMCache to the inference engine."""
        for obj, start, end in zip(memory_objs, starts, ends, strict=True):
            for number, group in enumerate(cache.groups):
                _bytes(group)[:, :, slots[start:end]] = _bytes(obj.get_tensor(number))

    def from_gpu(self, memory_obj, start, end, **kwargs) -> None:
        """Copies one chunk."""
        self.batched_from_gpu([memory_obj], [start], [end], **kwargs)

    def to_gpu(self, memory_obj, start, end, **kwargs) -> None:
        """Copies one chunk."""
        self.batched_to_gpu([memory_obj], [start], [end], **kwargs)

    def get_shape(self, num_tokens: int) -> torch.Size:
        """LMCache never calls this: it takes the shapes of whole chunks from its metadata."""
        raise NotImplementedError


class _Layerwise(VLLMPagedMemLayerwiseGPUConnector):
    """Copies one layer at a time, (tokens, keys and values, hidden). LMCache accepts only a subclass of this class."""

    def __init__(self, model: chunks.Model) -> None:
        # Does not call the base class, which makes CUDA streams.
        (self.group,) = model.groups

    def batched_from_gpu(self, memory_objs, starts, ends, *, cache: _Cache, slots: torch.Tensor, **kwargs) -> Iterator[None]:
        """Copies from the inference engine to LMCache, one layer per step."""
        for layer, objs in enumerate(memory_objs):
            for obj, start, end in zip(objs, starts, ends, strict=True):
                _by_token(obj)[:] = _bytes(cache.groups[0])[:, layer, slots[start:end]].transpose(0, 1)
            yield
        yield

    def batched_to_gpu(self, starts, ends, *, cache: _Cache, slots: torch.Tensor, **kwargs) -> Iterator[None]:
        """Copies from LMCache to the inference engine, one layer for each list that the caller sends."""
        for layer in range(self.group.layers):
            objs = yield
            for obj, start, end in zip(objs, starts, ends, strict=True):
                _bytes(cache.groups[0])[:, layer, slots[start:end]] = _by_token(obj).transpose(0, 1)
        yield
        yield

    def get_shape(self, num_tokens: int) -> torch.Size:
        """The shape of one layer."""
        hidden = self.group.hidden
        return torch.Size([num_tokens, hidden] if self.group.kv_size == 1 else [num_tokens, self.group.kv_size, hidden])


def _by_token(obj) -> torch.Tensor:
    """The bytes of one layer's object. They always have a dimension for keys and values."""
    layer = _bytes(obj.tensor)
    return layer if layer.dim() == 3 else layer.unsqueeze(1)


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """A view of the same memory as bytes. Floats cannot be compared, because a NaN differs from itself."""
    return tensor.view(torch.uint8)


def _dtype(group: chunks.Group) -> torch.dtype:
    return getattr(torch, group.dtype)


def _free(engine: LMCacheEngine) -> int:
    return engine.storage_manager.local_cpu_backend.memory_allocator.pin_allocator.address_manager.get_free_size()


def _until(name: str, done) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not done():
        if time.monotonic() > deadline:
            raise Failed(f"not within {TIMEOUT_S} s: {name}")
        time.sleep(0.01)
