"""Remote KV-cache stores for LLM servers, in Rust.

>>> import kvconn
>>> with kvconn.connect("memory://example") as store:
...     store.put("meta-llama/Llama-3.1-8B@1@0@1f2e3d@bfloat16", b"hello")
...     bytes(store.get("meta-llama/Llama-3.1-8B@1@0@1f2e3d@bfloat16"))
b'hello'
"""

from kvconn import _kvconn, _modules
from kvconn._errors import ClosedError, InvalidError, KvconnError, TimedOutError, UnavailableError
from kvconn._kvconn import AsyncStore, Chunk, ConnectorInfo, Store, __version__
from kvconn._libraries import NativeClient, carry, connect, connect_async, connectors
from kvconn._listing import ListEntry

__all__ = [
    "AsyncStore",
    "Chunk",
    "ClosedError",
    "ConnectorInfo",
    "InvalidError",
    "KvconnError",
    "ListEntry",
    "NativeClient",
    "Store",
    "TimedOutError",
    "UnavailableError",
    "__version__",
    "carry",
    "connect",
    "connect_async",
    "connectors",
]

# `import kvconn.redis`, and every other connector that is compiled in.
_modules.add(_kvconn.connectors())
