"""SGLang's storage backends: its own `file`, the simplest one over redis-py, and kvconn's."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch

from ..server import RedisServer
from ..sglang import pools
from ..sglang.engine import Engine, tokens
from ..sglang.pools import Model
from .figures import GIB, Figure, Round, clocked
from .groups import Group, files
from .reads import reads

# The pages that SGLang's controller passes in one call.
CALL_PAGES = 128
BATCHES = 2
LOOKUPS = 200
LOOKUP_KEYS = 64
PAGE_TOKENS, HEADS, HEAD_DIM = 64, 8, 128
# Keys and values of one layer, two bytes an element.
LAYER_BYTES = 2 * PAGE_TOKENS * HEADS * HEAD_DIM * 2


class Backend:
    """Calls a backend as the threads of SGLang's controller do: 128 pages a call. Each round has a new backend and new pools."""

    def __init__(
        self, kind: str, options: dict[str, object], size: int, n: int, clear: Callable[[], None], server: RedisServer | None = None
    ) -> None:
        self.kind, self.options, self.n, self.clear, self.server = kind, options, n, clear, server
        self.bytes = size * n
        layers, rest = divmod(size, LAYER_BYTES)
        if rest:
            raise ValueError(f"a page of {size} bytes does not have whole layers of {LAYER_BYTES} bytes")
        self.model = Model("bench/llama", page_tokens=PAGE_TOKENS, layers=layers, heads=HEADS, head_dim=HEAD_DIM, dtype=torch.bfloat16)

    def round(self) -> Round:
        """Measures each operation once, after a warm-up."""
        # Main memory has the pages that are stored and those that are loaded.
        pools.DEVICE_PAGES, pools.HOST_RATIO = self.n, 2.5
        engine = Engine(self.model, self.kind, self.options, plain=True)
        try:
            hashes = engine.hashes(tokens(self.n, self.model))
            pool = engine.pools.kv
            stored, loaded = pool.alloc(self.n * PAGE_TOKENS), pool.alloc(self.n * PAGE_TOKENS)
            for page, key in enumerate(hashes):
                pools.fill(pool, int(stored[page * PAGE_TOKENS]), key)
            self._moved(engine, hashes, stored, loaded, 1)
            moved = self._moved(engine, hashes, stored, loaded, BATCHES)
            if not all(pools.holds(pool, int(loaded[page * PAGE_TOKENS]), key) for page, key in enumerate(hashes)):
                raise RuntimeError("the pages that were loaded differ from the pages that were stored")
            return moved | self._lookups(engine, hashes)
        finally:
            engine.close()

    def close(self) -> None:
        """Does nothing: no backend is open between rounds."""

    def _moved(self, engine: Engine, hashes: list[str], stored: torch.Tensor, loaded: torch.Tensor, batches: int) -> Round:
        operation = SimpleNamespace(request_id="bench", is_terminated=lambda: False)

        def put() -> None:
            for names, indices in _calls(hashes, stored):
                if not engine.controller.page_set_func(names, indices):
                    raise RuntimeError("pages were not stored")

        def get() -> None:
            for names, indices in _calls(hashes, loaded):
                if engine.controller.page_get_func(operation, names, indices) != len(names):
                    raise RuntimeError("a stored page is missing")

        found: dict[str, list[Figure]] = {"put": [], "get": []}
        for _ in range(batches):
            self.clear()
            found["put"].append(clocked(self.bytes / GIB, put))
            found["get"].append(clocked(self.bytes / GIB, get))
        return {
            name: Figure(statistics.harmonic_mean(figure.rate for figure in of), statistics.fmean(figure.cpu for figure in of))
            for name, of in found.items()
        }

    def _lookups(self, engine: Engine, hashes: list[str]) -> Round:
        # A prompt of fewer pages is asked for several times.
        present = (hashes * LOOKUP_KEYS)[:LOOKUP_KEYS]
        absent = engine.hashes(tokens(LOOKUP_KEYS, self.model, start=self.n * PAGE_TOKENS))
        found = {}
        for name, names, wanted in (("present", present, len(present)), ("absent", absent, 0)):

            def look(names: list[str] = names, wanted: int = wanted) -> None:
                for _ in range(LOOKUPS):
                    if (count := engine.backend.batch_exists(names)) != wanted:
                        raise RuntimeError(f"a lookup finds {count} pages instead of {wanted}")

            before = reads(self.server)
            figure = clocked(LOOKUPS, look)
            after = reads(self.server)
            # The last question is the bench's own.
            found[name] = replace(figure, reads=None if before is None or after is None else (after - before - 1) / LOOKUPS)
        return found | {"exists": replace(found["present"], rate=found["present"].rate * len(present))}


def _calls(hashes: list[str], indices: torch.Tensor) -> Iterator[tuple[list[str], torch.Tensor]]:
    for first in range(0, len(hashes), CALL_PAGES):
        names = hashes[first : first + CALL_PAGES]
        yield names, indices[first * PAGE_TOKENS : (first + len(names)) * PAGE_TOKENS]


@contextmanager
def fs(folder: Path, _pause: float) -> Iterator[Group]:
    """Files."""
    with files(folder) as (root, clear):
        clients = {
            "SGLang file": lambda size, n: Backend("file", {"file_storage_path": f"{root}/sglang"}, size, n, clear),
            "kvconn fs": lambda size, n: Backend("dynamic", _ours(f"fs://{root}/kvconn"), size, n, clear),
        }
        yield f"files in {folder}: SGLang's `HiCacheFile`, `KvconnHiCache` on `fs://`", clients, clear


@contextmanager
def redis(_folder: Path, _pause: float) -> Iterator[Group]:
    """A redis server."""
    with RedisServer() as server:

        def clear() -> None:
            server.ask("FLUSHALL")

        simple = {"backend_name": "simple", "module_path": "interop.bench.simple_backend", "class_name": "SimpleBackend", "port": server.port}
        clients = {
            "redis-py": lambda size, n: Backend("dynamic", simple, size, n, clear, server),
            "kvconn resp": lambda size, n: Backend("dynamic", _ours(f"resp://127.0.0.1:{server.port}"), size, n, clear, server),
            "kvconn redis": lambda size, n: Backend("dynamic", _ours(f"redis://127.0.0.1:{server.port}"), size, n, clear, server),
        }
        yield "redis server: the simplest backend over redis-py, `KvconnHiCache` on `resp://` and `redis://`", clients, clear


def _ours(url: str) -> dict[str, object]:
    return {"backend_name": "kvconn", "module_path": "kvconn.sglang", "class_name": "KvconnHiCache", "interface_v1": 1, "url": url}


GROUPS = {"sglang-fs": fs, "sglang-redis": redis}
