"""A cluster of three masters: LMCache's `RedisClusterConnector` and kvconn's `redis-cluster://`.

The two values of a chunk are on two nodes.
"""

from __future__ import annotations

from .. import chunks, command
from ..engine import remote
from ..exchange import both_ways
from ..report import Report, equal
from ..stores import by_copy
from ..topology_servers import Cluster
from ..wheel import all_methods, plugin

PAIRS = chunks.with_header()


def run(report: Report) -> None:
    """Runs all checks of this part."""
    with Cluster() as servers:
        url = f"redis-cluster://{servers.hosts}"

        def fresh() -> tuple[str, str]:
            servers.flush()
            return url, url

        both_ways(report, "redis-cluster", fresh, chunks.PLAIN, PAIRS)
        by_copy(report, "redis-cluster, two groups", fresh, chunks.TWO_GROUPS, chunks.two_groups())
        with report.check("redis-cluster: kvconn writes on every node, with one node in its URL"):
            servers.flush()
            for text, chunk in PAIRS:
                command.put(f"redis-cluster://127.0.0.1:{servers.nodes[0].port}", text, chunk.data, chunk.layout)
            equal("nodes that have keys", servers.used(), len(servers.nodes))
            names = {f"{text}{half}" for text, _ in PAIRS for half in ("metadata", "kv_bytes")}
            equal("keys on the servers", servers.keys(), names)
        with report.check("redis-cluster: plugin://: every method"), remote("plugin://kv", chunks.PLAIN, **plugin("kv", url)) as store:
            servers.flush()
            all_methods(store, PAIRS)
    user, password = "lmcache", "s3cret"
    acl = ("--user", user, "on", f">{password}", "~*", "&*", "+@all")
    with Cluster(3, *acl) as servers:
        url = f"redis-cluster://{user}:{password}@{servers.hosts}"

        def with_password() -> tuple[str, str]:
            servers.flush()
            return url, url

        both_ways(report, "redis-cluster, user and password", with_password, chunks.PLAIN, PAIRS[:3])
