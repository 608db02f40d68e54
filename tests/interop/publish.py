#!/usr/bin/env python3
"""Writes docs/benchmarks.svg, docs/limits.svg, and the tables of docs/benchmarks.md and docs/benchmarks-tables.md from the results.

docs/benchmarks.json has LMCache's clients, docs/engines.json the engines' stores, docs/objects.json the object stores,
docs/topologies.json TLS, a cluster and valkey, and docs/limits.json bursts, big chunks, long wires, many keys and CPU time.
"""

import json
from pathlib import Path

from interop.bench import chart
from interop.bench.figures import Table
from interop.bench.tables import batches, bursts, calls, costs, cpu, headline, scales, singles

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = ("benchmarks.md", "benchmarks-tables.md")
END = "<!-- to here -->"
NAMES = {"vllm": "vLLM", "sglang": "SGLang", "lmcache": "LMCache"}
RESULTS = ("benchmarks", "engines", "objects", "topologies", "limits")
"""The files of docs/, without `.json`."""
LIMITS = ("burst", "big", "latency", "cores", "scale", "cpu")
"""The sections of docs/limits.json. The names of their groups start with these words."""
CHARTED = LIMITS[:4]


def render(results: dict[str, dict], pages: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Gives the charts and the pages by the names of their files. A page has new tables between its markers."""
    tables = {name: [Table.from_json(table) for table in of["tables"]] for name, of in results.items()}
    sections = {name: (name, [batches(of)]) for name, of in tables.items() if name != "limits"}
    sections["benchmarks"][1].extend(
        ["One call at a time, inside vLLM's process. × is the time of a call divided by LMCache's time:", singles(tables["benchmarks"])]
    )
    sections["engines"][1].extend(["The calls that an engine waits for:", calls(tables["engines"])])
    sections["objects"][1].append(costs(tables["objects"]))
    limits = tables.get("limits", [])
    for kind in LIMITS:
        of = [table for table in limits if _kind(table) == kind]
        parts = [batches(of), bursts(of), scales(of)]
        if kind == "cpu":
            parts = [cpu(of + [table for name in ("benchmarks", "engines") for table in tables[name] if _is_face(table)])]
        if of:
            drawn = ["![get and put, GiB/s](limits.svg)"] if kind == CHARTED[0] else []
            sections[kind] = ("limits", [part for part in drawn + parts if part])
    written = {"headline": [headline([table for of in tables.values() for table in of])]}
    written |= {marker: [_conditions(results[name]), *parts] for marker, (name, parts) in sections.items()}
    for marker, parts in written.items():
        begin = f"<!-- tests/interop/publish.py writes {marker} from here -->"
        [page] = [name for name, text in pages.items() if begin in text]
        pages = pages | {page: _between(begin, parts, pages[page])}
    charts = {"benchmarks.svg": chart.svg(tables["benchmarks"])}
    if charted := [table for table in limits if _kind(table) in CHARTED]:
        charts["limits.svg"] = chart.svg(charted)
    return charts, pages


def _kind(table: Table) -> str:
    return table.group.split("-")[0]


def _is_face(table: Table) -> bool:
    """Whether the table has an engine's interface, and chunks of the size of the groups `cpu`."""
    return table.size == "1MiB" and _kind(table) in ("external", "lmcache", "vllm", "sglang")


def read() -> tuple[dict[str, str], dict[str, str]]:
    """Renders the files in docs/."""
    files = {name: DOCS / f"{name}.json" for name in RESULTS}
    results = {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}
    return render(results, {name: (DOCS / name).read_text() for name in PAGES})


def _conditions(results: dict) -> str:
    versions = "".join(f", {name} {results['versions'][package]}" for package, name in NAMES.items() if package in results["versions"])
    return f"Measured on {results['measured']} ({results['machine']}){versions}; rounds: {results['rounds']}."


def _between(begin: str, parts: list[str], page: str) -> str:
    before, rest = page.split(begin)
    _, after = rest.split(END, 1)
    return "\n\n".join([before + begin, *parts, END + after])


if __name__ == "__main__":
    charts, pages = read()
    for name, text in (charts | pages).items():
        (DOCS / name).write_text(text)
