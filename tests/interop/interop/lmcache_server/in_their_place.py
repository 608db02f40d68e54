"""A plugin for pytest: LMCache's tests of its adapters make kvconn's adapter instead."""

from __future__ import annotations

import itertools
from typing import Any

from kvconn.lmcache import KvconnL2Adapter
from lmcache.v1.distributed.l2_adapters import fs_l2_adapter, mock_l2_adapter, native_connector_l2_adapter

_names = itertools.count()


def _in_memory(max_capacity_gb: float) -> KvconnL2Adapter:
    return KvconnL2Adapter({"url": f"memory://theirs-{next(_names)}", "max_capacity_gb": max_capacity_gb})


def _mock(config: Any) -> KvconnL2Adapter:
    return _in_memory(config.max_size_gb)


def _native(_client: object, max_capacity_gb: float = 0, **_: object) -> KvconnL2Adapter:
    return _in_memory(max_capacity_gb)


def _fs(config: Any) -> KvconnL2Adapter:
    return KvconnL2Adapter({"url": f"fs://{config.base_path}"})


# Before pytest imports the tests, which import these names.
mock_l2_adapter.MockL2Adapter = _mock
native_connector_l2_adapter.NativeConnectorL2Adapter = _native
fs_l2_adapter.FSL2Adapter = _fs
