"""SGLang's own device and host pools on a CPU, and the bytes of their pages."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from sglang.srt.mem_cache.device_pool_info import MambaStateBufferInfo
from sglang.srt.mem_cache.hicache_storage import PoolHitPolicy, PoolName
from sglang.srt.mem_cache.memory_pool import DSATokenToKVPool, MHATokenToKVPool, MLATokenToKVPool
from sglang.srt.mem_cache.memory_pool_host import DeepSeekV4PagedHostPool, LogicalHostPool
from sglang.srt.mem_cache.pool_host.base import host_memory_budget_scope
from sglang.srt.mem_cache.pool_host.dsa import DSAIndexerPoolHost, make_dsa_indexer_pool_decl
from sglang.srt.mem_cache.pool_host.mamba import MambaPoolHost
from sglang.srt.mem_cache.pool_host.mha import MHATokenToKVPoolHost
from sglang.srt.mem_cache.pool_host.mla import MLATokenToKVPoolHost

DEVICE_PAGES = 16
HOST_RATIO = 16.0
BUDGET_BYTES = 4 << 30


@dataclass(frozen=True)
class Model:
    """The parameters of one rank's pools. Sizes are in tokens, layers, heads and elements.

    `side_state` gives a Mamba state a second buffer, for which SGLang gives no addresses. `anchor` is a KV pool without memory.
    """

    name: str = "interop/llama"
    mla: bool = False
    layout: str = "page_first"
    page_tokens: int = 16
    layers: int = 3
    heads: int = 2
    head_dim: int = 8
    dtype: torch.dtype = torch.bfloat16
    sidecars: tuple[str, ...] = ()
    state: int = 6
    side_state: bool = False
    anchor: bool = False


@dataclass(frozen=True)
class Sidecar:
    """A pool beside the KV pool. `window` is the pages at the end of a prefix that it keeps, 0 if it keeps all pages."""

    pool: object
    policy: PoolHitPolicy
    window: int = 0
    from_kv: bool = False


@dataclass
class Pools:
    """The pools of one rank."""

    device: object
    kv: object
    sidecars: dict[PoolName, Sidecar] = field(default_factory=dict)


def make(model: Model) -> Pools:
    """Makes the pools of `model`."""
    tokens = DEVICE_PAGES * model.page_tokens
    with host_memory_budget_scope(BUDGET_BYTES):
        device, kv = _kv(model, tokens)
        pools = Pools(device, kv)
        for name in model.sidecars:
            pools.sidecars[PoolName(name)] = SIDECARS[name](model, tokens, device, kv)
    if model.anchor:
        pools.kv = LogicalHostPool(kv.size, model.page_tokens, model.layout)
    return pools


def fill(pool, index: int, seed: str) -> None:
    """Writes the bytes that belong to `seed` into the page at `index`."""
    like = pool.get_dummy_flat_data_page()
    if like.numel():
        pool.set_from_flat_data_page(index, _bytes(seed, like).view(like.dtype))


def holds(pool, index: int, seed: str) -> bool:
    """Whether every byte of the page at `index` belongs to `seed`."""
    page = pool.get_data_page(index, flat=True).contiguous().view(torch.uint8)
    return bool(torch.equal(page, _bytes(seed, page)))


def _bytes(seed: str, like: torch.Tensor) -> torch.Tensor:
    number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:7], "big")
    size = like.numel() * like.element_size()
    return torch.randint(0, 256, (size,), dtype=torch.uint8, generator=torch.Generator().manual_seed(number))


def _kv(model: Model, tokens: int):
    place = {"device": "cpu", "enable_memory_saver": False}
    host = {"pin_memory": False, "device": "cpu", "device_capacity_tokens": tokens, "start_layer": 0, "end_layer": model.layers}
    sizes = (HOST_RATIO, 0, model.page_tokens, model.layout)
    if "indexer" in model.sidecars:
        device = DSATokenToKVPool(
            tokens, model.page_tokens, 16, model.dtype, 8, model.layers,
            index_head_dim=128, kv_cache_dim=24, **place,
        )  # fmt: skip
    elif model.mla:
        device = MLATokenToKVPool(tokens, model.page_tokens, model.dtype, 16, 8, model.layers, **place)
    else:
        device = MHATokenToKVPool(tokens, model.page_tokens, model.dtype, model.heads, model.head_dim, model.layers, **place)
    info = device.get_device_pool_infos()[0].buffer_info
    if model.mla:
        return device, MLATokenToKVPoolHost(info, *sizes, target_layer_num=model.layers, **host)
    return device, MHATokenToKVPoolHost(info, *sizes, **host)


def _mamba(model: Model, tokens: int, device, kv) -> Sidecar:
    slots = 8
    info = MambaStateBufferInfo(
        temporal=torch.zeros(2, slots, 4, model.state, dtype=torch.float32),
        conv=(torch.zeros(2, slots, 10, 3, dtype=torch.bfloat16),),
        extra_checkpoint_buffers=(torch.zeros(slots, 3, dtype=torch.float32),) if model.side_state else (),
    )
    layout = "page_first" if model.layout == "layer_first" else model.layout
    host = MambaPoolHost(info, HOST_RATIO, 0, device_capacity=slots, pin_memory=False, device="cpu", layout=layout)
    return Sidecar(host, PoolHitPolicy.TRAILING_PAGES, window=1)


def _swa(model: Model, tokens: int, device, kv) -> Sidecar:
    swa = MHATokenToKVPool(tokens, model.page_tokens, model.dtype, 1, 4, 2, device="cpu", enable_memory_saver=False)
    info = swa.get_device_pool_infos()[0].buffer_info
    host = MHATokenToKVPoolHost(
        info, HOST_RATIO, 0, model.page_tokens, model.layout,
        pin_memory=False, device="cpu", device_capacity_tokens=tokens, start_layer=0, end_layer=2,
    )  # fmt: skip
    return Sidecar(host, PoolHitPolicy.TRAILING_PAGES, window=2)


def _indexer(model: Model, tokens: int, device, kv) -> Sidecar:
    # SGLang's builder pins memory, which needs a GPU.
    host = DSAIndexerPoolHost(make_dsa_indexer_pool_decl(device), kv, pin_memory=False)
    return Sidecar(host, PoolHitPolicy.ALL_PAGES, from_kv=True)


def _paged(model: Model, tokens: int, device, kv) -> Sidecar:
    rows = [torch.zeros(kv.page_num, 200, dtype=torch.uint8) for _ in range(2)]
    host = DeepSeekV4PagedHostPool(
        "deepseek_v4_c4", rows, 200, kv.page_num, model.page_tokens, model.layout, pin_memory=False, page_aligned_only=True
    )
    return Sidecar(host, PoolHitPolicy.ALL_PAGES, from_kv=True)


SIDECARS: dict[str, Callable[[Model, int, object, object], Sidecar]] = {
    "mamba": _mamba,
    "swa": _swa,
    "indexer": _indexer,
    "deepseek_v4_c4": _paged,
}
