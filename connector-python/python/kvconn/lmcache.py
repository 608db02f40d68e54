"""For LMCache's ``remote_storage_plugins``: `KvconnAdapter` opens any URL of kvconn's.

.. code-block:: yaml

    remote_storage_plugins: ["kv"]
    extra_config:
      remote_storage_plugin.kv.module_path: kvconn.lmcache
      remote_storage_plugin.kv.class_name: KvconnAdapter
      remote_storage_plugin.kv.url: resp://127.0.0.1:6379
"""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

from kvconn._connector import KvconnConnector, ask_without_loop
from kvconn._errors import InvalidError

from lmcache.v1.storage_backend.connector import ConnectorAdapter, ConnectorContext, DynamicConnectorAdapter
from lmcache.v1.storage_backend.connector.base_connector import RemoteConnector

__all__ = ["KvconnAdapter", "KvconnConnector"]

_SCHEME = "plugin://"


class KvconnAdapter(ConnectorAdapter):
    """Opens what ``remote_storage_plugin.<name>.url`` says, with the plugin's other keys as the store's options.

    Any number of plugins may have this class. A name that one of LMCache's own adapters takes for itself is an error that
    says so: such a plugin would never come here.
    """

    def __init__(self) -> None:
        super().__init__(_SCHEME)
        name, others = _configured_as()
        self._name = name
        taken = [type(other).__name__ for other in others if name is not None and other.can_parse(_SCHEME + name)]
        if taken:
            hint = f"name it `kv-{name}`, say, in `remote_storage_plugins` and in the keys of `extra_config`"
            raise InvalidError(
                f"LMCache's own {taken[0]} takes every plugin of a name like `{name}`, so kvconn would never be asked ({hint})",
                kind="invalid_option",
                operation="open",
                hint=hint,
            )

    def can_parse(self, url: str) -> bool:
        if self._name is None:
            return url.startswith(_SCHEME)
        return url == _SCHEME + self._name

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        name = context.plugin_name or context.url.removeprefix(_SCHEME)
        extra = (context.config and context.config.extra_config) or {}
        key = f"remote_storage_plugin.{name}"
        module, class_name = extra.get(f"{key}.module_path"), extra.get(f"{key}.class_name")
        # Without a name of its own this adapter is asked about other plugins, too.
        if module and class_name and self._name is None:
            other = getattr(import_module(module), class_name)
            if other is not type(self):
                adapter = other() if issubclass(other, ConnectorAdapter) else DynamicConnectorAdapter(name, other)
                return adapter.create_connector(context)
        if not extra.get(f"{key}.url"):
            raise InvalidError(
                f"plugin `{name}` has no URL (set `{key}.url` in `extra_config`)",
                kind="invalid_option",
                operation="open",
                hint=f"set `{key}.url` in `extra_config`",
            )
        connector = KvconnConnector.open(
            _SCHEME + name,
            loop=context.loop,
            local_cpu_backend=context.local_cpu_backend,
            config=context.config,
            metadata=context.metadata,
            plugin_name=name,
        )
        # A subclass may put something before it.
        if type(self).create_connector is KvconnAdapter.create_connector:
            ask_without_loop(context.config, _SCHEME + name)
        return connector


def _configured_as() -> tuple[str | None, list[Any]]:
    """The plugin that LMCache makes this adapter for, and the other adapters that it asks before.

    LMCache tells an adapter neither; both are variables of the method that makes it, which is behind the constructors of
    whatever subclasses there are. Where it has none of these names, the adapter answers for every plugin, and there is no hint.
    """
    maker = inspect.currentframe()
    while maker is not None and not isinstance(maker.f_locals.get("remote_storage_plugin"), str):
        maker = maker.f_back
    if maker is None:
        return None, []
    others = getattr(maker.f_locals.get("self"), "adapters", [])
    return maker.f_locals["remote_storage_plugin"], [other for other in others if not isinstance(other, KvconnAdapter)]
