"""kvconn's metrics on the pages of ``prometheus_client``, also on those of other processes.

In the multiprocess mode of ``prometheus_client``, a page shows files that each process writes. kvconn then writes its values to such files
every two seconds. No call of a store waits for that.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from kvconn import _metrics

if TYPE_CHECKING:
    from logging import Logger

    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import CollectorRegistry

#: Seconds between two writes of the files.
WRITE_EVERY = 2.0

#: Guards the variables below. A fork waits for the end of a write: a child could never take a lock that another thread held.
_lock = threading.Lock()
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
#: The registries that have the collector.
_registries: WeakSet[CollectorRegistry] = WeakSet()
#: The process that writes the files.
_writer: int | None = None


def export_prometheus(registry: CollectorRegistry | None = None) -> None:
    """Shows kvconn's metrics on the pages of ``prometheus_client``.

    Adds a collector to the registry. It reads the metrics when a page is asked for, so it costs nothing between two requests. A second
    call does nothing. In multiprocess mode (``PROMETHEUS_MULTIPROC_DIR``), this process also writes its metrics to the files of
    that mode every two seconds. So they are on the page of every process of the program. Call it in each process with stores, after
    the fork. Inside LMCache and SGLang, kvconn calls it itself.

    Args:
        registry: the registry; by default ``prometheus_client.REGISTRY``.

    Raises:
        ImportError: ``prometheus_client`` is not installed.
        ValueError: the registry has metrics of these names already.
    """
    import prometheus_client
    from prometheus_client import values

    registry = registry or prometheus_client.REGISTRY
    with _lock:
        if registry not in _registries:
            registry.register(Collector())
            _registries.add(registry)
        # `ValueClass` is chosen when prometheus_client is imported. A variable that was set later has no effect.
        if getattr(values.ValueClass, "_multiprocess", False):
            _start_writer()


def export_in_engine() -> None:
    """Shows kvconn's metrics beside those of the engine in this process, if that is possible."""
    try:
        export_prometheus()
    except (ImportError, ValueError) as e:
        _logger().debug("kvconn's metrics are not on the pages of prometheus_client: %s", e)
    except OSError as e:
        _logger().warning("kvconn's metrics are not in PROMETHEUS_MULTIPROC_DIR: %s", e)


class Collector:
    """Gives the metrics of this process to a registry of ``prometheus_client``."""

    def collect(self) -> Iterator[Metric]:
        """All metrics with their samples."""
        from prometheus_client.metrics_core import Metric

        for family in _metrics.families():
            metric = Metric(family.base, family.help, family.kind, family.unit)
            name = family.base + "_total" if family.kind == "counter" else family.name
            for labels, number in family.numbers.items():
                metric.add_sample(name, dict(labels), number)
            for labels, (counts, total) in family.histograms.items():
                below = [*accumulate(counts)]
                for bound, count in zip(_metrics.LE, below):
                    metric.add_sample(f"{name}_bucket", {**dict(labels), "le": bound}, count)
                metric.add_sample(f"{name}_count", dict(labels), below[-1])
                metric.add_sample(f"{name}_sum", dict(labels), total)
            yield metric

    #: The registry refuses a second collector with these names.
    describe = collect


class _Files:
    """The values of this process in the files of multiprocess mode."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, _metrics.Labels], Any] = {}

    def write(self) -> None:
        """Writes all values. The caller holds the lock."""
        for family in _metrics.families():
            base = family.base
            for labels, number in family.numbers.items():
                self._value(family, base + "_total" if family.kind == "counter" else base, labels).set(number)
            for labels, (counts, total) in family.histograms.items():
                for bound, count in zip(_metrics.LE, counts):
                    self._value(family, f"{base}_bucket", (*labels, ("le", bound))).set(count)
                self._value(family, f"{base}_sum", labels).set(total)

    def _value(self, family: _metrics.Family, name: str, labels: _metrics.Labels) -> Any:
        value = self._values.get((name, labels))
        if value is None:
            from prometheus_client import values

            names, texts = zip(*labels) if labels else ((), ())
            value = values.ValueClass(family.kind, family.base, name, names, texts, family.help, multiprocess_mode="livesum")
            self._values[name, labels] = value
        return value

    def run(self) -> None:
        """Writes all values again and again."""
        while True:
            time.sleep(WRITE_EVERY)
            try:
                with _lock:
                    self.write()
            except Exception as e:
                _logger().warning("kvconn's metrics are not in PROMETHEUS_MULTIPROC_DIR any more: %s: %s", type(e).__name__, e)
                return


def _start_writer() -> None:
    global _writer
    if _writer == os.getpid():
        return
    files = _Files()
    # The first write is here, so that a missing directory is an error of this call.
    files.write()
    _writer = os.getpid()
    threading.Thread(target=files.run, name="kvconn-metrics", daemon=True).start()
    atexit.register(_write_last, files, os.getpid())


def _write_last(files: _Files, process: int) -> None:
    """Writes the last values, in the process that started the writer."""
    if process == os.getpid():
        with _lock:
            files.write()


def _logger() -> Logger:
    # Imported late, because it takes longer than all of kvconn.
    from logging import getLogger

    return getLogger("kvconn")

