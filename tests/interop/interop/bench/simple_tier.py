"""The simplest tier over redis-py: one thread, one pipeline a job, and a blocking question for each lookup."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from redis import Redis
from vllm.v1.kv_offload.base import LookupResult, ReqContext, RequestOffloadingContext
from vllm.v1.kv_offload.tiering.base import JobResult, SecondaryTierManager, TransferJob


class SimpleTier(SecondaryTierManager):
    """A tier to compare with kvconn's. It has only the methods that the measurement calls."""

    def __init__(self, port: int, **given: object) -> None:
        super().__init__(**given)
        self.redis = Redis(port=port)
        self.thread = ThreadPoolExecutor(1)
        self.jobs: list[tuple[int, Future[float]]] = []
        self.rows = self._primary_kv_view.cast("B")

    def on_new_request(self, req_context: ReqContext) -> RequestOffloadingContext:
        """Does nothing: the tier keeps no state of a request."""
        return RequestOffloadingContext()

    def lookup(self, key: bytes, req_context: ReqContext) -> LookupResult:
        """Asks the server and waits."""
        return LookupResult.HIT if self.redis.exists(key) else LookupResult.MISS

    def submit_store(self, job_metadata: TransferJob) -> None:
        """Queues the job."""
        self.jobs.append((job_metadata.job_id, self.thread.submit(self._store, job_metadata)))

    def submit_load(self, job_metadata: TransferJob) -> None:
        """Queues the job."""
        self.jobs.append((job_metadata.job_id, self.thread.submit(self._load, job_metadata)))

    def get_finished_jobs(self) -> Iterable[JobResult]:
        """The jobs that have ended."""
        ended = [(job, future) for job, future in self.jobs if future.done()]
        self.jobs = [(job, future) for job, future in self.jobs if not future.done()]
        return [JobResult(job, future.exception() is None) for job, future in ended]

    def drain_jobs(self) -> None:
        """Waits for all jobs."""
        for _, future in self.jobs:
            future.exception()

    def shutdown(self) -> None:
        """Ends the thread, and gives the rows back."""
        self.thread.shutdown()
        self.rows.release()
        self.redis.close()

    def _row(self, index: int) -> memoryview:
        return self.rows[index * self.block_size_bytes : (index + 1) * self.block_size_bytes]

    def _store(self, job: TransferJob) -> float:
        start = time.monotonic()
        with self.redis.pipeline(transaction=False) as pipe:
            for key, row in zip(job.keys, job.chunk_ids, strict=True):
                with self._row(row) as value:
                    pipe.set(key, bytes(value))
            pipe.execute()
        return time.monotonic() - start

    def _load(self, job: TransferJob) -> float:
        start = time.monotonic()
        for row, value in zip(job.chunk_ids, self.redis.mget(list(job.keys)), strict=True):
            with self._row(row) as view:
                view[:] = value
        return time.monotonic() - start
