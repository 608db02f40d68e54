"""The wheel in LMCache's in-process mode: every kind of URL, every method, and exchange with LMCache's connectors."""

import asyncio
import json
import logging
import tempfile
import threading
import time
from importlib import import_module
from pathlib import Path

from kvconn.lmcache import KvconnAdapter, KvconnConnector
from lmcache.utils import parse_cache_key
from lmcache.v1.config import LMCacheEngineConfig
from lmcache.v1.internal_api_server.common import metrics_api
from lmcache.v1.memory_management import BytesBufferMemoryObj
from lmcache.v1.storage_backend.connector import ConnectorContext, ConnectorManager, CreateConnector
from lmcache.v1.storage_backend.remote_backend import RemoteBackend

from . import chunks
from .engine import TIMEOUT_S, Remote, end, metadata_of, remote, side
from .report import Failed, Report, equal
from .server import RedisServer

RAW = {"save_chunk_meta": False}
PARTIAL = [(chunks.key("raw, partial"), chunks.PLAIN.chunk("raw, partial", tokens=5))]
FREED_WITHIN_S = 20


def external(module: str, name: str, host: str = "localhost:0", **options: str) -> str:
    """Makes a URL. LMCache imports the class that it names."""
    more = "".join(f"&{key}={value}" for key, value in options.items())
    return f"external://{host}/kvconn.{module}/?connector_name={name}{more}"


def plugin(name: str, url: str, **options: object) -> dict[str, object]:
    """Makes the `extra_config` of a plugin that kvconn opens by `url`."""
    return plugin_of(name, "kvconn.lmcache", "KvconnAdapter", **{"url": url, **options})


def plugin_of(name: str, module_path: str, class_name: str, **options: object) -> dict[str, object]:
    """Makes the `extra_config` of a plugin with this class."""
    keys = {"module_path": module_path, "class_name": class_name, **options}
    return {f"remote_storage_plugin.{name}.{key}": value for key, value in keys.items()}


def run(report: Report) -> None:
    """Runs all checks of this group."""
    with tempfile.TemporaryDirectory(prefix="kvconn-interop-") as root, RedisServer() as server:
        _exchange(report, Path(root), server)
        _methods(report, Path(root), server)
        _plugins(report, Path(root), server)
        _plugin_names(report)
        _several_plugins(report, Path(root))
        _other_roles(report, Path(root), server)
        _without_loop(report, server)
        _page(report, Path(root))
        _authors(report)


def _exchange(report: Report, root: Path, server: RedisServer) -> None:
    """Exchanges chunks between LMCache's connector and the wheel on one store, in both directions."""
    address = f"127.0.0.1:{server.port}"
    redis = (f"redis://{address}", external("redis", "RedisConnector", address))
    resp = (f"resp://{address}", external("resp", "RESPConnector", address))

    def files(name: str) -> tuple[str, str]:
        folder = root / name
        return f"fs://localhost:0{folder}", external("fs", "FSConnector", base_path=str(folder))

    for name, urls, model, pairs, options in (
        ("fs", files, chunks.PLAIN, chunks.with_header(), {}),
        ("fs, two groups", files, chunks.TWO_GROUPS, chunks.two_groups(), {}),
        ("fs, raw", files, chunks.PLAIN, chunks.raw(), RAW),
        ("redis", redis, chunks.PLAIN, chunks.with_header(), {}),
        ("redis, two groups", redis, chunks.TWO_GROUPS, chunks.two_groups(), {}),
        ("resp", resp, chunks.PLAIN, chunks.raw(), RAW),
    ):
        for direction, flip in (("LMCache writes, the wheel reads", False), ("the wheel writes, LMCache reads", True)):
            with report.check(f"wheel: external://, {name}: {direction}"):
                server.ask("FLUSHALL")
                pair = urls(f"{name}-{flip}".replace(", ", "-")) if callable(urls) else urls
                writer, reader = reversed(pair) if flip else pair
                with remote(writer, model, **options) as one:
                    _write(one, pairs)
                with remote(reader, model, **options) as other:
                    _read(other, pairs)
    # One direction only, because LMCache reads such a chunk with the shape of a full one.
    with report.check("wheel: external://, fs, raw and partial: LMCache writes, the wheel reads"):
        theirs, ours = files("partial")
        with remote(theirs, chunks.PLAIN, **RAW) as one:
            _write(one, PARTIAL)
        with remote(ours, chunks.PLAIN, **RAW) as other:
            _read(other, PARTIAL)


