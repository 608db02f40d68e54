"""TLS: LMCache's `RedisConnector` with redis-py, whose options its URL may have, and kvconn's `rediss://`."""

from __future__ import annotations

from .. import chunks
from ..engine import remote
from ..exchange import both_ways
from ..report import Report
from ..server import RedisServer
from ..topology_servers import certificates
from ..wheel import all_methods, plugin

PAIRS = chunks.with_header()


def run(report: Report) -> None:
    """Runs all checks of this part."""
    with certificates() as made, RedisServer(tls=made.options) as server:
        address = f"127.0.0.1:{server.port}"
        ours = f"rediss://{address}?tls_ca={made.authority}"

        def fresh() -> tuple[str, str]:
            server.ask("FLUSHALL")
            return f"rediss://{address}?ssl_ca_certs={made.authority}", ours

        both_ways(report, "rediss", fresh, chunks.PLAIN, PAIRS)
        with report.check("rediss: plugin://: every method"), remote("plugin://kv", chunks.PLAIN, **plugin("kv", ours)) as store:
            server.ask("FLUSHALL")
            all_methods(store, PAIRS)
    password = "p@ss/w%rd"
    with certificates() as made, RedisServer("--requirepass", password, tls=made.options) as server:
        url = f"rediss://:p%40ss%2Fw%25rd@localhost:{server.port}/3"

        def with_password() -> tuple[str, str]:
            server.ask("FLUSHALL", password=password)
            return f"{url}?ssl_ca_certs={made.authority}", f"{url}?tls_ca={made.authority}"

        both_ways(report, "rediss, a name, password and database", with_password, chunks.PLAIN, PAIRS[:2])
