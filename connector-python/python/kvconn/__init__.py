"""Remote KV-cache stores for LLM servers, in Rust."""

from kvconn._errors import ClosedError, InvalidError, KvconnError, TimedOutError, UnavailableError
from kvconn._kvconn import NativeClient, __version__

__all__ = [
    "ClosedError",
    "InvalidError",
    "KvconnError",
    "NativeClient",
    "TimedOutError",
    "UnavailableError",
    "__version__",
]
