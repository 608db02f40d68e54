"""Checks `kvconn.lmcache.KvconnL2Adapter` with LMCache's own StorageManager, tools, server and tests."""

from __future__ import annotations

from . import eviction, faults, serving, tools, transfer

GROUPS = {
    "bytes": transfer.run,
    "restart": transfer.restart,
    "shared": transfer.shared,
    "eviction": eviction.run,
    "faults": faults.run,
    "serving": serving.run,
    "tools": tools.run,
    "their-tests": tools.their_tests,
}
SMOKE = ("bytes",)
