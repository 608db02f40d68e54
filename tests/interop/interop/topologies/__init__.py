"""LMCache's own clients and kvconn share servers with TLS, servers with sentinels, clusters, and valkey servers."""

from __future__ import annotations

from . import cluster, rediss, sentinel, valkey, valkey_adapter

GROUPS = {
    "rediss": rediss.run,
    "sentinel": sentinel.run,
    "cluster": cluster.run,
    "valkey": valkey.run,
    "valkey-adapter": valkey_adapter.run,
}
SMOKE = ("rediss", "cluster", "valkey")
