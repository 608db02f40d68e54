#!/usr/bin/env python3
"""Writes docs/benchmarks.svg, and the tables of docs/BENCHMARKS.md from the results beside it.

docs/benchmarks.json has LMCache's clients, docs/engines.json the engines' stores, docs/objects.json the object stores, and
docs/topologies.json TLS, a cluster and valkey.
"""

import json
from pathlib import Path

from interop.bench import chart
from interop.bench.figures import Table, batches, calls, costs, singles

DOCS = Path(__file__).resolve().parents[2] / "docs"
RESULTS, ENGINES, OBJECTS = DOCS / "benchmarks.json", DOCS / "engines.json", DOCS / "objects.json"
TOPOLOGIES = DOCS / "topologies.json"
CHART, PAGE = DOCS / "benchmarks.svg", DOCS / "BENCHMARKS.md"
LMCACHE_BEGIN = "<!-- tests/interop/publish.py writes from here -->"
ENGINES_BEGIN = "<!-- tests/interop/publish.py writes the engines from here -->"
OBJECTS_BEGIN = "<!-- tests/interop/publish.py writes the object stores from here -->"
TOPOLOGIES_BEGIN = "<!-- tests/interop/publish.py writes the topologies from here -->"
END = "<!-- to here -->"
NAMES = {"lmcache": "LMCache", "vllm": "vLLM", "sglang": "SGLang"}


def render(results: dict, engines: dict | None, objects: dict | None, topologies: dict | None, page: str) -> tuple[str, str]:
    """Gives the chart, and the page with new tables between its markers."""
    tables = [Table.from_json(table) for table in results["tables"]]
    parts = [_conditions(results, ["lmcache"]), batches(tables)]
    if single := singles(tables):
        parts += ["One call at a time, inside vLLM's process. × is the time of a call divided by LMCache's time:", single]
    page = _between(LMCACHE_BEGIN, parts, page)
    parts = ["Not measured yet."]
    if engines:
        of_engines = [Table.from_json(table) for table in engines["tables"]]
        parts = [_conditions(engines, ["vllm", "sglang", "lmcache"]), batches(of_engines)]
        parts += ["The calls that an engine waits for:", calls(of_engines)]
    page = _between(ENGINES_BEGIN, parts, page)
    parts = ["Not measured yet."]
    if objects:
        of_objects = [Table.from_json(table) for table in objects["tables"]]
        parts = [_conditions(objects, ["lmcache"]), batches(of_objects), costs(of_objects)]
    page = _between(OBJECTS_BEGIN, parts, page)
    parts = ["Not measured yet."]
    if topologies:
        parts = [_conditions(topologies, ["lmcache"]), batches([Table.from_json(table) for table in topologies["tables"]])]
    return chart.svg(tables), _between(TOPOLOGIES_BEGIN, parts, page)


def read() -> tuple[str, str]:
    """Renders the files in docs/."""
    others = (json.loads(file.read_text()) if file.exists() else None for file in (ENGINES, OBJECTS, TOPOLOGIES))
    return render(json.loads(RESULTS.read_text()), *others, PAGE.read_text())


def _conditions(results: dict, packages: list[str]) -> str:
    versions = ", ".join(f"{NAMES[package]} {results['versions'][package]}" for package in packages if package in results["versions"])
    return f"Measured on {results['measured']} ({results['machine']}), {versions}, {results['rounds']} rounds."


def _between(begin: str, parts: list[str], page: str) -> str:
    before, rest = page.split(begin)
    _, after = rest.split(END, 1)
    return "\n\n".join([before + begin, *parts, END + after])


if __name__ == "__main__":
    drawn, written = read()
    CHART.write_text(drawn)
    PAGE.write_text(written)
