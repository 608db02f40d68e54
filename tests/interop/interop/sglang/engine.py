"""SGLang's cache controller on a CPU, without a model: backs pages up to a storage backend and prefetches them."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty
from types import SimpleNamespace

import torch
from sglang.srt.managers.cache_controller import HiCacheController
from sglang.srt.mem_cache.allocator.token import TokenToKVPoolAllocator
from sglang.srt.mem_cache.hicache_storage import PoolName, PoolTransfer
from sglang.srt.mem_cache.hybrid_cache.hybrid_cache_controller import HybridCacheController
from sglang.srt.mem_cache.pool_host import HostPoolGroup, PoolEntry
from sglang.srt.mem_cache.utils import get_storage_hash_str
from sglang.srt.runtime_context import get_parallel

from ..report import Failed
from . import pools
from .pools import Model

TIMEOUT_S = 60
torch.set_num_threads(1)
# SGLang warns of each page that a check made it miss, and kvconn of each store that a check broke.
logging.getLogger("sglang").setLevel(logging.CRITICAL)
logging.getLogger("kvconn").addHandler(logging.NullHandler())


class Engine:
    """One rank: pools, and the controller with a storage backend."""

    def __init__(
        self,
        model: Model,
        backend: str,
        config: dict,
        *,
        rank: int = 0,
        ranks: int = 1,
        plain: bool = False,
        metrics: bool = False,
    ) -> None:
        self.model = model
        self.rank = rank
        self.parallel = {
            "tp_rank": rank, "tp_size": ranks, "attn_tp_rank": rank, "attn_tp_size": ranks, "pp_rank": 0, "pp_size": 1,
            "attn_cp_rank": 0, "attn_cp_size": 1, "attn_dp_rank": 0, "attn_dp_size": 1, "attn_dcp_rank": 0, "attn_dcp_size": 1,
        }  # fmt: skip
        self.plain = plain
        with get_parallel().override(**self.parallel):
            self.pools = pools.make(model)
        allocator = TokenToKVPoolAllocator(64, model.dtype, "cpu", self.pools.device, False)
        group = None
        if not plain:
            entries = [PoolEntry(PoolName.KV, self.pools.kv, self.pools.device, lambda layer: layer, True)]
            entries += [PoolEntry(name, side.pool, None, lambda layer: layer) for name, side in self.pools.sidecars.items()]
            group = HostPoolGroup(entries)
        kind = HiCacheController if plain else HybridCacheController
        with get_parallel().override(**self.parallel):
            self.controller = kind(
                allocator,
                self.pools.kv if plain else group,
                model.page_tokens,
                None,
                threading.Event(),
                io_backend="direct",
                model_name=model.name,
                enable_storage_metrics=metrics,
            )
        self.attach(backend, config)

    def attach(self, backend: str, config: dict) -> None:
        """Attaches the backend as a request at run time does."""
        entries = {} if self.plain else {"host_pools": self.controller.mem_pool_host.entries}
        with get_parallel().override(**self.parallel):
            self.controller.attach_storage_backend(
                storage_backend=backend,
                prefetch_threshold=1,
                model_name=self.model.name,
                storage_backend_extra_config=dict(config),
                **entries,
            )

    @property
    def backend(self):
        """The storage backend."""
        return self.controller.storage_backend

    def close(self) -> None:
        """Detaches the backend."""
        if self.controller.enable_storage:
            self.controller.detach_storage_backend()

    def hashes(self, tokens: list[int]) -> list[str]:
        """The hash of each page."""
        return get_storage_hash_str(tokens, None, page_size=self.model.page_tokens)

    def store(self, tokens: list[int], seed: str | None = None) -> int:
        """Backs the pages up and gives the tokens that the backend has taken."""
        keys = self.hashes(tokens)
        indices = self.pools.kv.alloc(len(tokens))
        self._fill(PoolName.KV, self.pools.kv, indices, keys, seed)
        extra = self._transfers(keys)
        for transfer in extra:
            side = self.pools.sidecars[transfer.name]
            at = indices if side.from_kv else transfer.host_indices
            self._fill(transfer.name, side.pool, at, keys if side.from_kv else transfer.keys, seed)
        more = {} if self.plain else {"extra_pools": extra or None}
        self.controller.write_storage(indices, tokens, hash_value=keys, **more)
        operation = self._take(self.controller.ack_backup_queue)
        self.pools.kv.free(indices)
        self._free(extra)
        return operation.completed_tokens

    def hits(self, tokens: list[int]) -> int:
        """The pages that a query of the storage finds."""
        self._ask("r", tokens)
        operation = self._take(self.controller.prefetch_hit_queue)
        self._free(getattr(operation, "pool_transfers", None) or [])
        return operation.storage_hit_count // self.model.page_tokens

    def load(self, tokens: list[int], seed: str | None = None, between=None) -> int:
        """Prefetches, compares every byte of the pages that came, and gives their count. `between` runs between query and read."""
        self._ask("r", tokens)
        operation = self._take(self.controller.prefetch_hit_queue)
        if between:
            between()
        if not self._begin(operation):
            return 0
        while True:
            ack = self._take(self.controller.ack_prefetch_queue)
            if self._note(operation, ack):
                return self._end(operation, seed)

    def load_all(self, prompts: list[list[int]], aborts: set[int]) -> list[int]:
        """Prefetches prompts at once, and aborts some under way. Gives the pages of each that came with the right bytes."""
        for number, prompt in enumerate(prompts):
            self._ask(str(number), prompt)
        running, loaded = {}, [0] * len(prompts)
        for _ in prompts:
            operation = self._take(self.controller.prefetch_hit_queue)
            if self._begin(operation):
                running[operation.request_id] = operation
        for number in aborts:
            if str(number) in running:
                self.controller.terminate_prefetch(running[str(number)])
        while running:
            ack = self._take(self.controller.ack_prefetch_queue)
            if self._note(running[ack.rid], ack):
                loaded[int(ack.rid)] = self._end(running.pop(ack.rid), None, aborted=int(ack.rid) in aborts)
        return loaded

    def _begin(self, operation) -> bool:
        """Starts the read of a hit. False if there is none."""
        hit = operation.storage_hit_count
        if hit == 0:
            self._free(getattr(operation, "pool_transfers", None) or [])
            return False
        operation.host_indices = self.controller.alloc_prefetch_host_buffers(operation, hit)
        operation.loaded, operation.found = 0, {}
        for page in range(0, hit, self.model.page_tokens):
            pools.fill(self.pools.kv, int(operation.host_indices[page]), "before")
        self.controller.prefetch_buffer.put(operation)
        return True

    def _note(self, operation, ack) -> bool:
        """Takes a note of an acknowledgement. True if it is the last one."""
        if ack.completed_tokens is not None:
            operation.loaded = ack.completed_tokens
        operation.found.update(ack.pool_hits or {})
        return bool(ack.completed_req)

    def _end(self, operation, seed: str | None, aborted: bool = False) -> int:
        """Compares and frees the pages that an operation has read. Gives their count."""
        completed, indices = operation.loaded, operation.host_indices
        loaded = completed // self.model.page_tokens
        keys = operation.hash_value[:loaded]
        self._check(PoolName.KV, self.pools.kv, indices[:completed], keys, seed)
        transfers = getattr(operation, "pool_transfers", None) or []
        for transfer in transfers:
            side = self.pools.sidecars[transfer.name]
            found = operation.found.get(transfer.name.value)
            if side.from_kv:
                self._check(transfer.name, side.pool, indices[:completed], keys, seed)
            elif loaded and loaded == len(operation.hash_value) and not (aborted and not found):
                if found != len(transfer.keys):
                    raise Failed(f"{transfer.name}: {found} of {len(transfer.keys)} pages")
                self._check(transfer.name, side.pool, transfer.host_indices, transfer.keys, seed)
        self.pools.kv.free(indices)
        self._free(transfers)
        return loaded

    def _ask(self, request: str, tokens: list[int]) -> None:
        if self.plain:
            self.controller.prefetch(request, tokens)
        else:
            keys = ["?"] * (len(tokens) // self.model.page_tokens)
            self.controller.prefetch(SimpleNamespace(rid=request), tokens, extra_pools=self._transfers(keys) or None)

    def _transfers(self, keys: list[str]) -> list[PoolTransfer]:
        found = []
        for name, side in self.pools.sidecars.items():
            if side.from_kv:
                found.append(PoolTransfer(name=name, hit_policy=side.policy, indices_from_pool=PoolName.KV))
                continue
            last = keys[-side.window :]
            indices = side.pool.alloc(len(last) * side.pool.page_size)
            found.append(PoolTransfer(name=name, host_indices=indices, keys=list(last), hit_policy=side.policy))
        return found

    def _free(self, transfers: list[PoolTransfer]) -> None:
        for transfer in transfers:
            if transfer.indices_from_pool is None and transfer.host_indices is not None:
                self.pools.sidecars[transfer.name].pool.free(transfer.host_indices)

    def _seed(self, name: PoolName, key: str, seed: str | None) -> str:
        shared = self.model.mla and name != PoolName.MAMBA
        return f"{seed or self.model.name} {name} {key} {0 if shared else self.rank}"

    def _fill(self, name: PoolName, pool, indices, keys: list[str], seed: str | None) -> None:
        for page, key in enumerate(keys):
            pools.fill(pool, int(indices[page * pool.page_size]), self._seed(name, key, seed))

    def _check(self, name: PoolName, pool, indices, keys: list[str], seed: str | None) -> None:
        for page, key in enumerate(keys):
            if not pools.holds(pool, int(indices[page * pool.page_size]), self._seed(name, key, seed)):
                raise Failed(f"page {page} of {name} has other bytes")

    def _take(self, queue):
        try:
            return queue.get(timeout=TIMEOUT_S)
        except Empty:
            raise Failed(f"SGLang's controller gave no answer within {TIMEOUT_S} s") from None


@contextmanager
def engine(model: Model, backend: str, config: dict, **options) -> Iterator[Engine]:
    """An engine that ends with the block."""
    made = Engine(model, backend, config, **options)
    try:
        yield made
    finally:
        made.close()


def tokens(pages: int, model: Model, start: int = 0) -> list[int]:
    """A prompt of `pages` pages. Prompts of different `start` share no page."""
    return list(range(start, start + pages * model.page_tokens))


def until(condition, name: str) -> None:
    """Waits for the condition. Fails if it does not hold in time."""
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > end:
            raise Failed(f"not within {TIMEOUT_S} s: {name}")
        time.sleep(0.01)
