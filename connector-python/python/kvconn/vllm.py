"""A secondary tier for vLLM's `TieringOffloadingSpec` over any store of kvconn.

.. code-block:: json

    {"kv_connector": "OffloadingConnector", "kv_role": "kv_both", "kv_connector_extra_config": {
      "spec_name": "TieringOffloadingSpec", "cpu_bytes_to_use": 8589934592, "block_size": 256,
      "secondary_tiers": [{"type": "kvconn", "url": "redis://127.0.0.1:6379"}]}}

With ``"type": "KvconnTier"`` and ``"module_path": "kvconn.vllm"`` it works without kvconn's plugin, from vLLM 0.28 on.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from kvconn import _libraries, _vllm_files
from kvconn._errors import KvconnError, of_open
from kvconn._identity import warn_once
from kvconn._kvconn import EngineClient
from kvconn._vllm_lookups import Lookups

try:
    from vllm.distributed.kv_transfer.kv_connector.v1.offloading.metrics import OffloadingConnectorStats
    from vllm.v1.kv_offload.base import (
        Locality,
        LookupResult,
        Medium,
        OffloadingCounterMetadata,
        OffloadingEvent,
        OffloadingGaugeMetadata,
        OffloadingMetricMetadata,
        RequestOffloadingContext,
    )
    from vllm.v1.kv_offload.tiering.base import JobResult, SecondaryTierManager

    from kvconn import _vllm_identity, _vllm_metrics
except ImportError as e:
    if e.name == "vllm":
        raise ImportError("`kvconn.vllm` needs vLLM 0.27 to 0.33: run `pip install 'kvconn[vllm]'`") from e
    raise ImportError(f"`kvconn.vllm` needs vLLM 0.27 to 0.33, whose tiers it extends, and cannot import them: {e}") from e

if TYPE_CHECKING:
    from vllm.v1.kv_offload.base import OffloadingSpec, OffloadKey, ReqContext, ScheduleEndContext
    from vllm.v1.kv_offload.tiering.base import TransferJob

__all__ = ["KvconnTier"]

_log = logging.getLogger("kvconn.vllm")

# The changes of vLLM's releases. kvconn looks at the classes, not at the version, because forks have versions of their own.
#
#   0.28  `JobResult` has `successful_keys` and `transfer_time`. Before, a partial load failed as a whole.
#   0.30  The rows of a job are `chunk_ids`. Before, they were `block_ids`.
#   0.31  `JobResult` has `transfer_bytes`, and the constructor takes `backpressure_detector`.
_RESULT_FIELDS = frozenset(JobResult.__dataclass_fields__)

_METRIC = "vllm:kv_offload_kvconn_"
# Names of `EngineClient.stats`, and vLLM's documentation of the metric.
_COUNTERS = {
    "stored_keys": "Chunks that were written to the store.",
    "stored_bytes": "Bytes that were written to the store.",
    "failed_stores": "Store jobs that failed, in whole or in part.",
    "shed_stores": "Store jobs that were dropped because the backlog was full.",
    "shed_bytes": "Bytes of the store jobs that were dropped because the backlog was full.",
    "loaded_keys": "Chunks that were read from the store.",
    "loaded_bytes": "Bytes that were read from the store.",
    "failed_loads": "Load jobs that failed with an error, in whole or in part.",
    "stale_keys": "Chunks that were misses because the store has them with another length.",
    "lookup_keys": "Chunks that the store was asked for.",
    "found_keys": "Chunks that the store was asked for and has.",
    "lookup_timeouts": "Lookups that were answered with a miss because the store did not answer in time.",
    "lookups_refused": "Lookups that were answered with a miss because an earlier one had no answer yet.",
}
_GAUGES = {
    "store_backlog_bytes": "Bytes of store jobs that wait or run.",
    "pinned_bytes": "Bytes of the primary tier that store and load jobs hold.",
    "overdue_jobs": "Jobs that hold their rows for more than 30 seconds after they began.",
    "lost": "1 if the store did not answer the last call, else 0.",
}


class KvconnTier(SecondaryTierManager):  # type: ignore[misc]
    """Keeps the chunks of vLLM's primary tier in the store with this URL.

    vLLM calls all methods on its scheduler's thread, or under one lock. None of them waits for the store, except `drain_jobs` and
    `shutdown`. Rows go between the primary tier and the store without a copy in Python.

    `url` is a URL of any store. `namespace` and `revision` say which weights a local model has; `namespace` also separates the chunks of
    engines that must not share. `locality` is `LOCAL` or `REMOTE`. `options` are options of the store and of kvconn's engine client,
    such as `lookup_timeout_ms`.

    Raises `InvalidError`, a `ValueError`, for an option with a wrong value. A store that cannot be reached is a warning.
    """

    medium: ClassVar[Medium] = Medium.STORAGE

    def __init__(
        self,
        offloading_spec: OffloadingSpec,
        primary_kv_view: memoryview,
        tier_type: str,
        backpressure_detector: Any = None,
        *,
        url: str = "",
        locality: str | None = None,
        enable_kv_events: bool = False,
        namespace: str = "",
        revision: str = "",
        **options: object,
    ) -> None:
        detector = () if backpressure_detector is None else (backpressure_detector,)
        super().__init__(offloading_spec, primary_kv_view, tier_type, *detector)
        _check("url", url, str, "redis://127.0.0.1:6379")
        if not url:
            raise of_open("invalid_option", "the tier has no `url`", 'write `"url": "redis://127.0.0.1:6379"`')
        _check("enable_kv_events", enable_kv_events, bool, True)
        _check("namespace", namespace, str, "prod")
        _check("revision", revision, str, "2026-11-01")
        if locality is not None and (not isinstance(locality, str) or locality not in Locality.__members__):
            raise of_open("invalid_option", f"option `locality`: `{locality}` is not a locality", "write `LOCAL` or `REMOTE`")
        self.locality = None if locality is None else Locality[locality]
        self._events: list[OffloadingEvent] | None = None
        if enable_kv_events:
            if offloading_spec.kv_events_config.enable_kv_cache_events:
                self._events = []
            else:
                _log.warning("the tier `%s` sends no events: vLLM's own are off (`--kv-events-config`)", tier_type)
        self._client = _open(offloading_spec, primary_kv_view, url, namespace, revision, options)
        self._lookups = Lookups()
        # Whether this step has already asked for answers. `on_schedule_end` starts the next step.
        self._answered = False
        # Jobs whose results vLLM does not have yet: their keys, and the request of a load.
        self._stores: dict[int, list[OffloadKey]] = {}
        self._loads: dict[int, tuple[list[OffloadKey], str]] = {}
        self._counted: dict[str, float] = {}

    # -- Lookups

    def on_new_request(self, req_context: ReqContext) -> RequestOffloadingContext:
        """Asks vLLM for each new chunk of the request once."""
        return RequestOffloadingContext()

    def lookup(self, key: OffloadKey, req_context: ReqContext) -> LookupResult:
        """HIT or MISS once the store has answered this request, RETRY before."""
        if not self._answered:
            self._answered = True
            self._take_answers()
        found = self._lookups.ask(key, req_context.req_id)
        if found is None:
            return LookupResult.RETRY
        return LookupResult.HIT if found else LookupResult.MISS

    def on_schedule_end(self, context: ScheduleEndContext) -> None:
        """Asks the store for all keys of this step in one question."""
        self._answered = False
        question = self._lookups.question()
        if question is not None:
            self._client.submit_lookup(*question)

    def on_request_finished(self, req_context: ReqContext) -> None:
        """Forgets the answers of the request."""
        self._lookups.finish(req_context.req_id)

    def _take_answers(self) -> None:
        for tag, present, error, _, _ in self._client.drain_lookups():
            if error:
                _log.debug("a lookup of %d chunks failed: %s", len(present), error)
            self._lookups.answer(tag, present)

    # -- Transfers

    def submit_store(self, job_metadata: TransferJob) -> None:
        """Writes the job's rows to the store."""
        keys = list(job_metadata.keys)
        self._stores[job_metadata.job_id] = keys
        self._client.submit_store(job_metadata.job_id, keys, rows=_rows(job_metadata))

    def submit_load(self, job_metadata: TransferJob) -> None:
        """Reads the job's rows from the store."""
        keys = list(job_metadata.keys)
        self._loads[job_metadata.job_id] = keys, job_metadata.req_context.req_id
        self._client.submit_load(job_metadata.job_id, keys, rows=_rows(job_metadata))

    def get_finished_jobs(self) -> Iterable[JobResult]:
        """One result for each job that has ended since the last call. A key that did not load is a miss for its request."""
        results = []
        for job_id, stored, error, seconds, moved in self._client.drain_stores():
            keys = self._stores.pop(job_id)
            success = all(stored)
            if not success:
                _log.debug("%d of %d chunks were not stored: %s", stored.count(0), len(keys), error)
            elif self._events is not None and keys:
                self._events.append(OffloadingEvent(keys=keys, medium=self.medium, removed=False, locality=self.locality))
            results.append(_result(job_id, success, None, seconds, moved))
        for job_id, loaded, error, seconds, moved in self._client.drain_loads():
            keys, request = self._loads.pop(job_id)
            success = all(loaded)
            kept = None
            if not success:
                _log.debug("%d of %d chunks were not loaded: %s", loaded.count(0), len(keys), error)
                # Otherwise vLLM would ask for the same chunks again and again.
                self._lookups.missed(request, [key for key, present in zip(keys, loaded) if not present])
                kept = tuple(key for key, present in zip(keys, loaded) if present) or None
            results.append(_result(job_id, success, kept, seconds, moved))
        return results

    def has_pending_work(self) -> bool:
        """Whether vLLM must keep stepping because a transfer has not been reported."""
        return bool(self._stores or self._loads)

    def drain_jobs(self) -> None:
        """Waits until no thread, socket or disk touches a row. `get_finished_jobs` then has the results of all jobs."""
        self._client.wait_idle()

    def touch(self, keys: Collection[OffloadKey], req_context: ReqContext) -> None:
        """Does nothing: a store counts a read of a chunk as its use. Calls to the store in each step would cost more than they save."""

    # -- Reports

    def take_events(self) -> Iterable[OffloadingEvent]:
        """One event for each job that was stored whole since the last call. Empty unless events are on here and in vLLM."""
        events = self._events or []
        if events:
            self._events = []
        return events

    @classmethod
    def build_metric_definitions(cls, extra_config: dict[str, Any]) -> dict[str, OffloadingMetricMetadata]:
        """The metrics of `get_stats`: those of the tier, with the label `tier`, and those of `kvconn.metrics`."""
        counters = {name: OffloadingCounterMetadata(documentation=text, labelnames=("tier",)) for name, text in _COUNTERS.items()}
        gauges = {name: OffloadingGaugeMetadata(documentation=text, labelnames=("tier",)) for name, text in _GAUGES.items()}
        return {_METRIC + name: metadata for name, metadata in (counters | gauges).items()} | _vllm_metrics.definitions()

    def get_stats(self) -> OffloadingConnectorStats | None:
        """The changes of the counters, the gauges that changed, and new observations, since the last call. None without a change."""
        now = self._client.stats()
        stats = OffloadingConnectorStats()
        labels = (self.tier_type,)
        for name in _COUNTERS:
            more = now.get(name, 0) - self._counted.get(name, 0)
            if more:
                stats.increase_counter(_METRIC + name, more, labels)
        for name in _GAUGES:
            if now.get(name) not in (None, self._counted.get(name)):
                stats.set_gauge(_METRIC + name, now[name], labels)
        self._counted = now
        _vllm_metrics.REPORTS.add_to(stats)
        return None if stats.is_empty() else stats

    def shutdown(self) -> None:
        """Waits until no row is touched, closes the store, and gives the view back. A second call does nothing.

        Logs an error of the store's own close. vLLM would take it for a tier that still uses the rows, and leave them.
        """
        try:
            self._client.close()
        except KvconnError as e:
            _log.error("the store failed to close: %s", e)


