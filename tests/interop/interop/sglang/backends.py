"""Storage backends for one check: SGLang's own `file`, and kvconn's over each store."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import kvconn

from ..s3_server import S3Server
from ..server import RedisServer
from ..topology_servers import TOPOLOGIES, topology

# A busy machine may need longer than kvconn's default for a question.
KVCONN = {
    "backend_name": "kvconn",
    "module_path": "kvconn.sglang",
    "class_name": "KvconnHiCache",
    "interface_v1": 1,
    "lookup_timeout_ms": 30_000,
}
# So that a check of a lost server does not wait long.
TIMEOUTS = {"timeout_ms": 4000}


@dataclass
class Backend:
    """The configuration with which SGLang opens a fresh store."""

    name: str
    kind: str
    config: dict
    folder: Path | None = None
    server: RedisServer | S3Server | None = None

    def with_options(self, **options) -> dict:
        """The configuration with more options."""
        return {**self.config, **options}

    def keys(self) -> list[str]:
        """The names of all objects."""
        if self.kind == "file":
            return [name for name in os.listdir(self.folder) if name.endswith(".bin")]
        with kvconn.connect(self.config["url"]) as store:
            return list(store.list())

    def drop(self, wanted: str = "") -> int:
        """Removes the objects that have `wanted` in their names, and gives their count."""
        gone = [key for key in self.keys() if wanted in key]
        if self.kind == "file":
            for name in gone:
                (self.folder / name).unlink()
        else:
            with kvconn.connect(self.config["url"]) as store:
                for key in gone:
                    store.remove(key)
        return len(gone)


@contextmanager
def backend(name: str) -> Iterator[Backend]:
    """An empty store. `name` is `file`, `memory`, `fs`, `redis`, `resp`, `s3`, `tiered`, or one of `TOPOLOGIES`."""
    with tempfile.TemporaryDirectory(prefix="kvconn-interop-") as folder:
        path = Path(folder)
        if name == "file":
            yield Backend(name, "file", {"file_storage_path": folder}, path)
        elif name in ("redis", "resp"):
            with RedisServer() as server:
                yield Backend(name, "dynamic", {**KVCONN, **TIMEOUTS, "url": f"{name}://127.0.0.1:{server.port}"}, server=server)
        elif name in TOPOLOGIES:
            with topology(name) as url:
                yield Backend(name, "dynamic", {**KVCONN, **TIMEOUTS, "url": url})
        elif name == "s3":
            with S3Server() as objects:
                yield Backend(name, "dynamic", {**KVCONN, **TIMEOUTS, "url": objects.ours("sglang")}, server=objects)
        else:
            url = {
                "memory": f"memory://{path.name}",
                "fs": f"fs://{folder}",
                "tiered": f"tiered://?front=memory://{path.name}&back=fs://{folder}",
            }[name]
            # The memory of a name is there as long as one store of that name is open.
            with kvconn.connect(f"memory://{path.name}"):
                yield Backend(name, "dynamic", {**KVCONN, "url": url}, path)
