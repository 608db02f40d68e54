"""Remote KV-cache stores for LLM servers, in Rust.

>>> import kvconn
>>> with kvconn.connect("memory://example") as store:
...     store.put("meta-llama/Llama-3.1-8B@1@0@1f2e3d@bfloat16", b"hello")
...     bytes(store.get("meta-llama/Llama-3.1-8B@1@0@1f2e3d@bfloat16"))
b'hello'
"""

from kvconn import _kvconn, _modules
from kvconn._async_store import AsyncStore
from kvconn._connect import connect, connect_async
from kvconn._errors import (
    ClosedError,
    ConflictError,
    CorruptError,
    DeniedError,
    ErrorKind,
    InvalidError,
    InvalidTypeError,
    KvconnError,
    NoEventLoopError,
    NotFoundError,
    PoolFullError,
    ReadOnlyError,
    SizeMismatchError,
    StoreFullError,
    StoreIOError,
    ThrottledError,
    TimedOutError,
    TooLargeError,
    UnavailableError,
    UnsupportedError,
)
from kvconn._keys import Key, ObjectKey, prefix_keys, prefix_object_keys
from kvconn._kvconn import Chunk, ConnectorInfo, __version__
from kvconn._libraries import NativeClient, carry, connectors
from kvconn._library import Library
from kvconn._listing import AsyncListing, ListEntry, Listing
from kvconn._metrics import MetricSample, metrics
from kvconn._prometheus import export_prometheus
from kvconn._store import Store
from kvconn._types import Capabilities, OptionInfo, ServerInfo

__all__ = [
    "AsyncListing",
    "AsyncStore",
    "Capabilities",
    "Chunk",
    "ClosedError",
    "ConflictError",
    "ConnectorInfo",
    "CorruptError",
    "DeniedError",
    "ErrorKind",
    "InvalidError",
    "InvalidTypeError",
    "Key",
    "KvconnError",
    "Library",
    "ListEntry",
    "Listing",
    "MetricSample",
    "NativeClient",
    "NoEventLoopError",
    "NotFoundError",
    "ObjectKey",
    "OptionInfo",
    "PoolFullError",
    "ReadOnlyError",
    "ServerInfo",
    "SizeMismatchError",
    "Store",
    "StoreFullError",
    "StoreIOError",
    "ThrottledError",
    "TimedOutError",
    "TooLargeError",
    "UnavailableError",
    "UnsupportedError",
    "carry",
    "connect",
    "connect_async",
    "connectors",
    "export_prometheus",
    "metrics",
    "prefix_keys",
    "prefix_object_keys",
    "__version__",
]

# `kvconn.Store` in tracebacks and pickles, and not `kvconn._store.Store`. The native classes have it already.
for _public in [*globals().values()]:
    if getattr(_public, "__module__", "").startswith("kvconn._"):
        _public.__module__ = __name__

# `import kvconn.redis`, and every other connector that is compiled in.
_modules.add(_kvconn.connectors())
