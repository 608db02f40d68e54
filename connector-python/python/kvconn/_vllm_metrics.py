"""kvconn's metrics on vLLM's page.

The tier runs in vLLM's engine process, and the page is in vLLM's API server. So the metrics go with vLLM's own statistics of a
tier: the increases of counters, the values of gauges, and observations. The API server adds its labels ``model_name`` and ``engine``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

from vllm.v1.kv_offload import base

from kvconn import _kvconn, _metrics

#: Seconds between two reports: vLLM asks in each step of its scheduler.
REPORT_EVERY = 1.0

#: Earlier releases of vLLM may lack it. They do not show histograms.
_HISTOGRAM: Any = getattr(base, "OffloadingHistogramMetadata", None)


def definitions() -> dict[str, Any]:
    """vLLM's definition of each metric of kvconn's own library."""
    defined: dict[str, Any] = {}
    for name, kind, _, text, labels, _ in _kvconn.metrics():
        if kind == "histogram":
            if _HISTOGRAM is not None:
                defined[name] = _HISTOGRAM(documentation=text, labelnames=tuple(labels), buckets=_metrics.BOUNDS)
            continue
        metadata = base.OffloadingCounterMetadata if kind == "counter" else base.OffloadingGaugeMetadata
        defined[name.removesuffix("_total")] = metadata(documentation=text, labelnames=tuple(labels))
    return defined


class Reports:
    """The values that vLLM has. One for the whole process, because the metrics are those of the process."""

    def __init__(self) -> None:
        self.restart()
        # A child of `fork` has no metrics at first, and a counter must not go down.
        os.register_at_fork(after_in_child=self.restart)

    def restart(self) -> None:
        """Forgets the values that vLLM has."""
        self._numbers: dict[tuple[str, _metrics.Labels], float] = {}
        self._histograms: dict[tuple[str, _metrics.Labels], _metrics.Histogram] = {}
        self._defined: dict[str, Any] = {}
        self._next = 0.0

    def add_to(self, stats: Any) -> None:
        """Adds the changes to vLLM's ``stats``, at most once a second."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + REPORT_EVERY
        self._defined = self._defined or definitions()
        for family in _metrics.families():
            definition = self._defined.get(family.base)
            # vLLM's API server fails on a metric that it does not know, such as one of an author's wheel.
            if definition is not None:
                self._add(stats, family, definition.labelnames)

    def _add(self, stats: Any, family: _metrics.Family, names: tuple[str, ...]) -> None:
        for labels, number in family.numbers.items():
            before = self._numbers.get((family.name, labels), 0.0)
            if number == before:
                continue
            self._numbers[family.name, labels] = number
            texts = _texts(labels, names)
            if family.kind == "counter":
                stats.increase_counter(family.base, number - before, texts)
            else:
                stats.set_gauge(family.base, number, texts)
        for labels, (counts, total) in family.histograms.items():
            old_counts, old_total = self._histograms.get((family.name, labels), ([0] * len(counts), 0.0))
            self._histograms[family.name, labels] = counts, total
            new = [count - old for count, old in zip(counts, old_counts)]
            for value in observations(new, total - old_total):
                stats.observe_histogram(family.base, value, _texts(labels, names))


def observations(counts: list[int], total: float) -> Iterator[float]:
    """Values with these numbers in the buckets of `_metrics.BOUNDS`, and with this sum.

    vLLM takes observations only. Each value lies at the same share of its bucket, so that the sum is right. Values above the last bound
    are equal.
    """
    edges = (0.0, *_metrics.BOUNDS)
    lows = [count * low for count, low in zip(counts, edges)]
    widths = [count * (high - low) for count, low, high in zip(counts, edges, edges[1:])]
    above = counts[-1]
    share = 0.5 if above else min(max((total - sum(lows)) / sum(widths), 1e-9), 1.0) if sum(widths) else 1.0
    for count, low, high in zip(counts, edges, edges[1:]):
        yield from [min(low + share * (high - low), high)] * count
    if above:
        rest = total - sum(lows[:-1]) - share * sum(widths)
        yield from [max(rest / above, edges[-1] * 1.000001)] * above


def _texts(labels: _metrics.Labels, names: tuple[str, ...]) -> tuple[str, ...]:
    """The values of the labels, in the order of their names."""
    by_name = dict(labels)
    return tuple(by_name.get(name, "") for name in names)


REPORTS = Reports()