def _methods(report: Report, root: Path, server: RedisServer) -> None:
    """Checks every method, on stores that read into LMCache's memory and on stores that copy."""
    stores = {
        "fs": external("fs", "FSConnector", base_path=str(root / "methods")),
        "redis": external("redis", "RedisConnector", f"127.0.0.1:{server.port}"),
        "memory": external("memory", "MemoryConnector"),
        "tiered": external("tiered", "TieredConnector", front="memory://f", back=f"fs://{root}/tiered"),
    }
    for name, url in stores.items():
        with report.check(f"wheel: every method, {name}"):
            server.ask("FLUSHALL")
            with remote(url, chunks.PLAIN) as store:
                _plain_bytes(store)
                equal("remove_sync", store.connector.remove_sync(parse_cache_key(chunks.key("plain bytes"))), True)
                all_methods(store, chunks.with_header())


def all_methods(store: Remote, pairs: list) -> None:
    """Checks the result of each method that LMCache calls, and that LMCache has all of its memory back."""
    before = store.free()
    _write(store, pairs)
    _read(store, pairs)
    connector = store.connector
    keys = [parse_cache_key(text) for text, _ in pairs]
    missing = parse_cache_key(chunks.key("never stored"))
    if store.get(chunks.key("never stored"), pairs[0][1]) is not None:
        raise Failed("a miss gives a chunk")
    equal("exists_sync", [connector.exists_sync(keys[0]), connector.exists_sync(missing)], [True, False])
    for batch, wanted in ((keys, len(keys)), ([*keys[:2], missing, *keys[2:]], 2), ([missing], 0)):
        equal("batched_contains", connector.batched_contains(batch), wanted)
        equal("batched_async_contains", store.run(connector.batched_async_contains("id", batch)), wanted)
        prefix = store.run(connector.batched_get_non_blocking("id", batch))
        equal("batched_get_non_blocking: chunks", len(prefix), wanted)
        for obj in prefix:
            obj.ref_count_down()
    got = store.run(connector.batched_get([keys[0], missing, keys[1]]))
    equal("batched_get: holes", [obj is None for obj in got], [False, True, False])
    for obj in filter(None, got):
        obj.ref_count_down()
    for supported in ("batched_get", "batched_put", "batched_contains", "batched_async_contains", "ping"):
        equal(f"support_{supported}", getattr(connector, f"support_{supported}")(), True)
    equal("ping", store.run(connector.ping()), 0)
    equal("list", set(store.run(connector.list())), {text for text, _ in pairs})
    equal("remove_sync", [connector.remove_sync(keys[0]), connector.remove_sync(keys[0])], [True, False])
    equal("exists after remove_sync", store.exists(pairs[0][0]), False)
    obj = store.allocate(pairs[0][1])
    store.run(connector.batched_put(keys[:1], [obj]))
    equal("exists after batched_put", store.exists(pairs[0][0]), True)
    require_all_freed(store, before)
    store.run(connector.close())
    store.run(connector.close())


def require_all_freed(store: Remote, wanted: int) -> None:
    """Waits until LMCache has its memory back. kvconn frees the last chunks shortly after a call returns."""
    deadline = time.monotonic() + FREED_WITHIN_S
    while store.free() != wanted and time.monotonic() < deadline:
        time.sleep(0.01)
    equal("bytes free in LMCache's pool", store.free(), wanted)


def _plain_bytes(store: Remote) -> None:
    """Exchanges bytes as LMCache's serdes make them: outside of the pool, without a shape or dtype."""
    key, data = parse_cache_key(chunks.key("plain bytes")), b"not a tensor" * 99
    store.run(store.connector.put(key, BytesBufferMemoryObj(data)))
    read = store.run(store.connector.get(key))
    equal("plain bytes", (bytes(read.byte_array), read.get_memory_format().name), (data, "BINARY_BUFFER"))


