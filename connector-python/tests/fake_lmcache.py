"""The parts of LMCache 0.5.6 that `kvconn.lmcache` uses, without LMCache. The checks in tests/interop use the real ones."""

import sys
import threading
import types
from dataclasses import dataclass


class Bitmap:
    """``lmcache.lmcache_native.Bitmap``."""

    def __init__(self, size):
        self.bits = [False] * size

    def set(self, i):
        self.bits[i] = True


@dataclass(frozen=True)
class EncodedObjectKey:
    chunk_hash_hex: str
    model_name: str
    kv_rank: int
    object_group_id: int = 0
    cache_salt: str = ""


@dataclass(frozen=True)
class ObjectKey:
    chunk_hash: bytes
    model_name: str
    kv_rank: int
    object_group_id: int = 0
    cache_salt: str = ""

    def to_encoded_object_key(self):
        return EncodedObjectKey(
            self.chunk_hash.hex(), self.model_name, self.kv_rank, self.object_group_id, self.cache_salt
        )


@dataclass(frozen=True)
class KeyEntry:
    key: EncodedObjectKey
    size_bytes: int


@dataclass(frozen=True)
class KeyListPage:
    entries: tuple
    next_page_token: str | None


class L2StoreResult(int):
    def __new__(cls, success, bytes_transferred):
        return super().__new__(cls, bytes_transferred if success else -1)


@dataclass(frozen=True)
class AdapterUsage:
    total_bytes_used: int
    total_capacity_bytes: int
    bytes_by_cache_salt: object


class L2AdapterInterface:
    """The base class: listeners, and a count of bytes that complains of an underflow."""

    def __init__(self, max_capacity_bytes=0):
        self._listeners = []
        self._backend_name, self._shared = "", False
        self._max_capacity_bytes = max_capacity_bytes
        self._total_bytes_used, self._usage_lock = 0, threading.Lock()

    def register_listener(self, listener):
        self._listeners.append(listener)

    def set_backend_identity(self, name, shared=False):
        self._backend_name, self._shared = name, shared

    @property
    def supports_global_eviction(self):
        return self._max_capacity_bytes > 0

    def _notify_keys_stored(self, keys, sizes):
        self._count(sum(sizes))
        for listener in self._listeners:
            listener.on_l2_keys_stored(keys, sizes)

    def _notify_keys_accessed(self, keys):
        for listener in self._listeners:
            listener.on_l2_keys_accessed(keys)

    def _notify_keys_deleted(self, keys, sizes):
        assert len(keys) == len(sizes)
        self._count(-sum(sizes))
        for listener in self._listeners:
            listener.on_l2_keys_deleted(keys)

    def _count(self, change):
        with self._usage_lock:
            self._total_bytes_used += change
            assert self._total_bytes_used >= 0, "LMCache would log an underflow"


class Listener:
    """The state of LMCache's eviction: the keys in the order of their last use, and the events."""

    def __init__(self, isolates=False):
        self.policy = types.SimpleNamespace(support_isolation=isolates)
        self.order, self.deleted, self.sizes = {}, [], {}

    def on_l2_keys_stored(self, keys, sizes):
        self.sizes.update(zip(keys, sizes))
        # As LMCache's LRU: the last key of a list is evicted first.
        for key in reversed(keys):
            self.order.pop(key, None)
            self.order[key] = None

    def on_l2_keys_accessed(self, keys):
        for key in reversed(keys):
            if key in self.order:
                self.order[key] = self.order.pop(key)

    def on_l2_keys_deleted(self, keys):
        self.deleted += keys
        for key in keys:
            self.order.pop(key, None)


class Obj:
    """A memory object over `data`: its address and its size."""

    def __init__(self, data):
        import ctypes

        self.memory = (ctypes.c_ubyte * len(data)).from_buffer(bytearray(data))
        self.data_ptr = ctypes.addressof(self.memory)

    def get_size(self):
        return len(self.memory)

    @property
    def data(self):
        return bytes(self.memory)


def install():
    """Puts the modules into `sys.modules`."""
    modules = {
        "lmcache.lmcache_native": {"Bitmap": Bitmap},
        "lmcache.v1.distributed.api": {
            "KeyEntry": KeyEntry, "KeyListPage": KeyListPage, "ObjectKey": ObjectKey, "EncodedObjectKey": EncodedObjectKey,
        },
        "lmcache.v1.distributed.internal_api": {"L2AdapterListener": object, "L2StoreResult": L2StoreResult},
        "lmcache.v1.distributed.l2_adapters.base": {"AdapterUsage": AdapterUsage, "L2AdapterInterface": L2AdapterInterface},
    }  # fmt: skip
    for name, contents in modules.items():
        parts = name.split(".")
        for i in range(1, len(parts)):
            sys.modules.setdefault(".".join(parts[:i]), types.ModuleType(".".join(parts[:i]))).__path__ = []
        module = types.ModuleType(name)
        vars(module).update(contents)
        sys.modules[name] = module


def uninstall():
    """Removes them, and kvconn's modules that have imported them."""
    for name in [*sys.modules]:
        if name.split(".")[0] == "lmcache" or name.startswith("kvconn.lmcache."):
            del sys.modules[name]
    if "kvconn.lmcache" in sys.modules:
        vars(sys.modules["kvconn.lmcache"]).pop("KvconnL2Adapter", None)
