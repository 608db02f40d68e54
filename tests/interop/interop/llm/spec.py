"""vLLM's `TieringOffloadingSpec` for a CPU worker.

vLLM's own worker copies rows between a GPU and main memory, and refuses a CPU. This one copies within main memory. The scheduler's
side, which has the tiers, is vLLM's. A configuration names it by `spec_name` and `spec_module_path`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from vllm.v1.kv_offload.base import CanonicalKVCaches, GPULoadStoreSpec, OffloadingWorker, TransferResult
from vllm.v1.kv_offload.cpu.common import CPULoadStoreSpec
from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion
from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec


class CpuTieringSpec(TieringOffloadingSpec):
    """Makes the worker below."""

    def get_worker(self, kv_caches: CanonicalKVCaches) -> OffloadingWorker:
        """Maps the region that the scheduler's tiers read and write."""
        region = SharedOffloadRegion(
            engine_id=self.config.engine_id,
            num_chunks=self.num_chunks,
            rank=self.config.parallel.rank,
            kv_bytes_per_chunk=self.kv_bytes_per_chunk,
            cpu_page_size=self.cpu_page_size_per_worker,
        )
        return CpuWorker(kv_caches, region, self.blocks_per_chunk)


class CpuWorker(OffloadingWorker):
    """Copies blocks when a job is submitted, so a job has ended when its submit returns."""

    def __init__(self, kv_caches: CanonicalKVCaches, region: SharedOffloadRegion, blocks_per_chunk: int) -> None:
        self.region, self.blocks_per_chunk = region, blocks_per_chunk
        self.groups = kv_caches.group_data_refs
        # Each of shape (blocks, bytes of a block).
        self.blocks = [cache.tensor.view(torch.int8).view(-1, cache.page_size_bytes) for cache in kv_caches.tensors]
        # Each of shape (chunks, blocks of a chunk, bytes of a block).
        self.chunks = [
            region.create_next_worker_view(cache.page_size_bytes * blocks_per_chunk).unflatten(1, (blocks_per_chunk, -1))
            for cache in kv_caches.tensors
        ]
        self.finished: list[TransferResult] = []

    def submit_store(self, job_id: int, src_spec: GPULoadStoreSpec, dst_spec: CPULoadStoreSpec) -> bool:
        """Copies from the cache of the model to the rows of the primary tier."""
        return self._copy(job_id, src_spec, dst_spec, store=True)

    def submit_load(self, job_id: int, src_spec: CPULoadStoreSpec, dst_spec: GPULoadStoreSpec) -> bool:
        """Copies from the rows of the primary tier to the cache of the model."""
        return self._copy(job_id, dst_spec, src_spec, store=False)

    def get_finished(self) -> list[TransferResult]:
        """The jobs that ended since the last call."""
        finished, self.finished = self.finished, []
        return finished

    def wait(self, job_ids: set[int]) -> None:
        """Does nothing: no job runs after its submit."""

    def shutdown(self) -> None:
        """Unmaps the region."""
        self.blocks, self.chunks = [], []
        self.region.cleanup()

    def _copy(self, job_id: int, blocks: GPULoadStoreSpec, chunks: CPULoadStoreSpec, *, store: bool) -> bool:
        start, moved = time.perf_counter(), 0
        for group, block, chunk, part in self._places(blocks, chunks):
            for ref in self.groups[group]:
                near = self.blocks[ref.tensor_idx][block, : ref.page_size_bytes]
                far = self.chunks[ref.tensor_idx][chunk, part, : ref.page_size_bytes]
                source, target = (near, far) if store else (far, near)
                target.copy_(source)
                moved += ref.page_size_bytes
        self.finished.append(TransferResult(job_id, True, moved, time.perf_counter() - start))
        return True

    def _places(self, blocks: GPULoadStoreSpec, chunks: CPULoadStoreSpec) -> Iterator[tuple[int, int, int, int]]:
        """Gives the group, the block, the chunk, and the block's place in the chunk. A job may start in the middle of a chunk."""
        block, chunk = 0, 0
        for group, (count, first) in enumerate(zip(blocks.group_sizes, blocks.block_indices, strict=True)):
            skipped = first % self.blocks_per_chunk
            for i in range(skipped, skipped + count):
                row, part = divmod(i, self.blocks_per_chunk)
                yield group, int(blocks.block_ids[block]), int(chunks.chunk_ids[chunk + row]), part
                block += 1
            if count:
                chunk += -(-(skipped + count) // self.blocks_per_chunk)
