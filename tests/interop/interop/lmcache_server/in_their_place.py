"""A plugin for pytest: LMCache's tests of its adapters and controllers make kvconn's adapter instead."""

from __future__ import annotations

import itertools
from typing import Any

from kvconn.lmcache import KvconnL2Adapter
from lmcache import torch_dev
from lmcache.v1.distributed.api import ObjectKey
from lmcache.v1.distributed.l2_adapters import fs_l2_adapter, mock_l2_adapter, native_connector_l2_adapter

_names = itertools.count()


class _Mock(KvconnL2Adapter):
    """With the helpers of LMCache's mock adapter, and its low bandwidth where a test asks for one."""

    def __init__(self, config: Any) -> None:
        rate = config.mock_bandwidth_gb
        slow = f"mock://1/?read_throughput={rate}&write_throughput={rate}"
        super().__init__(
            {"url": f"memory://theirs-{next(_names)}" if rate > 1 else slow, "max_capacity_gb": config.max_size_gb}
        )

    def debug_has_key(self, key: ObjectKey) -> bool:
        return key.to_encoded_object_key() in self._stored_keys()

    def debug_get_stored_object_count(self) -> int:
        return len(self._stored_keys())

    def debug_get_locked_key_count(self) -> int:
        count: int = self.report_status()["locked_keys"]
        return count

    def _stored_keys(self) -> set[Any]:
        return {entry.key for entry in self.list_l2_keys(page_size=10_000).entries}


def _native(_client: object, max_capacity_gb: float = 0, **_: object) -> KvconnL2Adapter:
    return KvconnL2Adapter({"url": f"memory://theirs-{next(_names)}", "max_capacity_gb": max_capacity_gb})


def _fs(config: Any) -> KvconnL2Adapter:
    return KvconnL2Adapter({"url": f"fs://{config.base_path}"})


# The tests of the controllers refuse to run without a GPU, and need none.
torch_dev.is_available = lambda: True
# Before pytest imports the tests, which import these names.
mock_l2_adapter.MockL2Adapter = _Mock
native_connector_l2_adapter.NativeConnectorL2Adapter = _native
fs_l2_adapter.FSL2Adapter = _fs
