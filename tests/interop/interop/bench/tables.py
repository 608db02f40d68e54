"""Formats the summaries as Markdown. Each function gives an empty text if no table has its operations."""

from .figures import Summary, Table

SINGLE = {
    "lookup": "`batched_contains`, µs",
    "contains": "`contains`, µs",
    "contains_loop": "`contains` with `use_exists_sync: false`, µs",
    "loop": "round trip of LMCache's loop, µs",
}


HEADLINE = (
    ("LMCache's server, redis", "redis", "1MiB", "kvconn resp"),
    ("LMCache's server, valkey", "topology-valkey", "1MiB", "KvconnL2Adapter"),
    ("LMCache's server, files", "fs", "1MiB", "kvconn fs"),
    ("LMCache's server, S3", "s3-adapter-8", "4MiB", "KvconnL2Adapter"),
    ("LMCache inside vLLM, redis", "external", "1MiB", "kvconn external"),
    ("LMCache inside vLLM, S3", "s3-connector-8", "4MiB", "kvconn plugin"),
    ("vLLM, files", "vllm-fs", "1MiB", "kvconn fs"),
    ("vLLM, redis", "vllm-redis", "1MiB", "kvconn resp"),
    ("SGLang, files", "sglang-fs", "1MiB", "kvconn fs"),
    ("SGLang, redis", "sglang-redis", "1MiB", "kvconn resp"),
)
"""The columns of the summary: the engine and the store, the group, the size of the chunks, and kvconn's client."""


def headline(tables: list[Table]) -> str:
    """Makes the summary: kvconn's rates and CPU times, each divided by those of the first client of its group."""
    heads = ["get ×", "put ×", "lookup ×", "get, CPU ×", "put, CPU ×"]
    rows = _head(["engine and store", "chunk", "beside"], heads)
    for where, group, size, client in HEADLINE:
        for table in tables:
            if (table.group, table.size) == (group, size):
                (beside, first), ours = next(iter(table.clients.items())), table.clients[client]
                cells = [where, size, beside, *(f"**{ours[op].ratio:.2f}**" for op in ("get", "put", "exists"))]
                cells += [f"{ours[op].cpu / first[op].cpu:.2f}" for op in ("get", "put")]
                rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def batches(tables: list[Table]) -> str:
    """Makes a table of the operations on batches."""
    tables = [table for table in tables if any("get" in ops for ops in table.clients.values())]
    asked = any("exists" in ops for table in tables for ops in table.clients.values())
    heads = ["get GiB/s", "×", "CPU s/GiB", "put GiB/s", "×", "CPU s/GiB"] + ["exists/s", "×"] * asked
    rows = _head(["store", "chunk", "client"], heads)
    for table in tables:
        for name, ops in table.clients.items():
            cells = [table.group, table.size, name]
            for op in ("get", "put"):
                cells += [_rate(ops[op]), _ratio(ops[op].ratio), f"{ops[op].cpu:.2f}"]
            if asked:
                cells += [f"{ops['exists'].rate:,.0f}", _ratio(ops["exists"].ratio)] if "exists" in ops else ["", ""]
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) if tables else ""


def bursts(tables: list[Table]) -> str:
    """Makes a table of the first batches of a process. They open the client's connections and start its threads."""
    tables = [table for table in tables if any("first get" in ops for ops in table.clients.values())]
    rows = _head(["store", "chunk", "client"], ["first put, ms", "×", "CPU s/GiB", "first get, ms", "×", "CPU s/GiB"])
    for table in tables:
        for name, ops in table.clients.items():
            cells = [table.group, table.size, name]
            for op in ("first put", "first get"):
                cells += [f"{1e3 / ops[op].rate:.2f}", _ratio(ops[op].ratio and 1 / ops[op].ratio), f"{ops[op].cpu:.2f}"]
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) if tables else ""


SCALE = {
    "list": "list",
    "cp": "`cp`",
    "exists of 10,000": "exists of 10,000",
    "first put, scan": "first put below a `capacity`",
    "longest put, scan": "longest of the later puts",
    "first put, evict": "put that evicts half",
    "longest put, evict": "longest of the later puts",
}


def scales(tables: list[Table]) -> str:
    """Makes a table of single calls on stores with very many chunks: milliseconds, and the memory of the process."""
    shown = [op for op in SCALE if any(op in ops for table in tables for ops in table.clients.values())]
    rows = _head(["store", "client"], [f"{SCALE[op]}, ms" for op in shown])
    for table in tables:
        for name, ops in table.clients.items():
            if any(op in ops for op in shown):
                cells = [_single(ops[op]) if op in ops else "" for op in shown]
                rows.append(f"| {' | '.join([table.group, name, *cells])} |")
    return "\n".join(rows) if shown else ""