def _open(
    spec: OffloadingSpec, view: memoryview, url: str, namespace: str, revision: str, options: dict[str, object]
) -> EngineClient:
    """The client of the tier's store, with the names that this specification's chunks have there."""
    if view.strides is None:
        raise of_open("invalid_option", "vLLM's view of the primary tier has no rows", "use vLLM 0.27 to 0.33")
    connector = _vllm_files.connector(url, options)
    has_namespace = connector is not None and "namespace" in connector.options
    if namespace and has_namespace:
        # It is in the names of the chunks, too, for the stores that do not have this option.
        options = options | {"namespace": namespace}
    folders = _vllm_files.folders(url, options)
    content: dict[str, object] = {}
    if folders:
        if namespace and not has_namespace:
            hint = "write it into the URL of the `fs` store"
            raise of_open("invalid_option", "option `namespace`: the names of vLLM's files do not contain it", hint)
        names, content = _vllm_identity.of_files(spec)
    else:
        namespace = namespace or _vllm_files.query(url).get("namespace", "")
        names = _vllm_identity.identify(spec, view.strides[0], namespace, revision)
    _log.info("kvconn's chunks have the model `%s` and the rank %d", names.model, names.kv_rank)
    kind: type[EngineClient] = _libraries.of_url(url, options).EngineClient
    client = kind(url, options, engine="vllm", model=names.model, kv_rank=names.kv_rank, rows=view)
    for folder in folders:
        _vllm_files.describe(folder, names.model, content)
    if client.has_secret:
        warn_once(
            _log,
            "the tier's configuration has a secret, and vLLM logs its arguments: use the option's twin for a file "
            "(`password_file`, `secret_access_key_file`), or `${NAME}`",
        )
    return client


def _check(name: str, value: object, kind: type, example: object) -> None:
    """Refuses a tier's option that has another type, and says how to write it."""
    if not isinstance(value, kind):
        hint = f'write `"{name}": {json.dumps(example)}`'
        raise of_open("invalid_option", f"option `{name}` is a {type(value).__name__}, not a {kind.__name__}", hint)


def _rows(job: TransferJob) -> Any:
    """The job's rows of the primary tier, one for each key: a numpy array of int32."""
    rows = getattr(job, "chunk_ids", None)
    return getattr(job, "block_ids") if rows is None else rows


def _result(job_id: int, success: bool, kept: tuple[OffloadKey, ...] | None, seconds: float, moved: int) -> JobResult:
    """The result of a job, with the fields that this vLLM has."""
    fields: dict[str, Any] = {"successful_keys": kept, "transfer_time": seconds, "transfer_bytes": moved}
    return JobResult(job_id, success, **{name: value for name, value in fields.items() if name in _RESULT_FIELDS})


def __getattr__(name: str) -> Any:
    """Names the class to a user of another name: vLLM shows this error as it is."""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
