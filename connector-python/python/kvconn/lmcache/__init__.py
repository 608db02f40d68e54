"""kvconn's classes for LMCache. A class is imported when LMCache asks for it.

`KvconnL2Adapter` is for LMCache's server::

    lmcache server --l1-size-gb 5 --eviction-policy LRU --l2-adapter '{"type": "plugin", "module_path": "kvconn.lmcache",
        "class_name": "KvconnL2Adapter", "adapter_params": {"url": "resp://127.0.0.1:6379"}}'

`KvconnAdapter` is for LMCache inside an engine, and `KvconnConnector` is the base of its connector classes:

.. code-block:: yaml

    remote_storage_plugins: ["kv"]
    extra_config:
      remote_storage_plugin.kv.module_path: kvconn.lmcache
      remote_storage_plugin.kv.class_name: KvconnAdapter
      remote_storage_plugin.kv.url: resp://127.0.0.1:6379
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvconn._connector import KvconnConnector
    from kvconn.lmcache.in_process import KvconnAdapter
    from kvconn.lmcache.server import KvconnL2Adapter

__all__ = ["KvconnAdapter", "KvconnConnector", "KvconnL2Adapter"]

#: The module of each class. LMCache's server must start even if LMCache loses its in-process mode.
_MODULES = {
    "KvconnAdapter": "kvconn.lmcache.in_process",
    "KvconnConnector": "kvconn._connector",
    "KvconnL2Adapter": "kvconn.lmcache.server",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    found = getattr(import_module(_MODULES[name]), name)
    globals()[name] = found
    return found
