"""A store that is lost, slow or emptied below LMCache's StorageManager."""

from __future__ import annotations

import signal
import tempfile

from ..report import Failed, Report, equal
from ..s3_server import S3Server, Throttled
from ..server import RedisServer
from .manager import CHUNK_BYTES, Manager, chunks, layout, spec, wait_for


def run(report: Report) -> None:
    """Runs all checks of this part."""
    for kind in (RedisServer, S3Server):
        name = "s3" if kind is S3Server else "resp"
        with report.check(f"lmcache-server: {name}: a server that is stopped costs hits, and nothing else"), kind() as store:
            _stopped(store)
        with report.check(f"lmcache-server: {name}: a server that is killed and comes back is used again"), kind() as store:
            _killed(store)
        with report.check(f"lmcache-server: {name}: a store that is emptied between hit and load"), kind() as store:
            _emptied(store)
        with report.check(f"lmcache-server: {name}: a server that starts after LMCache is used"), kind() as store:
            _late(store)
    with report.check("lmcache-server: s3: a store that answers each request with 503 SlowDown is not lost"):
        _throttled()
    with report.check("lmcache-server: a wrong configuration fails the start, and says why"):
        _wrong()


Server = RedisServer | S3Server


def _kill(server: Server) -> None:
    server.process.kill()
    server.process.wait()


def _url(server: Server) -> str:
    if isinstance(server, S3Server):
        return server.ours(min_reconnect_interval="0.1")
    return f"resp://127.0.0.1:{server.port}?min_reconnect_interval=0.1"


def _stopped(store: Server) -> None:
    wanted, held = chunks(4), chunks(4, first=50)
    with Manager(spec(_url(store))) as server:
        server.store(wanted)
        server.forget()
        server.store(held)
        store.process.send_signal(signal.SIGSTOP)
        try:
            equal("chunks of a stopped server", server.fetch([*wanted]), [])
            equal("chunks that LMCache has in memory", server.fetch([*held]), [*held.values()])
            equal("the state", server.adapter.report_status()["state"], "lost")
        finally:
            store.process.send_signal(signal.SIGCONT)
        wait_for("the server is used again", lambda: server.fetch([*wanted]) == [*wanted.values()])
        _check_whole(server)


def _killed(store: Server) -> None:
    wanted = chunks(4)
    with Manager(spec(_url(store))) as server:
        server.store(wanted)
        _kill(store)
        server.forget()
        equal("chunks of a dead server", server.fetch([*wanted]), [])
        server.store(chunks(4, first=10))
        # LMCache keeps the chunks that it could not store.
        equal("chunks in memory", server.fetch([*chunks(4, first=10)]), [*chunks(4, first=10).values()])
        store.start_again()
        wait_for("the server is used again", lambda: _is_used(server))
        _check_whole(server)


def _emptied(store: Server) -> None:
    wanted = chunks(4)
    with Manager(spec(_url(store))) as server:
        server.store(wanted)
        server.forget()
        adapter = server.adapter
        task = adapter.submit_lookup_and_lock_task([*wanted], {0: layout(CHUNK_BYTES)})
        found = []
        wait_for("the lookup ends", lambda: found.append(adapter.query_lookup_and_lock_result(task)) or found[-1] is not None)
        equal("chunks that the lookup finds", found[-1].popcount(), 4)
        if isinstance(store, S3Server):
            store.empty()
        else:
            store.ask("FLUSHALL")
        # The controller's own lookup would see the empty server.
        reserved = server.manager._l1_manager.reserve_write([*wanted], [True] * 4, layout(CHUNK_BYTES), tag="check")
        objects = [reserved[name][1] for name in wanted]
        task = adapter.submit_load_task([*wanted], objects)
        loaded = []
        wait_for("the load ends", lambda: loaded.append(adapter.query_load_result(task)) or loaded[-1] is not None)
        equal("chunks that the load gives", loaded[-1].popcount(), 0)
        server.manager._l1_manager.finish_write_and_delete([*wanted], tag="check")
        adapter.submit_unlock([*wanted])
        equal("chunks afterwards", server.fetch([*wanted]), [])
        _check_whole(server)


def _late(store: Server) -> None:
    wanted = chunks(4)
    _kill(store)
    with Manager(spec(_url(store))) as server:
        equal("chunks before the server starts", server.fetch([*wanted]), [])
        store.start_again()
        wait_for("the server is used", lambda: _is_used(server))


def _throttled() -> None:
    wanted = chunks(4)
    with Throttled.server() as url, Manager(spec(url)) as server:
        server.write(wanted)
        server.wait_stored()
        equal("chunks that LMCache has in memory", server.fetch([*wanted]), [*wanted.values()])
        equal("chunks of the store", server.fetch([*chunks(4, first=50)]), [])
        equal("the state", server.adapter.report_status()["state"], "ok")
        equal("LMCache's memory is whole", server.manager.memcheck(), True)


def _wrong() -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/file"
        with open(file, "w"):
            pass
        for adapter, why in [
            (spec("memmory://x"), "memory"),
            (spec(f"fs://{file}"), "file"),
            (spec("memory://x", max_capacity_gb="much"), "max_capacity_gb"),
            (spec("memory://x", lookup_timeout_ms=-5), "lookup_timeout_ms"),
        ]:
            try:
                Manager(adapter).__exit__()
            except Exception as e:  # noqa: BLE001: the text shows which error it is
                equal(f"{e}: it says {why!r}", why in str(e), True)
            else:
                raise Failed(f"LMCache starts with {adapter}")


def _is_used(server: Manager) -> bool:
    wanted = chunks(4, first=1000)
    server.forget()
    server.store(wanted)
    server.forget()
    return server.fetch([*wanted]) == [*wanted.values()]


def _check_whole(server: Manager) -> None:
    equal("LMCache's memory is whole", server.manager.memcheck(), True)
    wait_for("no lock is left", lambda: server.adapter.report_status()["locked_keys"] == 0)
    server.forget()
    equal("bytes of LMCache's memory in use", server.manager._l1_manager.get_memory_usage()[0], 0)