def _plugins(report: Report, root: Path, server: RedisServer) -> None:
    address = f"127.0.0.1:{server.port}"
    pairs = chunks.with_header()
    for name, url, options in (
        ("kv", f"redis://{address}", {}),
        ("kv.files", f"fs://{root}/plugin", {}),
        ("kv.options", "fs://", {"base_path": f"{root}/options"}),
    ):
        with report.check(f"wheel: plugin://{name}"):
            server.ask("FLUSHALL")
            others = plugin("beside", "memory://beside")
            with remote(f"plugin://{name}", chunks.PLAIN, **others, **plugin(name, url, **options)) as store:
                all_methods(store, pairs)
    with report.check("wheel: a plugin with one of kvconn's connector classes"):
        server.ask("FLUSHALL")
        options = plugin_of("kv", "kvconn.fs", "FSConnector", base_path=f"{root}/class")
        with remote("plugin://kv", chunks.PLAIN, **options) as store:
            all_methods(store, pairs)
    with report.check("wheel: the error for a plugin without a url names the option to set"):
        broken = plugin("kv", "")
        _refused(Exception, "remote_storage_plugin.kv.url", lambda: _open_and_end("plugin://kv", broken))


def _plugin_names(report: Report) -> None:
    """Checks that LMCache's own adapters take the plugin names in docs/engines/lmcache.md, and no other names."""
    with report.check("wheel: LMCache's own adapters take the plugin names in docs/engines/lmcache.md, and no others"):
        starts = ("redis", "redis.a", "redis-kv", "bigtable", "bigtables.a")
        taken = (*starts, *(f"{name}{more}" for name in ("fs", "hf3fs", "hfbucket", "mooncakestore") for more in ("", ".a")))
        for name in (*taken, "kv", "kv-redis", "kv.redis", "my-redis", "fss", "files.fs", "bigtabl"):
            manager = ConnectorManager(f"plugin://{name}", None, None, _config(plugin(name, "memory://named")))
            first = next(adapter for adapter in manager.adapters if adapter.can_parse(f"plugin://{name}"))
            equal(f"whether kvconn opens {name}", isinstance(first, KvconnAdapter), name not in taken)


def _several_plugins(report: Report, root: Path) -> None:
    """Checks that each plugin opens its own store. LMCache calls the first adapter that accepts a URL, and every `KvconnAdapter`
    accepts the URLs of all plugins."""
    options = plugin("kv", "memory://several") | plugin("kv.b", f"fs://{root}/several-b")
    options |= plugin_of("other", "kvconn.fs", "FSConnector", base_path=f"{root}/several")
    options |= plugin_of("adapter", __name__, "_AdapterSubclass", url="memory://own-adapter")
    opened = {
        "kv": "kvconn.memory/MemoryConnector",
        "kv.b": "kvconn.fs/FSConnector",
        "other": "kvconn.fs/FSConnector",
        "adapter": "kvconn.memory/MemoryConnector",
    }
    for name, connector in opened.items():
        with report.check(f"wheel: plugin://{name} beside other plugins"), remote(f"plugin://{name}", chunks.PLAIN, **options) as store:
            equal("the connector", store.connector.getWrappedConnector()._remote.name, connector)
            all_methods(store, chunks.with_header())
    with report.check("wheel: an adapter passes another plugin to that plugin's class"), remote("plugin://kv", chunks.PLAIN, **options) as store:
        backend = store.backend
        for name, connector in opened.items():
            context = ConnectorContext(f"plugin://{name}", store.loop, backend, backend.config, backend.metadata, name)
            for adapter in (KvconnAdapter(), _AdapterSubclass()):
                passed = adapter.create_connector(context)
                equal("the connector", passed._remote.name, connector)
                store.run(passed.close())
    with report.check("wheel: an adapter accepts only the URLs of plugins"):
        equal("the accepted URLs", [KvconnAdapter().can_parse(url) for url in ("plugin://x", "redis://h:1")], [True, False])


