"""The simplest storage backend over redis-py: SGLang's old interface, one pipeline a call."""

from __future__ import annotations

import torch
from redis import Redis
from sglang.srt.mem_cache.hicache_storage import HiCacheStorage, HiCacheStorageConfig


class SimpleBackend(HiCacheStorage):
    """A backend to compare with kvconn's. It has only the methods that the measurement calls."""

    def __init__(self, storage_config: HiCacheStorageConfig, kwargs: dict[str, object]) -> None:
        self.redis = Redis(port=storage_config.extra_config["port"])

    def get(self, key: str, target_location: torch.Tensor, target_sizes: object = None) -> torch.Tensor | None:
        """Reads one page."""
        return self.batch_get([key], [target_location])[0]

    def batch_get(self, keys: list[str], target_locations: list[torch.Tensor], target_sizes: object = None) -> list[torch.Tensor | None]:
        """Reads pages into tensors."""
        found: list[torch.Tensor | None] = []
        for value, target in zip(self.redis.mget(keys), target_locations, strict=True):
            if value is not None:
                target.view(torch.uint8).copy_(torch.frombuffer(bytearray(value), dtype=torch.uint8))
            found.append(None if value is None else target)
        return found

    def set(self, key: str, value: torch.Tensor, target_location: object = None, target_sizes: object = None) -> bool:
        """Writes one page."""
        return self.batch_set([key], [value])

    def batch_set(self, keys: list[str], values: list[torch.Tensor], target_locations: object = None, target_sizes: object = None) -> bool:
        """Writes pages."""
        with self.redis.pipeline(transaction=False) as pipe:
            for key, value in zip(keys, values, strict=True):
                pipe.set(key, value.contiguous().view(torch.uint8).numpy().tobytes())
            return all(pipe.execute())

    def exists(self, key: str) -> bool:
        """Asks for one page. `batch_exists` of the base class asks key by key."""
        return bool(self.redis.exists(key))
