"""Servers with sentinels: kvconn's `redis-sentinel://`, with LMCache's form of the URL.

LMCache 0.5.6 does not await the calls of its own `redis-sentinel://`, so it stores and reads nothing. LMCache's `redis://` on the master
is its side of the exchange.
"""

from __future__ import annotations

import warnings

from .. import chunks, command
from ..engine import remote
from ..exchange import Pairs, kvconn_writes, lmcache_has, lmcache_writes
from ..report import Report, equal
from ..topology_servers import SERVICE, Sentinels
from ..wheel import all_methods, plugin

PAIRS = chunks.with_header()


def run(report: Report) -> None:
    """Runs all checks of this part."""
    if not report.has("redis-sentinel: kvconn has it", lambda: command.require("redis-sentinel")):
        return
    with Sentinels() as servers:
        url = f"redis-sentinel://{servers.hosts}"
        _theirs_stores_nothing(report, servers, url)
        with report.check("redis-sentinel: LMCache writes to the master, kvconn reads"), remote(_master(servers), chunks.PLAIN) as theirs:
            servers.flush()
            lmcache_writes(theirs, url, PAIRS)
        with report.check("redis-sentinel: kvconn writes, LMCache reads from the master"), remote(_master(servers), chunks.PLAIN) as theirs:
            servers.flush()
            kvconn_writes(theirs, url, PAIRS)
        with report.check("redis-sentinel: plugin://: every method"), remote("plugin://kv", chunks.PLAIN, **plugin("kv", url)) as store:
            servers.flush()
            all_methods(store, PAIRS)
        _failover(report, servers, url)
    password = "s3cret"
    with Sentinels(password) as servers:
        _password(report, servers, f"redis-sentinel://default:{password}@{servers.hosts}/{SERVICE}", password)


def _master(servers: Sentinels, password: str = "") -> str:
    login = f":{password}@" if password else ""
    return f"redis://{login}127.0.0.1:{servers.master.port}"


def _theirs_stores_nothing(report: Report, servers: Sentinels, url: str) -> None:
    """Shows why this part compares with `redis://`. It fails once LMCache's own connector works."""
    with report.check("redis-sentinel: LMCache's own connector still stores nothing"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        servers.flush()
        (text, chunk), *_ = PAIRS
        with remote(url, chunks.PLAIN) as theirs:
            theirs.put(text, chunk)
            equal("keys on the master", servers.keys(), set())
            equal("whether it finds a key that is not there", theirs.exists(text), True)


def _failover(report: Report, servers: Sentinels, url: str) -> None:
    early: Pairs = PAIRS[:-2]
    with report.check("redis-sentinel: a process of LMCache with kvconn goes on after its master was killed"):
        servers.flush()
        with remote("plugin://kv", chunks.PLAIN, **plugin("kv", url)) as store:
            for text, chunk in early:
                store.put(text, chunk)
            servers.wait_replicated()
            servers.kill_master()
            lmcache_has(store, early)
            for text, chunk in PAIRS[-2:]:
                store.put(text, chunk)
            lmcache_has(store, PAIRS)
        with remote(_master(servers), chunks.PLAIN) as theirs:
            lmcache_has(theirs, PAIRS)


def _password(report: Report, servers: Sentinels, url: str, password: str) -> None:
    few = PAIRS[:2]
    with report.check("redis-sentinel: a password, and the name of the master: both directions"):
        with remote(_master(servers, password), chunks.PLAIN) as theirs:
            lmcache_writes(theirs, url, few)
        servers.flush()
        with remote(_master(servers, password), chunks.PLAIN) as theirs:
            kvconn_writes(theirs, url, few)
