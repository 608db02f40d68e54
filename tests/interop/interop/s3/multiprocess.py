"""Multiprocess mode: LMCache's `s3` adapter and kvconn's, in LMCache's StorageManager. The object's name is the key's text."""

from __future__ import annotations

import json
from typing import Any

import kvconn
from lmcache.v1.distributed.api import ObjectKey

from .. import command
from ..lmcache_server.manager import Manager, chunks, spec, wait_for
from ..lmcache_server.manager import key as object_key
from ..report import Report, equal
from ..s3_server import S3Server
from .in_process import MODEL, PAIRS, UNUSUAL, flat, lmcache, on_each_server

COUNT = 6


def run(report: Report) -> None:
    """Runs all checks on each server."""
    on_each_server(report, _shared, _unusual, _listed, _both_kinds)


def _adapters(server: S3Server) -> dict[str, str]:
    native = {"type": "native_plugin", "module_path": "kvconn", "class_name": "NativeClient"}
    return {
        "LMCache's adapter": json.dumps(server.adapter),
        "KvconnL2Adapter": spec(server.ours(), lookup_timeout_ms=30_000),
        "native_plugin": json.dumps(native | {"adapter_params": {"url": server.ours()}}),
    }


def _text(key: ObjectKey) -> str:
    salt = f"@{key.cache_salt}" if key.cache_salt else ""
    return f"{key.model_name}@{key.kv_rank:08x}@{key.object_group_id:x}@{key.chunk_hash.hex()}{salt}"


def _store(adapter: str, wanted: dict[ObjectKey, bytes]) -> None:
    with Manager(adapter) as manager:
        manager.write(wanted)
        manager.wait_stored()


def _fetched(adapter: str, keys: list[ObjectKey]) -> list[bytes]:
    with Manager(adapter) as manager:
        return manager.fetch(keys)


def _shared(report: Report, server: S3Server) -> None:
    adapters = _adapters(server)
    wanted = chunks(COUNT) | chunks(2, "alice")
    for writer, config in adapters.items():
        with report.check(f"s3: {server.kind}: {writer} writes, all read"):
            server.empty()
            _store(config, wanted)
            equal("the objects on the server", server.names(), {_text(key) for key in wanted})
            for reader, other in adapters.items():
                equal(f"chunks that {reader} reads", _fetched(other, [*wanted]), [*wanted.values()])
            equal("the keys that `kvconn ls` shows", command.keys(server.ours()), {_text(key) for key in wanted})
            for key, data in wanted.items():
                equal("the bytes that the command reads", command.get(server.ours(), _text(key)).data, data)
    with report.check(f"s3: {server.kind}: kvconn.Store writes, all read"):
        server.empty()
        with kvconn.connect(server.ours()) as store:
            for key, data in wanted.items():
                store.put(_text(key), data)
        for reader, other in adapters.items():
            equal(f"chunks that {reader} reads", _fetched(other, [*wanted]), [*wanted.values()])


def _unusual(report: Report, server: S3Server) -> None:
    adapters = _adapters(server)
    keys = [object_key(i, "tenant+7.~ é", model) for i, model in enumerate(UNUSUAL)]
    wanted = dict(zip(keys, chunks(len(keys), "unusual").values(), strict=True))
    for writer, reader in (("LMCache's adapter", "KvconnL2Adapter"), ("KvconnL2Adapter", "LMCache's adapter")):
        with report.check(f"s3: {server.kind}: names with unusual characters: {writer} writes, {reader} reads"):
            server.empty()
            _store(adapters[writer], wanted)
            equal("the objects on the server", server.names(), {_text(key) for key in wanted})
            equal("chunks", _fetched(adapters[reader], keys), [*wanted.values()])


def _listed(report: Report, server: S3Server) -> None:
    adapters = _adapters(server)
    wanted = chunks(COUNT) | chunks(2, "alice")
    with report.check(f"s3: {server.kind}: each adapter lists and deletes the other's chunks"):
        for writer, reader in (("LMCache's adapter", "KvconnL2Adapter"), ("KvconnL2Adapter", "LMCache's adapter")):
            server.empty()
            _store(adapters[writer], wanted)
            with Manager(adapters[reader]) as manager:
                equal(f"keys that {reader} lists", _keys(manager.adapter), {key.to_encoded_object_key() for key in wanted})
                gone = [*wanted][:3]
                manager.adapter.delete(gone)
                left = {_text(key) for key in wanted if key not in gone}
                wait_for(f"{reader} deletes", lambda left=left: server.names() == left)


def _keys(adapter: Any) -> set[Any]:
    found, cursor = [], None
    while True:
        page = adapter.list_l2_keys("org/model", 3, cursor)
        found += [entry.key for entry in page.entries]
        cursor = page.next_page_token
        if cursor is None:
            equal("keys that are listed twice", len(found) - len({*found}), 0)
            return {*found}


def _both_kinds(report: Report, server: S3Server) -> None:
    adapters = _adapters(server)
    wanted = chunks(COUNT)
    with report.check(f"s3: {server.kind}: both modes of LMCache in one bucket"):
        server.empty()
        _store(adapters["LMCache's adapter"], wanted)
        with lmcache(server) as theirs:
            for text, chunk in PAIRS:
                theirs.put(text, chunk)
        both = {_text(key) for key in wanted} | {flat(text) for text, _ in PAIRS}
        equal("the keys that `kvconn ls` shows", command.keys(server.ours()), both)
        with Manager(adapters["KvconnL2Adapter"]) as manager:
            equal("keys that kvconn's adapter lists", _keys(manager.adapter), {key.to_encoded_object_key() for key in wanted})
            equal("chunks", manager.fetch([*wanted]), [*wanted.values()])
        with kvconn.connect(server.ours()) as store:
            equal("the chunk of an in-process key", bytes(store.get(PAIRS[0][0])), MODEL.chunk(PAIRS[0][1].name).data)
