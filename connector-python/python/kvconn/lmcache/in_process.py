"""For LMCache's ``remote_storage_plugins``: `KvconnAdapter` opens any URL of kvconn."""

from __future__ import annotations

from importlib import import_module

from kvconn._connector import KvconnConnector
from kvconn._errors import of_open
from kvconn.lmcache import hash_seed

from lmcache.v1.storage_backend.connector import ConnectorAdapter, ConnectorContext, DynamicConnectorAdapter
from lmcache.v1.storage_backend.connector.base_connector import RemoteConnector

__all__ = ["KvconnAdapter"]

_SCHEME = "plugin://"


class KvconnAdapter(ConnectorAdapter):  # type: ignore[misc]
    """Opens the URL in ``remote_storage_plugin.<name>.url``, with the plugin's other keys as the store's options.

    Any number of plugins may have this class. LMCache does not give an adapter the name of its plugin, so this one accepts every
    ``plugin://`` URL. A plugin with another class goes to that class.
    """

    def __init__(self) -> None:
        super().__init__(_SCHEME)

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        name = context.plugin_name or context.url.removeprefix(_SCHEME)
        extra = (context.config and context.config.extra_config) or {}
        key = f"remote_storage_plugin.{name}"
        module, class_name = extra.get(f"{key}.module_path"), extra.get(f"{key}.class_name")
        if module and class_name:
            other = getattr(import_module(module), class_name)
            if other is not type(self):
                adapter = other() if issubclass(other, ConnectorAdapter) else DynamicConnectorAdapter(name, other)
                return adapter.create_connector(context)
        if not extra.get(f"{key}.url"):
            raise of_open("invalid_option", f"plugin `{name}` has no URL", f"set `{key}.url` in `extra_config`")
        hash_seed.warn_inside_engine()
        return KvconnConnector.open(
            _SCHEME + name,
            loop=context.loop,
            local_cpu_backend=context.local_cpu_backend,
            config=context.config,
            metadata=context.metadata,
            plugin_name=name,
        )