class _AdapterSubclass(KvconnAdapter):
    def create_connector(self, context: ConnectorContext):
        return super().create_connector(context)


def _other_roles(report: Report, root: Path, server: RedisServer) -> None:
    url = external("fs", "FSConnector", base_path=str(root / "roles"))
    pairs = chunks.with_header()[:2]
    with report.check("wheel: the scheduler, which has no memory, calls exists"):
        with remote(url, chunks.PLAIN) as worker:
            _write(worker, pairs)
        config = LMCacheEngineConfig.from_defaults(remote_url=url, chunk_size=chunks.PLAIN.chunk_tokens)
        for metadata in (None, metadata_of(chunks.PLAIN)):
            asyncio.run(_scheduler(url, config, metadata, [parse_cache_key(text) for text, _ in pairs]))
    with report.check("wheel: behind LMCache's audit://"):
        options = {"audit_actual_remote_url": url, "audit_verify_checksum": True}
        with remote("audit://localhost:0", chunks.PLAIN, **options) as store:
            equal("the connector", type(store.connector.getWrappedConnector()).__name__, "AuditConnector")
            _write(store, pairs)
            _read(store, pairs)
    with report.check("wheel: an LMCache that is too old is an error, a newer one gives a warning"):
        _versions()
    with report.check("wheel: the error for a class without a URL names the URL to set"):
        _refused(
            Exception,
            "kvconn.memory/?connector_name=MemoryConnector",
            lambda: import_module("kvconn.memory").MemoryConnector(config=LMCacheEngineConfig.from_defaults()),
        )


def _without_loop(report: Report, server: RedisServer) -> None:
    """Checks that kvconn neither changes LMCache's configuration nor needs its loop for `exists_sync`."""
    url = external("redis", "RedisConnector", f"127.0.0.1:{server.port}")
    with report.check("wheel: opening a store does not change LMCache's configuration"), side(url, chunks.PLAIN) as made:
        before = json.dumps(made.config.to_dict(), default=str)
        end(CreateConnector(url, made.loop, made.backend, made.config, made.metadata), made.loop)
        equal("the configuration", json.dumps(made.config.to_dict(), default=str), before)
    with report.check("wheel: use_exists_sync needs no loop"), side(url, chunks.PLAIN, use_exists_sync=True) as made:
        backend = RemoteBackend(made.config, made.metadata, made.loop, made.backend, dst_device="cpu")
        text, chunk = chunks.with_header()[0]
        store = Remote(backend.connection, made.backend, made.loop)
        store.put(text, chunk)
        keys = [parse_cache_key(text), parse_cache_key(chunks.key("never stored, either"))]
        answers: list[bool] = []
        thread = threading.Thread(target=lambda: answers.extend(backend.contains(key) for key in keys))
        resume = threading.Event()
        made.loop.call_soon_threadsafe(resume.wait)
        thread.start()
        thread.join(TIMEOUT_S)
        # Copies the answers while the loop is still blocked.
        found = [*answers]
        resume.set()
        thread.join()
        end(backend.connection, made.loop)
        equal("the answers", found, [True, False])


def _page(report: Report, root: Path) -> None:
    """LMCache's internal API server shows the metrics of the plugin's store."""
    name = "wheel: kvconn's metrics are on the page of LMCache's internal API server"
    url = f"fs://{root}/page"
    with report.check(name), remote("plugin://kv", chunks.PLAIN, **plugin("kv", url)) as store:
        pairs = [(chunks.key("page"), chunks.PLAIN.chunk("page"))]
        _write(store, pairs)
        _read(store, pairs)
        page = asyncio.run(metrics_api.get_metrics(None)).body.decode()
        labels = 'connector="kvconn.fs/FSConnector",instance="kv"'
        found = [line for line in page.splitlines() if line.startswith("kvconn_bytes_total{" + labels)]
        moved = [float(line.rsplit(" ", 1)[1]) for line in found]
        equal("operations that moved the chunk's bytes", len([n for n in moved if n > 0]), 2)


