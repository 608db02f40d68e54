"""A real `lmcache server`: the lines of docs/engines/lmcache.md, its HTTP interface, and hashes in several processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..report import Failed, Report, equal
from ..server import RedisServer
from .manager import spec, wait_for

TIMEOUT_S = 240
_DOCUMENT = Path(__file__).parents[4] / "docs" / "engines" / "lmcache.md"
_SHAPE = "(2,64,16,4,16):float16:2"


def run(report: Report) -> None:
    """Runs all checks of this part."""
    with report.check("lmcache-server: the lines of docs/engines/lmcache.md end with a hit in another process"):
        _documented()
    with report.check("lmcache-server: HTTP lists keys, usage and status after a restart, and deletes"):
        _http()
    with report.check("lmcache-server: chunk hashes of several processes"):
        _hashes()


def _environment() -> dict[str, str]:
    return os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]), "LMCACHE_LOG_LEVEL": "INFO"}


def _documented() -> None:
    text = _DOCUMENT.read_text()
    block = re.search(r"```console\n(.*?)```", text[text.index("## As a server") :], re.DOTALL)[1]
    commands = re.findall(r"^\$ (.*(?:\n    .*)*)", block, re.MULTILINE)
    # The wheel is installed, and the server runs.
    commands = [command for command in commands if not re.match("pip |redis-server ", command)]
    equal("lines to run", len(commands), 5)
    with RedisServer() as redis, tempfile.TemporaryDirectory(prefix="kvconn-interop-") as folder:
        rpc, http = _free_ports(2)
        script = "\n".join(commands).replace("127.0.0.1:6379", f"127.0.0.1:{redis.port}").replace("127.0.0.1:8080", f"127.0.0.1:{http}")
        script = script.replace("lmcache server ", f"lmcache server --port {rpc} --http-port {http} ")
        script = script.replace("bench server ", f"bench server --rpc-url tcp://localhost:{rpc} --url http://localhost:{http} ")
        done = subprocess.run(
            ["bash", "-c", script], cwd=folder, env=_environment(), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        lookups = re.findall(r"cold\] LOOKUP: (\d+)/2 chunks", done.stdout)
        checksums = re.findall(r"CHECKSUM: (\w+)", done.stdout)
        log = (Path(folder) / "log").read_text()[-2000:]
        equal(f"chunks that the cold lookups find ({done.stdout}{done.stderr}{log})", lookups, ["0", "2"])
        # The first server computes one before and one after its store.
        equal("checksums", (len(checksums), len(set(checksums))), (3, 1))


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@contextmanager
def _serve(adapter: str, *arguments: str) -> Iterator[tuple[int, int, Path]]:
    """The ports of a server for requests and for HTTP, and its log."""
    rpc, http = _free_ports(2)
    folder = Path(tempfile.mkdtemp(prefix="kvconn-interop-"))
    command = ["lmcache", "server", "--port", str(rpc), "--http-port", str(http), "--l1-size-gb", "0.5", "--eviction-policy", "LRU"]
    command += ["--supported-transfer-mode", "auto", "--disable-metrics", *arguments, "--l2-adapter", adapter]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, env=_environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_for(f"the server starts ({' '.join(command)})", lambda: server.poll() is not None or _is_up(http), TIMEOUT_S)
        if server.poll() is not None:
            raise Failed(f"the server ends with {server.returncode}: {(folder / 'log').read_text()[-2000:]}")
        yield rpc, http, folder / "log"
    finally:
        server.terminate()
        try:
            server.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
            raise Failed(f"the server did not end within {TIMEOUT_S} s: {(folder / 'log').read_text()[-2000:]}") from None
        finally:
            shutil.rmtree(folder)


def _is_up(http: int) -> bool:
    try:
        return _ask(http, "/healthcheck")["status"] == "healthy"
    except OSError:
        return False


def _ask(http: int, path: str, method: str = "GET", body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{http}{path}", data=data, method=method, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        return json.load(answer)


def _bench(rpc: int, http: int) -> list[int]:
    """Stores and reads two chunks. Gives the chunks that each cold lookup found."""
    command = ["lmcache", "bench", "server", "--mode", "cpu", "--end", "1", "--kvcache-shape-spec", _SHAPE]
    command += ["--rpc-url", f"tcp://localhost:{rpc}", "--url", f"http://localhost:{http}"]
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise Failed(f"the bench ends with {done.returncode}: {done.stdout[-1000:]}{done.stderr[-1000:]}")
    return [int(found) for found in re.findall(r"cold\] LOOKUP: (\d+)/2 chunks", done.stdout)]


def _http() -> None:
    with RedisServer("--requirepass", "s3cr3t") as redis, tempfile.TemporaryDirectory(prefix="kvconn-interop-") as folder:
        secret = Path(folder) / "secret"
        secret.write_text("s3cr3t")
        adapter = spec(f"resp://127.0.0.1:{redis.port}", password_file=str(secret), max_capacity_gb=1)
        with _serve(adapter) as (rpc, http, log):
            equal("chunks that the first server finds", _bench(rpc, http), [0])
            wait_for("the server stores", lambda: _adapter(http)["counters"]["stored_keys"] == 2)
            _page(http, redis.port)
            equal("the secret is in the log", "s3cr3t" in log.read_text(), False)
        with _serve(adapter) as (rpc, http, _):
            wait_for("the listing ends", lambda: _adapter(http)["listing"]["state"] == "done")
            used = _adapter(http)["bytes_used"]
            equal("chunks that the listing counts", (_adapter(http)["listing"]["chunks"], used > 0), (2, True))
            page = _ask(http, "/cache/objects?page_size=1")
            rest = _ask(http, f"/cache/objects?page_size=1&page_token={page['next_page_token']}")
            entries = page["entries"] + rest["entries"]
            equal("bytes of the keys that it lists", sum(entry["size_bytes"] for entry in entries), used)
            equal("the next page", rest["next_page_token"], None)
            try:
                _ask(http, "/cache/objects?page_token=x")
            except OSError as e:
                equal("the status of a wrong token", getattr(e, "code", None), 400)
            else:
                raise Failed("a wrong token is accepted")
            equal("chunks that the second server finds", _bench(rpc, http), [2])
            answer = _ask(http, "/cache/objects", "DELETE", {"tier": "all", "keys": [entry["key"] for entry in entries], "force": True})
            equal("the delete", answer["ok"], True)
            equal("bytes afterwards", _adapter(http)["bytes_used"], 0)
            redis.process.kill()
            wait_for("the status tells of the loss", lambda: _lost(rpc, http))


def _page(http: int, redis: int) -> None:
    """The server's own page of metrics has the two puts of kvconn's store."""
    with urllib.request.urlopen(f"http://127.0.0.1:{http}/metrics", timeout=TIMEOUT_S) as answer:
        page = answer.read().decode()
    put = f'{{connector="kvconn.resp/RESPConnector",instance="127.0.0.1:{redis}",operation="batched_put"}} '
    stored = re.findall(re.escape("kvconn_bytes_total" + put) + r"(\S+)", page)
    equal("bytes stored, on the page", [float(count) > 0 for count in stored], [True])
    equal("calls in flight, on the page", re.findall(re.escape("kvconn_calls_in_flight" + put) + r"(\S+)", page), ["0.0"])
    equal("HELP on the page", "# HELP kvconn_call_seconds " in page, True)
    equal("the secret is on the page", "s3cr3t" in page, False)


def _adapter(http: int) -> dict[str, Any]:
    status = _ask(http, "/status")
    found = status.get("storage_manager", status)["l2_adapters"]
    (adapter,) = found
    return adapter


def _lost(rpc: int, http: int) -> bool:
    _bench(rpc, http)
    adapter = _adapter(http)
    return adapter["state"] == "lost" and not adapter["is_healthy"]


def _hashes() -> None:
    """The facts behind kvconn's warnings and the words in docs/engines/lmcache.md. LMCache runs without vLLM here."""
    program = (
        "from lmcache.v1.multiprocess.token_hasher import TokenHasher; import sys;"
        "print([h.hex() for h in TokenHasher(256, sys.argv[1]).compute_chunk_hashes(list(range(512)))])"
    )

    def two(algorithm: str, **seed: str) -> bool:
        """Whether two processes give the same hashes."""
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONHASHSEED"} | seed
        command = [sys.executable, "-c", program, algorithm]
        both = [subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=True) for _ in range(2)]
        return both[0].stdout.splitlines()[-1] == both[1].stdout.splitlines()[-1]

    equal("blake3 gives the same", two("blake3"), True)
    equal("builtin gives the same", two("builtin"), False)
    # Before Python 3.12 the hash of None is its address.
    equal("builtin with a seed gives the same", two("builtin", PYTHONHASHSEED="0"), sys.version_info >= (3, 12))
    with RedisServer() as redis:
        adapter = spec(f"resp://127.0.0.1:{redis.port}")
        found = []
        for _ in range(2):
            with _serve(adapter, "--hash-algorithm", "builtin") as (rpc, http, log):
                found += _bench(rpc, http)
                wait_for("the server stores", lambda: _adapter(http)["counters"]["stored_keys"] == 2)
                equal("kvconn warns", "another server may find no chunk of this one" in log.read_text(), True)
        equal("chunks that servers with builtin hashes find", found, [0, 0])
