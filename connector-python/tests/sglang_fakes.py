"""SGLang's storage interface and host pools in our own words, with memory of ctypes, for tests without SGLang and torch."""

import ctypes
import enum
import types
from dataclasses import dataclass
from typing import Any


class PoolName(str, enum.Enum):
    KV = "kv"
    MAMBA = "mamba"
    SWA = "swa"
    INDEXER = "indexer"
    DRAFT = "draft"

    def __str__(self):
        return self.value


class PoolHitPolicy(str, enum.Enum):
    ALL_PAGES = "all_pages"
    TRAILING_PAGES = "trailing_pages"
    BLOCK_GROUPS = "block_groups"


@dataclass
class PoolTransfer:
    name: PoolName
    host_indices: Any = None
    keys: list | None = None
    hit_policy: PoolHitPolicy = PoolHitPolicy.ALL_PAGES
    block_pages: int = 0
    group_pages: int = 0


@dataclass
class PoolTransferResult:
    kv_hit_pages: int
    extra_pool_hit_pages: dict
    restorable_prefix_pages: list | None = None

    @classmethod
    def empty(cls):
        return cls(0, {})


class HiCacheStorage:
    def register_mem_pool_host(self, mem_pool_host):
        self.mem_pool_host = mem_pool_host

    def register_mem_host_pool_v2(self, host_pool, host_pool_name):
        self.registered_pools = {**getattr(self, "registered_pools", {}), host_pool_name: host_pool}


@dataclass
class Config:
    """``HiCacheStorageConfig``."""

    extra_config: dict
    tp_rank: int = 0
    tp_size: int = 1
    pp_rank: int = 0
    pp_size: int = 1
    attn_cp_rank: int = 0
    attn_cp_size: int = 1
    is_mla_model: bool = False
    enable_storage_metrics: bool = False
    model_name: str | None = "org/model"
    dcp_size: int = 1
    dcp_rank: int = 0
    logical_page_size: int | None = None

    @property
    def is_storage_writer(self):
        return not self.is_mla_model or self.tp_rank == self.dcp_rank


class Tensor:
    """A one-dimensional tensor of bytes."""

    is_cpu = True

    def __init__(self, data):
        self.memory = (ctypes.c_ubyte * len(data)).from_buffer_copy(data)

    def numel(self):
        return len(self.memory)

    def element_size(self):
        return 1

    def is_contiguous(self):
        return True

    def contiguous(self):
        return self

    def data_ptr(self):
        return ctypes.addressof(self.memory)

    def __bytes__(self):
        return bytes(self.memory)


class Indices(list):
    """A tensor of indices."""

    def tolist(self):
        return list(self)


class HostPool:
    """A host pool. `parts` is the bytes of each piece of a page, in the order of ``get_page_buffer_meta``.

    Each piece is in a buffer of its own, page after page. The flat page is the pieces in the order `flat`.
    """

    def __init__(self, parts, layout="page_first", page_size=4, pages=8, flat=None, **geometry):
        self.layout, self.page_size, self.parts, self.pages = layout, page_size, parts, pages
        self.logical_page_size = page_size
        self.flat = flat or list(range(len(parts)))
        self.buffers = [(ctypes.c_ubyte * (size * pages))() for size in parts]
        self.dtype = "bfloat16"
        for name, value in geometry.items():
            setattr(self, name, value)

    def get_page_buffer_meta(self, indices):
        pages = [at // self.page_size for at in indices[:: self.page_size]]
        pointers = [ctypes.addressof(buffer) + page * size for page in pages for buffer, size in zip(self.buffers, self.parts)]
        return pointers, self.parts * len(pages)

    def get_data_page(self, index, flat=True):
        page = index // self.page_size
        pieces = [bytes(buffer)[page * size : (page + 1) * size] for buffer, size in zip(self.buffers, self.parts)]
        return Tensor(b"".join(pieces[at] for at in self.flat))

    def get_dummy_flat_data_page(self):
        return Tensor(bytes(sum(self.parts)))

    def set_from_flat_data_page(self, index, data_page):
        data, page = bytes(data_page), index // self.page_size
        for at in self.flat:
            size = self.parts[at]
            ctypes.memmove(ctypes.addressof(self.buffers[at]) + page * size, data[:size], size)
            data = data[size:]


class MHATokenToKVPoolHost(HostPool):
    """Multi-head attention: K and V of a page, or of each layer of it."""

    def __init__(self, layout="page_first", layers=3, size=96, **more):
        layered = layout == "layer_first"
        parts = [size // layers] * (2 * layers) if layered else [size, size]
        flat = [*range(0, 2 * layers, 2), *range(1, 2 * layers, 2)] if layered else None
        super().__init__(parts, layout, flat=flat, **{"layer_num": layers, "head_num": 2, "head_dim": 8, **more})


class MLATokenToKVPoolHost(HostPool):
    """Latent attention: one piece a page, or one a layer."""

    def __init__(self, layout="page_first", layers=3, size=96, **more):
        parts = [size // layers] * layers if layout == "layer_first" else [size]
        super().__init__(parts, layout, **{"layer_num": layers, "kv_cache_dim": 24, **more})


class MambaPoolHost(HostPool):
    """States: two pieces of different sizes."""

    def __init__(self, **more):
        super().__init__([40, 24], page_size=1, **{"num_mamba_layers": 2, **more})


class FlatPool(HostPool):
    """A pool that gives no addresses."""

    def get_page_buffer_meta(self, indices):
        raise NotImplementedError("no zero-copy")


class LogicalHostPool(HostPool):
    """An anchor without memory."""

    def __init__(self):
        super().__init__([])

    def get_page_buffer_meta(self, indices):
        return None


def modules():
    """The modules that ``kvconn.sglang`` imports, by name."""
    storage = types.ModuleType("sglang.srt.mem_cache.hicache_storage")
    for kind in (HiCacheStorage, PoolHitPolicy, PoolName, PoolTransfer, PoolTransferResult):
        setattr(storage, kind.__name__, kind)
    metrics = types.ModuleType("sglang.srt.observability.metrics_collector")

    class StorageMetrics:
        def __init__(self):
            self.prefetch_pgs, self.backup_pgs, self.prefetch_bandwidth, self.backup_bandwidth = [], [], [], []

    metrics.StorageMetrics = StorageMetrics
    torch = types.ModuleType("torch")
    torch.arange = lambda count: Indices(range(count))
    context = types.ModuleType("sglang.srt.runtime_context")
    context.get_model = lambda: types.SimpleNamespace(kv_cache_dtype="auto")
    found = {"torch": torch, storage.__name__: storage, metrics.__name__: metrics, context.__name__: context}
    for name in ("sglang", "sglang.srt", "sglang.srt.mem_cache", "sglang.srt.observability"):
        found[name] = types.ModuleType(name)
        found[name].__path__ = []
    return found
