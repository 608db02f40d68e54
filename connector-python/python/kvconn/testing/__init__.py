"""For tests of code that uses a store: the contract's checks, a store with faults, and fixtures for pytest.

- `conformance` runs the checks of kvconn's contract against a store.
- `faulty_url` gives the URL of a store with latency, errors and misses, for a program or an engine.
- `kvconn.testing.pytest_plugin` has fixtures: ``pytest_plugins = ["kvconn.testing.pytest_plugin"]`` in a ``conftest.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

import kvconn
from kvconn import _libraries
from kvconn._errors import InvalidError

__all__ = ["CheckResult", "ConformanceError", "Report", "conformance", "faulty_url"]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check and its outcome."""

    name: str
    """The check's name: ``"put_replaces"``."""
    chapter: str
    """The chapter of the contract: ``"overwriting"``."""
    rule: str
    """The behaviour that the check shows, as one sentence."""
    outcome: Literal["passed", "failed", "skipped"]
    """A check is skipped if its rule does not apply to the store, or if it needs a check that failed."""
    why: str | None
    """Why the check failed or was skipped."""
    seconds: float
    """The time that the check took."""
    needs: str | None = None
    """The failed check that this one needs. The outcome is ``"skipped"`` then."""

    def __str__(self) -> str:
        why = "" if self.why is None else f": {self.why}"
        rule = f" (the rule: {self.rule})" if self.outcome == "failed" else ""
        return f"{self.name}: {self.outcome}{why}{rule}"


@dataclass(frozen=True, slots=True)
class Report:
    """The results of a run, in the order of the checks.

    Its text has the failures, the cause first; the checks that were skipped; and a line with the counts.
    """

    checks: tuple[CheckResult, ...]
    """The result of each check."""

    @property
    def passed(self) -> bool:
        """Whether at least one check passed, and none failed."""
        return not self.failures and any(check.outcome == "passed" for check in self.checks)

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        """The checks that failed."""
        return self._with("failed")

    @property
    def skipped(self) -> tuple[CheckResult, ...]:
        """The checks that do not apply to the store, or that need a check that failed. The report does not cover their rules."""
        return self._with("skipped")

    def _with(self, outcome: str) -> tuple[CheckResult, ...]:
        return tuple(check for check in self.checks if check.outcome == outcome)

    def __str__(self) -> str:
        lines = [str(check) for check in (*self.failures, *self.skipped) if check.needs is None]
        needed = Counter(check.needs for check in self.skipped if check.needs is not None)
        lines += [f"{n} skipped: they need `{name}`, which failed" for name, n in needed.items()]
        failed, skipped = len(self.failures), len(self.skipped)
        lines.append(f"{len(self.checks) - failed - skipped} passed, {failed} failed, {skipped} skipped")
        return "\n".join(lines)


class ConformanceError(AssertionError):
    """The store does not keep the contract. The message is the report.

    Attributes:
        report: the results of all checks.
    """

    def __init__(self, report: Report) -> None:
        super().__init__(report)
        self.report = report


def conformance(
    url: str,
    *,
    checks: str | None = None,
    check_timeout: float = 60.0,
    progress: Callable[[CheckResult], object] | None = None,
    **options: Any,
) -> Report:
    """Runs the checks of kvconn's contract against the store that ``url`` names. ``kvconn check URL`` does the same.

    The checks use keys of their own and remove them. They need room for about 200 MiB.

    >>> from kvconn.testing import conformance
    >>> print(conformance("memory://example", checks="overwriting").failures)
    ()

    Args:
        url: as in `kvconn.connect`.
        checks: a chapter, or a part of the names of checks. All checks by default.
        check_timeout: the most seconds of one check. A check that takes longer fails. A small call that takes an eighth of it hangs,
            and the remaining checks are skipped.
        progress: called with each result when its check has ended. ``print`` shows them.
        options: the store's options, as in `kvconn.connect`.

    Returns:
        The report of a store that keeps the contract.

    Raises:
        ConformanceError: a check failed. It is an `AssertionError`, so that a test fails.
        KvconnError: the store cannot be opened, or ``checks`` names none.
    """
    if not check_timeout > 0:
        raise InvalidError(f"`check_timeout` is {check_timeout} seconds, which leaves no time for a check", "invalid_input")
    library = _libraries.of_url(url, options)
    chapters = {chapter: None for _, chapter in library._checks()}
    if checks is not None and checks not in chapters and not any(checks in name for name, _ in library._checks()):
        raise InvalidError(
            f"no check has {checks!r} in its name, and it is not a chapter; the chapters are {', '.join(chapters)}", "invalid_input"
        )
    # One error for a store that cannot be opened, in place of one for each check.
    kvconn.connect(url, **options).close()
    return _report((CheckResult(*row) for row in library._conformance(url, options, checks, check_timeout)), progress)


def _report(results: Iterable[CheckResult], progress: Callable[[CheckResult], object] | None) -> Report:
    done = []
    for result in results:
        done.append(result)
        if progress is not None:
            progress(result)
    report = Report(tuple(done))
    if not report.passed:
        raise ConformanceError(report)
    return report


def faulty_url(
    back: str,
    *,
    error_rate: float = 0.0,
    error: Literal["unavailable", "timeout", "throttled", "corrupt", "store_full"] = "unavailable",
    miss_rate: float = 0.0,
    latency_ms: float = 0.0,
    operations: Iterable[str] = (),
    seed: int = 0,
) -> str:
    """The URL of a store that makes faults in front of the store ``back``, for `kvconn.connect` or an engine.

    The faults are the same in every run. They depend on the seed, the operation, the key, and the number of earlier calls.

    >>> import kvconn
    >>> from kvconn.testing import faulty_url
    >>> url = faulty_url("memory://example", error_rate=0.1, latency_ms=5)
    >>> url
    'faulty://?back=memory%3A%2F%2Fexample&error_rate=0.1&latency_ms=5'
    >>> kvconn.connect(url).close()

    Args:
        back: the URL of the store behind, also of another wheel that has ``faulty``.
        error_rate: the share of calls that fail, from 0 to 1; in a batch, of keys.
        error: the kind of the errors.
        miss_rate: the share of ``get`` and ``exists`` that do not find their key.
        latency_ms: the milliseconds before each call. A batch is one call.
        operations: the operations that have errors and misses: ``exists``, ``get``, ``put``, ``remove``, ``list``, ``ping``,
            ``servers``. All of them by default.
        seed: another seed gives other faults at the same rates.
    """
    values = {
        "back": back,
        "error_rate": error_rate,
        "error": error,
        "miss_rate": miss_rate,
        "latency_ms": latency_ms,
        "operations": operations if isinstance(operations, str) else ",".join(operations),
        "seed": seed,
    }
    usual = {"error": "unavailable"}
    named = {name: value for name, value in values.items() if value and value != usual.get(name)}
    return "faulty://?" + "&".join(f"{name}={quote(str(value), safe='')}" for name, value in named.items())
