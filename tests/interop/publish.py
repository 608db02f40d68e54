#!/usr/bin/env python3
"""Writes docs/benchmarks.svg and the tables of docs/BENCHMARKS.md from docs/benchmarks.json."""

import json
from pathlib import Path

from interop.bench import chart
from interop.bench.figures import Table, batches, singles

DOCS = Path(__file__).resolve().parents[2] / "docs"
RESULTS, CHART, PAGE = DOCS / "benchmarks.json", DOCS / "benchmarks.svg", DOCS / "BENCHMARKS.md"
BEGIN, END = "<!-- tests/interop/publish.py writes from here -->", "<!-- to here -->"


def render(results: dict, page: str) -> tuple[str, str]:
    """Gives the chart, and the page with new tables between its markers."""
    tables = [Table.from_json(table) for table in results["tables"]]
    parts = [f"Measured on {results['measured']} ({results['machine']}), LMCache {results['versions']['lmcache']}, {results['rounds']} rounds."]
    parts.append(batches(tables))
    if single := singles(tables):
        parts += ["One call at a time, inside vLLM's process. × is the time of a call divided by LMCache's time:", single]
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return chart.svg(tables), "\n\n".join([before + BEGIN, *parts, END + after])


if __name__ == "__main__":
    drawn, written = render(json.loads(RESULTS.read_text()), PAGE.read_text())
    CHART.write_text(drawn)
    PAGE.write_text(written)
