"""In-process mode on valkey: LMCache's `valkey://`, which calls valkey's GLIDE client, and kvconn's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .. import chunks, command
from ..engine import remote
from ..exchange import both_ways
from ..report import Failed, Report, equal
from ..server import RedisServer
from ..topology_servers import Cluster, certificates, valkey_server
from ..wheel import all_methods, plugin

RAW: dict[str, object] = {"save_chunk_meta": False}
MODEL = chunks.PLAIN
PAIRS = chunks.raw()
TTL_S = 600


def run(report: Report) -> None:
    """Runs all checks of this part."""
    program = valkey_server()
    with RedisServer(program=program) as server:
        url = f"valkey://127.0.0.1:{server.port}"
        _both_ways(report, "valkey", server, url, url)
        _both_ways(report, "valkey, a database", server, url, f"{url}/3", valkey_database=3)
        _ttl(report, server, url)
        with report.check("valkey: plugin://: every method"), remote("plugin://kv", MODEL, **RAW, **plugin("kv", url)) as store:
            server.ask("FLUSHALL")
            all_methods(store, PAIRS)
    user, password = "lmcache", "s3cret"
    with RedisServer("--user", user, "on", f">{password}", "~*", "&*", "+@all", program=program) as server:
        address = f"127.0.0.1:{server.port}"
        # LMCache gives GLIDE the user's name as the password, and the password as the name.
        login = {"valkey_username": password, "valkey_password": user}
        _both_ways(report, "valkey, a user", server, f"valkey://{address}", f"valkey://{user}:{password}@{address}", **login)
    # The valkey server of PyPI has no TLS.
    with certificates() as made, RedisServer(tls=made.options) as server, _trusted(made.authority):
        address = f"127.0.0.1:{server.port}"
        _both_ways(report, "valkey, TLS", server, f"valkey://{address}", f"valkeys://{address}?tls_ca={made.authority}", tls_enable=True)
    with Cluster(3, program=program) as servers:
        theirs = f"valkey://127.0.0.1:{servers.nodes[0].port}"
        _both_ways(report, "valkey, a cluster", servers, theirs, f"{theirs}?cluster=true", valkey_mode="cluster")


def _both_ways(report: Report, name: str, server: RedisServer | Cluster, theirs: str, ours: str, **options: object) -> None:
    def fresh() -> tuple[str, str]:
        server.ask("FLUSHALL")
        return theirs, ours

    both_ways(report, name, fresh, MODEL, PAIRS, raw=True, **RAW, **options)


def _ttl(report: Report, server: RedisServer, url: str) -> None:
    (text, chunk), (other, another), *_ = PAIRS
    with report.check("valkey: both give a chunk the same time to live"):
        server.ask("FLUSHALL")
        with remote(url, MODEL, **RAW, valkey_enable_ttl=True, valkey_ttl_sec=TTL_S) as theirs:
            theirs.put(text, chunk)
            command.put(f"{url}?ttl_sec={TTL_S}", other, another.data)
            equal("what LMCache reads", theirs.get(other, another), another)
        left = {name: server.ask("TTL", name) for name in (text, other)}
        if not all(isinstance(seconds, int) and TTL_S - 60 < seconds <= TTL_S for seconds in left.values()):
            raise Failed(f"seconds to live: {left}")


@contextmanager
def _trusted(authority: Path) -> Iterator[None]:
    """LMCache has no option for an authority. GLIDE trusts those of the system, which this variable replaces."""
    before = os.environ.get("SSL_CERT_FILE")
    os.environ["SSL_CERT_FILE"] = str(authority)
    try:
        yield
    finally:
        del os.environ["SSL_CERT_FILE"]
        if before is not None:
            os.environ["SSL_CERT_FILE"] = before
