"""Remote KV-cache stores for LLM servers, in Rust."""

from kvconn._errors import ClosedError, InvalidError, KvconnError, TimedOutError, UnavailableError
from kvconn._kvconn import __version__

__all__ = [
    "ClosedError",
    "InvalidError",
    "KvconnError",
    "TimedOutError",
    "UnavailableError",
    "__version__",
]
