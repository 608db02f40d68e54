"""vLLM's plugin: registers the tier type `kvconn`. Every process of vLLM calls `register`, also a process without a tier."""

from __future__ import annotations

import logging

_TYPE = "kvconn"
_MODULE = "kvconn.vllm"
_CLASS = "KvconnTier"
# vLLM calls plugins more than once in a process, and refuses a second registration of a type.
_registered = False


def register() -> None:
    """Makes ``{"type": "kvconn", ..}`` in `secondary_tiers` stand for `KvconnTier`. vLLM imports the class when it makes the tier.

    Raises nothing: a plugin that fails would stop every process of vLLM.
    """
    global _registered
    if _registered:
        return
    log = logging.getLogger("kvconn.vllm")
    try:
        from vllm.v1.kv_offload.tiering.factory import SecondaryTierFactory

        SecondaryTierFactory.register_tier(_TYPE, _MODULE, _CLASS)
        _registered = True
    except ImportError as e:
        # A vLLM before 0.27 has no tiers.
        log.debug("vLLM's secondary tiers are not available: %s", e)
    except Exception as e:  # noqa: BLE001
        log.warning("the tier type `%s` is not kvconn's; write `%s` and `module_path`: `%s`. %s: %s", _TYPE, _CLASS, _MODULE, type(e).__name__, e)
