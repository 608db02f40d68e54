"""Remote KV-cache stores for LLM servers, in Rust."""

from kvconn import _modules
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

# `import kvconn.redis`, and every other connector that is compiled in.
_modules.install()
