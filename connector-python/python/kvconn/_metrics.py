"""The metrics of all libraries of this process."""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple, NotRequired, TypeAlias, TypedDict

from kvconn import _kvconn, _libraries

#: Names and values of labels, sorted by name.
Labels: TypeAlias = tuple[tuple[str, str], ...]
#: A histogram's observations in each bucket, without those of lower buckets, and their sum.
Histogram: TypeAlias = tuple[list[int], float]

#: The upper bounds of a histogram's buckets. One more bucket has the observations above them.
BOUNDS: tuple[float, ...] = tuple(_kvconn.METRIC_BUCKETS)
#: The bounds as Prometheus writes them.
LE: tuple[str, ...] = (*(f"{bound:g}" if bound < 1 else f"{bound:.1f}" for bound in BOUNDS), "+Inf")


class MetricSample(TypedDict):
    """The value of a metric with these labels."""

    labels: dict[str, str]
    """The labels by name: ``{"connector": "kvconn.fs/FSConnector", "instance": .., "operation": "get"}``."""
    value: float
    """The value. A histogram's is the number of its observations."""
    sum: NotRequired[float]
    """Of a histogram: the sum of its observations."""
    buckets: NotRequired[dict[str, int]]
    """Of a histogram: the number of observations up to each bound, by bound: ``{"0.0001": 3, .., "+Inf": 9}``."""


class Family(NamedTuple):
    """One metric, with the samples of all libraries added up."""

    name: str
    kind: str
    """``counter``, ``gauge`` or ``histogram``."""
    unit: str
    """``seconds``, ``bytes``, or empty."""
    help: str
    labels: tuple[str, ...]
    """The names of the labels, in the order of the documentation."""
    numbers: dict[Labels, float]
    """The samples of a counter or gauge."""
    histograms: dict[Labels, Histogram]
    """The samples of a histogram."""

    @property
    def base(self) -> str:
        """The name without ``_total``."""
        return self.name.removesuffix("_total")

    def samples(self) -> list[MetricSample]:
        """The samples as `metrics` gives them."""
        plain = [MetricSample(labels=dict(labels), value=number) for labels, number in self.numbers.items()]
        for labels, (counts, total) in self.histograms.items():
            below = list(accumulate(counts))
            plain.append(MetricSample(labels=dict(labels), value=below[-1], sum=total, buckets=dict(zip(LE, below))))
        return plain


def families() -> list[Family]:
    """The metrics of all libraries that are loaded, sorted by name."""
    merged: dict[str, Family] = {}
    for library in _libraries.loaded():
        for name, kind, unit, text, labels, samples in library.metrics():
            family = merged.setdefault(name, Family(name, kind, unit, text, tuple(labels), {}, {}))
            if family.kind != kind:
                continue
            for key, value in samples:
                if kind == "histogram":
                    counts, total = family.histograms.get(key, ([0] * len(LE), 0.0))
                    family.histograms[key] = ([a + b for a, b in zip(counts, value[0])], total + value[1])
                else:
                    family.numbers[key] = family.numbers.get(key, 0.0) + value
    return [merged[name] for name in sorted(merged)]


def metrics() -> dict[str, list[MetricSample]]:
    """The metrics of this process, by name.

    They count all stores of this process since it began, also those that are closed. A child of ``fork`` starts at zero. The
    metrics are always on; docs/operate/metrics.md explains each one. The dict may be written as JSON.

    Returns:
        A list of samples for each metric. It is empty while nothing was recorded. A sample is a dict with ``labels`` (a dict) and
        ``value`` (a float). A sample of a histogram (``kvconn_call_seconds``, in seconds) also has ``sum`` and ``buckets``; its
        ``value`` is the number of observations.

    >>> import kvconn
    >>> with kvconn.connect("memory://counted") as store:
    ...     store.get("meta-llama/Llama-3.1-8B@1@0@1f2e3d@bfloat16")
    >>> any(sample["labels"]["instance"] == "counted" for sample in kvconn.metrics()["kvconn_misses_total"])
    True
    """
    return {family.name: family.samples() for family in families()}

