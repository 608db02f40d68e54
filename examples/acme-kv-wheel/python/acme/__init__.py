"""Acme's store: ``acme.connect("acme://localhost:0")``."""

import kvconn

from acme import _native
from acme._native import NativeClient, connect, connect_async

__all__ = ["NativeClient", "connect", "connect_async"]

# For `kvconn.connect("acme://..")`, `import acme.kv` and LMCache.
kvconn.carry(_native)
