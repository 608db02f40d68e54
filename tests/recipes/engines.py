"""kvconn's classes with the JSON of a recipe, on the parts of the engines that the tests of the wheel have."""

import contextlib
import importlib
import json
import logging
import sys
from unittest import mock

import fake_lmcache
import recipes
import sglang_fakes
import test_lmcache_l2 as l2
import test_vllm
from test_vllm import Engine

#: On a busy machine, an answer may take longer than the recipe waits.
PATIENT = {"lookup_timeout_ms": 30_000}


def vllm(test, text, patient=True):
    """vLLM's tier, with a primary tier of 32 rows."""
    tier = recipes.options(text, "vllm")
    if tier.pop("type") != "kvconn":
        raise AssertionError(f"the tier's type is not kvconn: {text}")
    return Engine(test, (0, 32), tier={**tier, **(PATIENT if patient else {"lookup_timeout_ms": 200})})


def fill(engine, names):
    """Stores a chunk under each name. Whether all of them were stored."""
    engine.job(names, range(len(names)), False)
    (result,) = engine.results()
    return result.success


def hits(engine, names, request):
    """How many chunks the store has, and whether those that it has come back with the right bytes."""
    found = engine.look(names, request)
    present = [i for i, answer in enumerate(found) if answer == "HIT"]
    if present:
        rows = [16 + n for n in range(len(present))]
        engine.job([names[i] for i in present], rows, True, request)
        (result,) = engine.results()
        if not result.success or [engine.row(i) for i in present] != [engine.row(i) for i in rows]:
            raise AssertionError("a hit has not its bytes")
    return len(present)


@contextlib.contextmanager
def sglang(text, pool):
    """SGLang's backend on a host pool."""
    with mock.patch.dict(sys.modules, sglang_fakes.modules()):
        backend = importlib.import_module("kvconn.sglang")
        made = backend.KvconnHiCache(sglang_fakes.Config({**json.loads(text), **PATIENT}), {})
        try:
            made.register_mem_pool_host(pool)
            yield made
        finally:
            made.close()
            sys.modules.pop("kvconn.sglang", None)


@contextlib.contextmanager
def lmcache(text):
    """The L2 adapter of LMCache's server."""
    fake_lmcache.install()
    try:
        whole = json.loads(text)
        module = importlib.import_module(whole["module_path"])
        adapter = getattr(module, whole["class_name"])({**whole["adapter_params"], **PATIENT}, l1_memory_desc=object())
        try:
            yield adapter
        finally:
            adapter.close()
    finally:
        fake_lmcache.uninstall()


@contextlib.contextmanager
def no_unknown_option(test):
    """Fails if kvconn warns of an option that has no effect. On a busy machine it may also warn of a slow server."""
    with test.assertLogs("kvconn", "DEBUG") as logged:
        logging.getLogger("kvconn").debug("the store opens")
        yield
    test.assertNotIn("unknown option", "\n".join(logged.output))


#: Waits for the adapter's answers as LMCache does.
adapters = l2.Adapters
keys = test_vllm.keys
