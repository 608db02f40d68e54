"""The clients of the native interface, by name: each is made for a port, a folder or a URL."""

from __future__ import annotations

from kvconn import NativeClient
from lmcache.lmcache_fs import LMCacheFSClient
from lmcache.lmcache_redis import LMCacheRedisClient

from . import bare
from .completions import Client

CONNECTIONS = 8
# The default of LMCache's `fs_native`.
WORKERS = 4


def cpp_redis(port: str) -> Client:
    """The client of LMCache's `resp` adapter."""
    client: Client = LMCacheRedisClient("127.0.0.1", int(port), CONNECTIONS)
    return client


def cpp_fs(folder: str) -> Client:
    """The client of LMCache's `fs_native` adapter."""
    client: Client = LMCacheFSClient(folder, WORKERS)
    return client


def kvconn(url: str) -> Client:
    """The client that LMCache's `native_plugin` adapter loads from kvconn."""
    return NativeClient(url)


def sockets(port: str) -> Client:
    """The bare calls on sockets, one request at a time on each connection."""
    return bare.Sockets(int(port), CONNECTIONS, ahead=CONNECTIONS)


def ahead(port: str) -> Client:
    """The bare calls on sockets, two requests at a time on each connection: the wire carries chunks without a gap."""
    return bare.Sockets(int(port), CONNECTIONS, ahead=2 * CONNECTIONS)


def files(folder: str) -> Client:
    """The bare calls on files."""
    return bare.Files(folder)


MAKERS = {made.__name__: made for made in (cpp_redis, cpp_fs, kvconn, sockets, ahead, files)}
