"""Where the chunks of a tier are: vLLM's own fs tier, and kvconn's tier over each store."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

import kvconn

from ..s3_server import S3Server
from ..server import RedisServer
from ..topology_servers import TOPOLOGIES, topology


class Place(ABC):
    """A store, and the tier's part of vLLM's configuration that uses it."""

    def __init__(self, name: str, tier: dict[str, object]) -> None:
        self.name = name
        self.tier = tier

    @abstractmethod
    def hashes(self) -> list[str]:
        """The block hashes of all chunks that are stored, in hex, each as often as it is stored."""

    @abstractmethod
    def remove(self, keys: Iterable[bytes]) -> None:
        """Removes these chunks without the tier."""

    @abstractmethod
    def shorten(self, key: bytes) -> None:
        """Makes one stored chunk one byte shorter."""


class VllmFs(Place):
    """vLLM's own tier on files, the reference for kvconn's."""

    def __init__(self, folder: Path) -> None:
        super().__init__("vLLM's fs tier", {"type": "fs", "root_dir": str(folder), "n_read_threads": 2, "n_write_threads": 2})
        self.folder = folder

    def hashes(self) -> list[str]:
        return [path.stem for path in self._files()]

    def remove(self, keys: Iterable[bytes]) -> None:
        unwanted = {key[:-4].hex() for key in keys}
        for path in self._files():
            if path.stem in unwanted:
                path.unlink()

    def shorten(self, key: bytes) -> None:
        for path in self._files():
            if path.stem == key[:-4].hex():
                path.write_bytes(path.read_bytes()[:-1])

    def _files(self) -> list[Path]:
        return list(self.folder.rglob("*.bin"))


class Store(Place):
    """kvconn's tier over the store with this URL. On a busy machine, a lookup can take longer than a tier waits by default."""

    def __init__(self, name: str, url: str) -> None:
        super().__init__(name, {"type": "kvconn", "url": url, "lookup_timeout_ms": 30_000})
        self.url = url

    def hashes(self) -> list[str]:
        with kvconn.connect(self.url) as store:
            return [key.split("@")[3] for key in store.list()]

    def remove(self, keys: Iterable[bytes]) -> None:
        unwanted = {key[:-4].hex() for key in keys}
        with kvconn.connect(self.url) as store:
            for key in list(store.list()):
                if key.split("@")[3] in unwanted:
                    store.remove(key)

    def shorten(self, key: bytes) -> None:
        with kvconn.connect(self.url) as store:
            for name in list(store.list()):
                if name.split("@")[3] == key[:-4].hex():
                    store.put(name, bytes(store.get(name))[:-1])


@contextmanager
def places(*names: str) -> Iterator[list[Place]]:
    """The places with these names, all empty. Without names: all of them but `TOPOLOGIES`."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="kvconn-vllm-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        found: list[Place] = []
        wanted = names or ("vllm", "memory", "fs", "fs, vLLM's layout", "redis", "resp", "s3", "tiered")
        server = stack.enter_context(RedisServer()) if {"redis", "resp", "tiered"} & set(wanted) else None
        objects = stack.enter_context(S3Server()) if "s3" in wanted else None
        for name in wanted:
            below = folder / name.replace(" ", "-").replace(",", "")
            below.mkdir()
            if name in TOPOLOGIES:
                found.append(Store(name, stack.enter_context(topology(name))))
            else:
                found.append(_place(name, below, server, objects))
        yield found


def _place(name: str, folder: Path, server: RedisServer | None, objects: S3Server | None) -> Place:
    if name == "vllm":
        return VllmFs(folder)
    if name == "memory":
        return Store(name, f"memory://{uuid.uuid4().hex}")
    if name == "fs":
        return Store(name, f"fs://{folder}")
    if name == "fs, vLLM's layout":
        return Store(name, f"fs://{folder}?layout=vllm")
    if name == "s3":
        assert objects is not None
        return Store(name, objects.ours("vllm"))
    assert server is not None
    # A database each, because all of these are on one server.
    address = f"127.0.0.1:{server.port}"
    if name == "redis":
        return Store(name, f"redis://{address}/1")
    if name == "resp":
        return Store(name, f"resp://{address}?database=2")
    front, back = quote(f"memory://{uuid.uuid4().hex}", safe=""), quote(f"redis://{address}/3", safe="")
    return Store(name, f"tiered://?front={front}&back={back}")