def _single(summary: Summary) -> str:
    """Milliseconds, and MiB in parentheses."""
    milliseconds = 1e3 / summary.rate
    shown = f"{milliseconds:,.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"
    return shown + ("" if summary.peak is None else f" ({summary.peak:,.0f} MiB)")


def cpu(tables: list[Table]) -> str:
    """Makes a table of the CPU time of each store and interface, beside the first client's."""
    rows = _head(["store", "chunk", "client"], ["get, CPU s/GiB", "×", "put, CPU s/GiB", "×"])
    for table in tables:
        first, *_ = table.clients.values()
        for name, ops in table.clients.items():
            cells = [table.group, table.size, name]
            for op in ("get", "put"):
                cells += [f"{ops[op].cpu:.3f}", "" if ops is first else f"{ops[op].cpu / first[op].cpu:.2f}"]
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _head(words: list[str], numbers: list[str]) -> list[str]:
    return [f"| {' | '.join(words + numbers)} |", "|" + "---|" * len(words) + "---:|" * len(numbers)]


def singles(tables: list[Table]) -> str:
    """Makes a table of the calls for one key: the time of a call, and its ratio. Empty if the tables have no such calls."""
    shown = [op for op in SINGLE if any(op in ops for table in tables for ops in table.clients.values())]
    heads = [cell for op in shown for cell in (SINGLE[op], "×")]
    rows = [f"| chunk | client | {' | '.join(heads)} |", "|---|---|" + "---:|" * len(heads)]
    for table in tables:
        for name, ops in table.clients.items():
            if any(op in ops for op in shown):
                cells = [cell for op in shown for cell in (f"{1e6 / ops[op].rate:.0f}", _ratio(ops[op].ratio and 1 / ops[op].ratio))]
                rows.append(f"| {' | '.join([table.size, name, *cells])} |")
    return "\n".join(rows) if shown else ""


CALLS = {
    "present": "lookup of 64 present keys, µs",
    "absent": "of 64 absent keys, µs",
    "call": "longest of 99.9 % of its calls, µs",
    "busy": "CPU of 99.9 % of its calls, µs",
    "longest": "longest, µs",
}


def calls(tables: list[Table]) -> str:
    """Makes a table of the calls that an engine waits for. Empty if the tables have no such calls."""
    tables = [table for table in tables if any("present" in ops for ops in table.clients.values())]
    shown = [op for op in CALLS if any(op in ops for table in tables for ops in table.clients.values())]
    heads = [CALLS[op] for op in shown] + ["reads of the server, present and absent"]
    rows = [f"| store | chunk | client | {' | '.join(heads)} |", "|---|---|---|" + "---:|" * len(heads)]
    for table in tables:
        for name, ops in table.clients.items():
            cells = [f"{1e6 / ops[op].rate:,.0f}" if op in ops else "" for op in shown]
            trips = [f"{ops[op].reads:g}" for op in ("present", "absent") if op in ops and ops[op].reads is not None]
            rows.append(f"| {' | '.join([table.group, table.size, name, *cells, ' and '.join(trips)])} |")
    return "\n".join(rows) if tables else ""


def costs(tables: list[Table]) -> str:
    """Makes a table of the clients' CPU time beside the first one's, that of a lookup, and memory. Empty if no table has a peak."""
    tables = [table for table in tables if all("get" in ops and ops["get"].peak is not None for ops in table.clients.values())]
    heads = ["get, CPU ×", "put, CPU ×", "exists, CPU µs", "get, peak MiB", "put, peak MiB"]
    rows = [f"| store | chunk | client | {' | '.join(heads)} |", "|---|---|---|" + "---:|" * len(heads)]
    for table in tables:
        first, *_ = table.clients.values()
        for name, ops in table.clients.items():
            cells = ["" if ops is first else f"{ops[op].cpu / first[op].cpu:.2f}" for op in ("get", "put")]
            cells.append(f"{ops['exists'].cpu:.0f}")
            cells += [f"{ops[op].peak:.0f}" for op in ("get", "put")]
            rows.append(f"| {' | '.join([table.group, table.size, name, *cells])} |")
    return "\n".join(rows) if tables else ""


def _rate(summary: Summary) -> str:
    return f"**{summary.rate:.2f}** ({summary.low:.2f} to {summary.high:.2f})"


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"
