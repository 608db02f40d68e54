"""A server that is away, killed, paused, and back. The engine continues without its chunks."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path

from ..report import Report, equal
from ..s3_server import S3Server, Throttled
from ..server import RedisServer
from .engine import Engine, config, keys


def run(report: Report) -> None:
    """All checks, on a redis server of each kind, and on an object store."""
    for scheme in ("redis", "resp", "s3"):
        _away_at_start(report, scheme)
        _killed(report, scheme)
        _paused(report, scheme)
        _paused_during_transfers(report, scheme)
    _throttled(report)
    _lost_folder(report)


def _server(scheme: str) -> RedisServer | S3Server:
    return S3Server() if scheme == "s3" else RedisServer()


def _tier(scheme: str, server: RedisServer | S3Server) -> dict[str, object]:
    # Short times, so that the checks are short. The defaults are longer.
    url = server.ours() if isinstance(server, S3Server) else f"{scheme}://127.0.0.1:{server.port}"
    return {"type": "kvconn", "url": url, "min_reconnect_interval": 0.05, "io_timeout_ms": 1000}


def _away_at_start(report: Report, scheme: str) -> None:
    with report.check(f"{scheme}: a server that starts after the engine"), _server(scheme) as server:
        server.process.kill()
        server.process.wait()
        with Engine(config([_tier(scheme, server)])) as engine:
            prompt = keys(8, "late server")
            equal("hits without it", engine.found(prompt), 0)
            engine.store(prompt)
            server.start_again()
            _until_used(engine)
            engine.forget()
            engine.store(prompt)
            engine.forget()
            equal("hits with it", engine.found(prompt), 8)


def _killed(report: Report, scheme: str) -> None:
    with report.check(f"{scheme}: a server that is killed and comes back empty"), _server(scheme) as server:
        with Engine(config([_tier(scheme, server)])) as engine:
            prompt = keys(8, "killed")
            engine.store(prompt)
            engine.forget()
            server.process.kill()
            server.process.wait()
            equal("hits without it", engine.found(prompt), 0)
            # The primary tier still serves its chunks, and its rows come free again.
            engine.store(prompt)
            equal("hits in the primary tier", engine.found(prompt), 8)
            server.start_again()
            _until_used(engine)
            engine.forget()
            equal("hits of the empty server", engine.found(prompt), 0)
            engine.store(prompt)
            engine.forget()
            equal("hits", engine.found(prompt), 8)


def _paused(report: Report, scheme: str) -> None:
    with report.check(f"{scheme}: a server that does not answer for a while"), _server(scheme) as server:
        with Engine(config([_tier(scheme, server)])) as engine:
            prompt = keys(8, "paused")
            engine.store(prompt)
            engine.forget()
            os.kill(server.process.pid, signal.SIGSTOP)
            try:
                # Each ends while the server is stopped.
                for i in range(5):
                    equal("hits while it is paused", engine.found(prompt + keys(1, f"paused {i}")), 0)
            finally:
                os.kill(server.process.pid, signal.SIGCONT)
            _until_used(engine)
            engine.forget()
            equal("hits after it", engine.found(prompt), 8)


def _paused_during_transfers(report: Report, scheme: str) -> None:
    with report.check(f"{scheme}: a server that stops during a load and a store"), _server(scheme) as server:
        with Engine(config([_tier(scheme, server)])) as engine:
            prompt, other = keys(8, "paused load"), keys(8, "paused store")
            engine.store(prompt)
            engine.forget()
            request = engine.start(prompt)
            engine.until_hit(request)
            os.kill(server.process.pid, signal.SIGSTOP)
            try:
                engine.step()
                engine.store(other, wait=False)
                equal("pending work", engine.manager.has_pending_work(), True)
                # The rows come free while the server is stopped, so that the engine can use them.
                engine.settle()
            finally:
                os.kill(server.process.pid, signal.SIGCONT)
            engine.until(lambda: engine.look(request), "the lookup ends")
            engine.read(request)
            engine.finish(request)
            _until_used(engine)
            engine.store(other)
            engine.forget()
            engine.store(other)
            engine.forget()
            equal("hits after it", (engine.found(prompt), engine.found(other)), (8, 8))


def _throttled(report: Report) -> None:
    with report.check("s3: a store that answers each request with 503 SlowDown"), Throttled.server() as url:
        with Engine(config([{"type": "kvconn", "url": url}])) as engine:
            prompt = keys(8, "throttled")
            equal("hits", engine.found(prompt), 0)
            engine.store(prompt)
            equal("hits in the primary tier", engine.found(prompt), 8)
            engine.forget()
            equal("hits of the store", engine.found(prompt), 0)


def _lost_folder(report: Report) -> None:
    with report.check("fs: a folder that is removed under the engine"), tempfile.TemporaryDirectory() as parent:
        folder = Path(parent, "store")
        with Engine(config([{"type": "kvconn", "url": f"fs://{folder}"}])) as engine:
            prompt = keys(4, "lost folder")
            engine.store(prompt)
            shutil.rmtree(folder)
            engine.forget()
            equal("hits", engine.found(prompt), 0)
            engine.store(prompt)
            equal("hits in the primary tier", engine.found(prompt), 4)


def _until_used(engine: Engine) -> None:
    """Stores a chunk under new names until the server has it. After a loss, kvconn waits before it tries again."""
    tries = 0

    def used() -> bool:
        nonlocal tries
        tries += 1
        probe = keys(1, f"probe {tries}")
        engine.store(probe)
        engine.forget()
        return engine.found(probe) == 1

    engine.until(used, "the server is used")
