"""The pages of SGLang's host pools as objects of a store.

Source of the layouts: ``get_page_buffer_meta``, ``get_data_page`` and ``set_from_flat_data_page`` of the classes in SGLang's
``sglang/srt/mem_cache/pool_host``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kvconn._errors import of_open

# With more pieces than this, a page is one object, because each object costs a name and a place in a request.
_MOST_OBJECTS = 8
# The attributes that decide the bytes of a page, of all kinds of pools. A pool has some of them.
_GEOMETRY = (
    "layout",
    "dtype",
    "page_size",
    "logical_page_size",
    "layer_num",
    "target_layer_num",
    "start_layer",
    "end_layer",
    "head_num",
    "head_dim",
    "v_head_dim",
    "head_group_num",
    "kv_lora_rank",
    "qk_rope_head_dim",
    "kv_cache_dim",
    "dsa_kv_cache_store_fp8",
    "size_per_token",
    "item_bytes",
    "row_bytes",
    "storage_format_tag",
    "indexer_dtype",
    "indexer_page_stride_size",
    "num_mamba_layers",
    "temporal_dtype",
    "temporal_state_shape",
    "conv_dtype",
    "conv_state_shapes",
)


@dataclass
class Batch:
    """The memory of a call: addresses and bytes of the pieces, the same count for each object.

    `owner` keeps the memory alive. `tensors` are flat pages outside of the pool, if the pool gives no addresses.
    """

    pointers: list[int]
    sizes: list[int]
    owner: object
    tensors: list[Any] | None = None


class Pages:
    """The pages of a host pool.

    A page has `objects` objects, of `object_bytes` bytes each. In this order they are the flat page of the pool's ``get_data_page``, so
    SGLang's two interfaces share them. In the layouts that keep a page together, K and V are an object each, and kvconn copies neither.
    In the other layouts, the store's client gathers the pieces of a page.
    """

    def __init__(self, pool: Any, name: str, *, one_object: bool) -> None:
        """Looks at the pool's first page. Raises `InvalidError` if no page of the pool can be stored."""
        self.pool = pool
        self.name = name
        self.page_tokens: int = getattr(pool, "logical_page_size", None) or getattr(pool, "page_size", None) or 1
        if getattr(pool, "shard_size", 1) > 1:
            raise _unsupported(pool, name, "SGLang shards its pages over ranks, and gives no addresses of them")
        self.pieces, self._order = 0, None
        piece_bytes = _piece_bytes(pool, name, self.page_tokens)
        #: Whether the pool has no memory of its own, such as the anchor of DeepSeek V4.
        self.logical = piece_bytes is not None and not piece_bytes
        #: Whether pages are copied through tensors, because the pool gives no addresses.
        self.flat = piece_bytes is None
        if piece_bytes is None:
            page = pool.get_dummy_flat_data_page()
            piece_bytes = [page.numel() * page.element_size()]
        self.pieces = len(piece_bytes)
        if pool.layout == "layer_first" and is_multi_head(pool) and self.pieces == 2 * pool.layer_num:
            # The pool gives K and V of each layer in turn. Its flat page has K of all layers first.
            self._order = [*range(0, self.pieces, 2), *range(1, self.pieces, 2)]
        gathered = one_object or pool.layout == "layer_first" or self.pieces > _MOST_OBJECTS
        self.objects = 1 if gathered else max(self.pieces, 1)
        self.object_bytes = [sum(piece_bytes)] if gathered else piece_bytes

    def geometry(self) -> dict[str, object]:
        """Everything known of the pool that decides the bytes of its pages."""
        found: dict[str, object] = {"class": type(self.pool).__name__, "object_bytes": self.object_bytes}
        for name in _GEOMETRY:
            value = getattr(self.pool, name, None)
            if value is not None:
                found[name] = _plain(value)
        # The host pool keeps each FP8 type as uint8, and MI300 has a type of its own.
        device_dtype = getattr(getattr(self.pool, "device_pool", None), "dtype", None)
        if device_dtype is not None:
            found["device_dtype"] = str(device_dtype)
        infos = getattr(self.pool, "_buffer_infos", ())
        layouts = [getattr(getattr(info, "buffers", None), "layout", None) for info in infos]
        if any(layout is not None for layout in layouts):
            # NHD, HND and the vectors of AITER have the same sizes.
            found["kv_layouts"] = [str(getattr(layout, "value", layout)) for layout in layouts]
        return found

    def in_pool(self, indices: Any, pages: int, *, load: bool) -> Batch | None:
        """The memory of the pages at `indices`, one index a token. None if their number is not that of `pages` pages."""
        if indices is None or len(indices) != pages * self.page_tokens:
            return None
        if self.flat:
            starts = indices.tolist()[:: self.page_tokens]
            make = (lambda _: self.pool.get_dummy_flat_data_page()) if load else self.pool.get_data_page
            return self.in_tensors([make(start) for start in starts])
        pointers, sizes = self.pool.get_page_buffer_meta(indices)
        if len(pointers) != pages * self.pieces or len(sizes) != len(pointers):
            return None
        if self._order:
            places = [page + piece for page in range(0, len(pointers), self.pieces) for piece in self._order]
            pointers, sizes = [pointers[place] for place in places], [sizes[place] for place in places]
        return Batch(pointers, sizes, (self.pool, indices))

    def put_back(self, batch: Batch, indices: Any, loaded: Sequence[bool]) -> None:
        """Copies loaded pages from tensors into the pool, if the batch has tensors."""
        if batch.tensors is None:
            return
        starts = indices.tolist()[:: self.page_tokens]
        for start, tensor, ok in zip(starts, batch.tensors, loaded, strict=True):
            if ok:
                self.pool.set_from_flat_data_page(start, tensor)

    def in_tensors(self, tensors: Sequence[Any]) -> Batch | None:
        """The memory of flat pages in tensors. None if a tensor is not contiguous, not in main memory or not a page long."""
        pointers: list[int] = []
        for tensor in tensors:
            fits = tensor.numel() * tensor.element_size() == sum(self.object_bytes)
            if not (fits and tensor.is_contiguous() and tensor.is_cpu):
                return None
            at = tensor.data_ptr()
            for size in self.object_bytes:
                pointers.append(at)
                at += size
        kept = list(tensors)
        return Batch(pointers, self.object_bytes * len(kept), kept, kept)


def _piece_bytes(pool: Any, name: str, page_tokens: int) -> list[int] | None:
    """The bytes of each piece of a page. Empty for a pool without memory, None for one that gives no addresses."""
    import torch

    try:
        meta = pool.get_page_buffer_meta(torch.arange(page_tokens))
    except (NotImplementedError, ValueError) as reason:
        try:
            pool.get_data_page(0, flat=True)
        except (NotImplementedError, ValueError):
            raise _unsupported(pool, name, str(reason)) from reason
        return None
    return [] if meta is None else [int(size) for size in meta[1]]


def is_multi_head(pool: Any) -> bool:
    """Whether the pool is of multi-head attention. Each rank has pages of its own then."""
    return any(kind.__name__ == "MHATokenToKVPoolHost" for kind in type(pool).__mro__)


def _unsupported(pool: Any, name: str, reason: str) -> Exception:
    message = f"the pages of SGLang's host pool `{name}` ({type(pool).__name__}, layout {getattr(pool, 'layout', '?')}) cannot be stored"
    return of_open("invalid_option", f"{message}: {reason}", "try --hicache-mem-layout page_first or page_first_direct")


def _plain(value: object) -> object:
    """The value in types of JSON: shapes become lists, and dtypes become text."""
    if value is None or type(value) in (bool, int, str):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value)