def _authors(report: Report) -> None:
    """Checks the connector of an author's wheel, examples/acme-kv/wheel. These checks do not import that wheel."""
    for name, url, options in (
        ("external://", "external://localhost:0/acme.kv/?connector_name=AcmeConnector", {}),
        ("a plugin", "plugin://kv", plugin("kv", "acme://localhost:0", max_chunks=99)),
        ("a plugin with its class", "plugin://kv", plugin_of("kv", "acme.kv", "AcmeConnector")),
    ):
        with report.check(f"wheel: a connector of an author's wheel: {name}"):
            with remote(url, chunks.PLAIN, **options) as store:
                equal("the connector", "acme.kv/AcmeConnector" in repr(store.connector.getWrappedConnector()), True)
                before = store.free()
                _write(store, chunks.with_header())
                _read(store, chunks.with_header())
                require_all_freed(store, before)
    with report.check("wheel: the libraries of two wheels share one CPU backend and open stores repeatedly"):
        with remote("external://localhost:0/kvconn.memory/?connector_name=MemoryConnector", chunks.PLAIN) as store:
            before = store.free()
            for i in range(3):
                for url in ("acme://localhost:0", f"memory://{i}"):
                    opened = KvconnConnector.open(url, store.loop, store.backend, store.backend.config)
                    other = Remote(opened, store.backend, store.loop)
                    for text, chunk in chunks.with_header():
                        obj = other.allocate(chunk)
                        other.run(opened.put(parse_cache_key(text), obj))
                        obj.ref_count_down()
                    _read(other, chunks.with_header())
                    other.run(opened.close())
            require_all_freed(store, before)
            close, depth = store.backend.memory_allocator.close, 0
            while type(close).__name__ == "PoolClose":
                close, depth = close.original, depth + 1
            equal("the number of libraries that wait before LMCache frees its pool", depth, 2)


async def _scheduler(url: str, config, metadata, keys: list) -> None:
    connector = CreateConnector(url, asyncio.get_running_loop(), None, config, metadata)
    equal("exists", [await connector.exists(key) for key in keys], [True] * len(keys))
    equal("batched_contains", connector.batched_contains(keys), len(keys))
    await connector.close()


def _config(options: dict) -> LMCacheEngineConfig:
    names = sorted({key.split(".", 1)[1].rsplit(".", 1)[0] for key in options})
    return LMCacheEngineConfig.from_defaults(remote_storage_plugins=names, extra_config=options)


def _logged(logger: str, call) -> list[str]:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger(logger).addHandler(handler)
    try:
        call()
    finally:
        logging.getLogger(logger).removeHandler(handler)
    return lines


def _versions() -> None:
    from kvconn import KvconnError
    from kvconn._version import check_version

    for good in ("0.5.6", "0.5.6.post1", "0.5.7rc1"):
        equal(f"lines about LMCache {good}", _logged("kvconn.lmcache", lambda good=good: check_version(good)), [])
    _refused(KvconnError, "needs LMCache 0.5 or newer, not 0.4.2", lambda: check_version("0.4.2"))
    for new in ("0.6.0", "0.10", "1.0"):
        equal(f"lines about LMCache {new}", len(_logged("kvconn.lmcache", lambda new=new: check_version(new))), 1)


def _open_and_end(url: str, options: dict) -> None:
    with remote(url, chunks.PLAIN, **options):
        pass


def _refused(error: type[Exception], text: str, call) -> None:
    try:
        call()
    except error as e:
        if text not in str(e):
            raise Failed(f"the error does not contain {text!r}: {e}") from e
    else:
        raise Failed(f"the call gives no error; expected an error with {text!r}")


def _write(store: Remote, pairs: list) -> None:
    for text, chunk in pairs:
        store.put(text, chunk)


def _read(store: Remote, pairs: list) -> None:
    for text, chunk in pairs:
        equal(f"{chunk.name}: exists", store.exists(text), True)
        equal(f"{chunk.name}: the chunk that is read", store.get(text, chunk), chunk)
