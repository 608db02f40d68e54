"""Checks of features that SGLang's `file` backend does not have."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from sglang.srt.runtime_context import get_context

from ..report import Failed, Report, equal
from ..s3_server import S3Server
from ..server import RedisServer
from .backends import KVCONN, backend
from .checks import LAYOUTS, PAGES
from .engine import engine, tokens, until
from .pools import Model

STORES_ON_A_SERVER = ("redis", "resp", "s3")


def lost_server(report: Report) -> None:
    """A server that is killed, paused, back, or not there at the start costs hits and nothing else."""
    for name in STORES_ON_A_SERVER:
        with report.check(f"sglang, {name}: a server is killed and comes back"), backend(name) as made:
            with engine(Model(), made.kind, made.config) as one:
                prompt = tokens(PAGES, one.model)
                one.store(prompt)
                _kill(made.server)
                equal("pages found", one.hits(prompt), 0)
                equal("tokens written", one.store(prompt), 0)
                _start(made.server)
                until(lambda: one.store(prompt) > 0, "the store takes pages again")
                until(lambda: one.load(prompt) == PAGES, "the pages come back")
        with report.check(f"sglang, {name}: a server dies between hit and read"), backend(name) as made:
            with engine(Model(), made.kind, made.config) as one:
                prompt = tokens(PAGES, one.model)
                one.store(prompt)
                equal("pages read", one.load(prompt, between=lambda: _kill(made.server)), 0)
        with report.check(f"sglang, {name}: a server is paused and comes back"), backend(name) as made:
            with engine(Model(), made.kind, made.config) as one:
                prompt = tokens(PAGES, one.model)
                one.store(prompt)
                with _paused(made.server):
                    equal("pages found", one.hits(prompt), 0)
                    equal("tokens written", one.store(tokens(PAGES, one.model, 1000)), 0)
                until(lambda: one.load(prompt) == PAGES, "the pages come back")
        with report.check(f"sglang, {name}: a server is paused between hit and read"), backend(name) as made:
            with engine(Model(), made.kind, made.config) as one:
                prompt = tokens(PAGES, one.model)
                one.store(prompt)
                equal("pages read", one.load(prompt, between=lambda: made.server.process.send_signal(signal.SIGSTOP)), 0)
                made.server.process.send_signal(signal.SIGCONT)
                until(lambda: one.load(prompt) == PAGES, "the pages come back")
        with report.check(f"sglang, {name}: a server starts after SGLang"), backend(name) as made:
            _kill(made.server)
            with engine(Model(), made.kind, made.config) as one:
                prompt = tokens(PAGES, one.model)
                equal("pages found", one.hits(prompt), 0)
                _start(made.server)
                until(lambda: one.store(prompt) > 0, "the store takes pages")
                equal("pages read", one.load(prompt), PAGES)


def names(report: Report) -> None:
    """Pages of another configuration are never found; those of a replica are."""
    first = Model()
    others = {
        "dtype": replace(first, dtype=torch.float16),
        "size of the heads": replace(first, heads=4, head_dim=4),
        "number of heads": replace(first, heads=4),
        "number of layers": replace(first, layers=4),
        "layout": replace(first, layout="page_first_direct"),
        "kind of attention": replace(first, mla=True),
        "model": replace(first, name="interop/qwen"),
    }
    for name, other in others.items():
        with report.check(f"sglang, names: another {name}"), backend("fs") as made:
            with engine(first, made.kind, made.config) as one, engine(other, made.kind, made.config) as two:
                prompt = tokens(PAGES, first)
                one.store(prompt)
                equal("pages of the other", two.hits(prompt), 0)
                two.store(prompt)
                equal("pages of the first", one.load(prompt), PAGES)
                equal("pages of the other", two.load(prompt), PAGES)
    with report.check("sglang, names: another number of ranks"), backend("fs") as made:
        with engine(first, made.kind, made.config) as one, engine(first, made.kind, made.config, ranks=2) as two:
            one.store(tokens(PAGES, first))
            equal("pages with two ranks", two.hits(tokens(PAGES, first)), 0)
    with report.check("sglang, names: MLA pages serve any number of ranks"), backend("fs") as made:
        model = replace(first, mla=True)
        with engine(model, made.kind, made.config) as one, engine(model, made.kind, made.config, rank=3, ranks=4) as two:
            one.store(tokens(PAGES, model))
            equal("pages of the last of four ranks", two.load(tokens(PAGES, model)), PAGES)
    with report.check("sglang, names: another size of a state"), backend("fs") as made:
        model = replace(first, sidecars=("mamba",))
        with engine(model, made.kind, made.config) as one, engine(replace(model, state=7), made.kind, made.config) as two:
            one.store(tokens(PAGES, model))
            equal("pages of the other", two.hits(tokens(PAGES, model)), 0)
            two.store(tokens(PAGES, model))
            equal("pages of the first", one.load(tokens(PAGES, model)), PAGES)
            equal("pages of the other", two.load(tokens(PAGES, model)), PAGES)
    for option in ("namespace", "revision"):
        with report.check(f"sglang, names: another {option}"), backend("fs") as made:
            with (
                engine(first, made.kind, made.with_options(**{option: "a"})) as one,
                engine(first, made.kind, made.with_options(**{option: "a"})) as replica,
                engine(first, made.kind, made.with_options(**{option: "b"})) as two,
            ):
                one.store(tokens(PAGES, first))
                equal("pages of a replica", replica.load(tokens(PAGES, first)), PAGES)
                equal("pages of the other", two.hits(tokens(PAGES, first)), 0)


def published(report: Report) -> None:
    """The configuration that SGLang publishes is in the names of pages."""
    base = {"kv_cache_dtype": "fp8_e4m3", "revision": "main"}
    others = {
        "kv_cache_dtype": "fp8_e5m2",
        "revision": "other",
        "quantization": "awq",
        "dtype": "float16",
        "json_model_override_args": '{"rope_theta": 1}',
        "quantization_param_path": "scales.json",
        "model_path": "interop/other",
        "weight_version": "step-2",
    }
    with backend("fs") as made:
        prompt = tokens(PAGES, Model())

        def hits(**fields) -> int:
            with get_context().override_server_args(**{**base, **fields}), engine(Model(), made.kind, made.config) as one:
                return one.hits(prompt)

        with get_context().override_server_args(**base), engine(Model(), made.kind, made.config) as one:
            one.store(prompt)
        with report.check("sglang, published: the same configuration"):
            equal("pages", hits(), PAGES)
        for name, value in others.items():
            with report.check(f"sglang, published: another {name}"):
                equal("pages", hits(**{name: value}), 0)


def configuration(report: Report) -> None:
    """A wrong configuration fails the attach and names the key. SGLang's own keys are not options."""
    wrong = {
        "url": {"url": 5},
        "url is missing": {"url": None},
        "lookup_timeout_ms": {"lookup_timeout_ms": "soon"},
        "timeout_ms": {"timeout_ms": -1},
        "layout": {"layout": "vllm2"},
        "revision": {"revision": 3},
    }
    for name, options in wrong.items():
        with report.check(f"sglang, configuration: wrong {name}"), backend("fs") as made:
            with engine(Model(), made.kind, made.config) as one:
                prompt = tokens(PAGES, one.model)
                one.store(prompt)
                one.close()
                try:
                    one.attach(made.kind, made.with_options(**options))
                except ValueError as e:
                    if next(iter(options)) not in str(e):
                        raise Failed(f"the error does not name the key: {e}") from e
                else:
                    raise Failed("the attach has worked")
                one.attach(made.kind, made.config)
                equal("pages read after the right configuration", one.load(prompt), PAGES)
    with report.check("sglang, configuration: an unknown option is one warning with the nearest"), backend("fs") as made:
        options = {"lookup_timeout_m": 100, "prefetch_threshold": 1, "prefetch_timeout_base": 2, "hicache_storage_pass_prefix_keys": True}
        with _warnings() as found, engine(Model(), made.kind, made.with_options(**options)) as one:
            equal("tokens written", one.store(tokens(PAGES, one.model)), PAGES * one.model.page_tokens)
        about = [text for text in found if "lookup_timeout_m" in text]
        if len(about) != 1 or "lookup_timeout_ms" not in about[0]:
            raise Failed(f"the warnings are {found}")
        if any(name in text for text in found for name in ("prefetch_t", "pass_prefix", "backend_name", "interface_v1")):
            raise Failed(f"a key of SGLang's has a warning: {found}")
    with report.check("sglang, configuration: a path does not name weights"), backend("fs") as made:
        with _warnings() as found, engine(Model(name="/models/current"), made.kind, made.config):
            pass
        if not any("namespace" in text and "revision" in text for text in found):
            raise Failed(f"the warnings are {found}")


def upkeep(report: Report) -> None:
    """`clear` removes only its own pages, and SGLang's metrics count the pages that moved."""
    for name in ("memory", "fs", "redis"):
        with report.check(f"sglang, {name}: clear removes only its own pages"), backend(name) as made:
            model = Model(sidecars=("mamba",))
            with engine(model, made.kind, made.config) as one, engine(Model(name="other"), made.kind, made.config) as other:
                one.store(tokens(PAGES, model))
                other.store(tokens(PAGES, model))
                equal("the result", one.controller.clear_storage_backend(), True)
                equal("own pages", one.hits(tokens(PAGES, model)), 0)
                equal("objects of others", len(made.keys()), 2 * PAGES)
                equal("pages of others", other.load(tokens(PAGES, model)), PAGES)
    with report.check("sglang, fs: SGLang's metrics"), backend("fs") as made:
        with engine(Model(), made.kind, made.config, metrics=True) as one:
            prompt = tokens(PAGES, one.model)
            one.store(prompt)
            one.load(prompt)
            stats = one.backend.get_stats()
            equal("pages written and read", (stats.backup_pgs, stats.prefetch_pgs), ([PAGES], [PAGES]))
            equal("speeds", all(speed > 0 for speed in stats.backup_bandwidth + stats.prefetch_bandwidth), True)
            stats = one.backend.get_stats()
            equal("the next question", (stats.backup_pgs, stats.prefetch_pgs), ([], []))
        with engine(Model(), made.kind, made.config) as one:
            equal("without metrics", one.backend.get_stats(), None)


    with report.check("sglang, fs: kvconn's metrics are on SGLang's page"), backend("fs") as made:
        page = _page_of(made.config)
        for line in (
            r'kvconn_calls_total{connector="kvconn\.fs/FSConnector",instance="[^"]*",operation="batched_put",result="ok"} [1-9]',
            r'kvconn_call_seconds_bucket{connector="kvconn\.fs/FSConnector",instance="[^"]*",le="\+Inf",operation="batched_put"} [1-9]',
            r'kvconn_calls_in_flight{connector="kvconn\.fs/FSConnector",instance="[^"]*",operation="batched_put"} 0',
        ):
            if not re.search(line, page):
                raise Failed(f"no {line} in {[line for line in page.splitlines() if line.startswith('kvconn_calls')]}")


def _page_of(config: dict[str, object]) -> str:
    """The page of SGLang's HTTP server after another process, as its scheduler, has stored pages."""
    scheduler = (
        "import json, sys; from interop.sglang.engine import *; from interop.sglang.pools import Model\n"
        "with engine(Model(), 'dynamic', json.loads(sys.argv[1]), metrics=True) as one: one.store(tokens(5, one.model))"
    )
    server = (
        "from fastapi import FastAPI; from sglang.srt.utils.common import add_prometheus_middleware\n"
        "from starlette.testclient import TestClient\n"
        "app = FastAPI(); add_prometheus_middleware(app); print(TestClient(app).get('/metrics').text)"
    )
    with tempfile.TemporaryDirectory(prefix="kvconn-interop-") as folder:
        environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": folder, "PYTHONPATH": os.pathsep.join(sys.path)}
        for code, argument in ((scheduler, json.dumps(config)), (server, "")):
            child = subprocess.run(
                [sys.executable, "-c", code, argument], env=environment, capture_output=True, text=True, check=False, timeout=300
            )
            if child.returncode != 0:
                raise Failed(f"a process ends with {child.returncode}: {child.stdout}{child.stderr}")
    return child.stdout


def files(report: Report) -> None:
    """`layout=sglang`: SGLang's `file` backend and kvconn read each other's files."""
    shapes = [
        (Model(layout=layout, mla=mla, sidecars=sidecars), options)
        for layout in LAYOUTS
        for mla in (False, True)
        for sidecars in ((), ("mamba",), ("swa",), ("deepseek_v4_c4",))
        for options in ({}, {"rank": 1, "ranks": 2})
        # Of MLA, the first rank writes.
        if not (mla and options)
    ]
    for name, theirs_first in (("SGLang writes, kvconn reads", True), ("kvconn writes, SGLang reads", False)):
        with report.check(f"sglang, files: {name}"):
            for model, options in shapes:
                with tempfile.TemporaryDirectory(prefix="kvconn-interop-") as folder:
                    theirs = ("file", {"file_storage_path": folder})
                    ours = ("dynamic", {**KVCONN, "url": f"fs://{folder}?layout=sglang"})
                    writer, reader = (theirs, ours) if theirs_first else (ours, theirs)
                    with engine(model, *writer, **options) as one, engine(model, *reader, **options) as two:
                        prompt = tokens(PAGES, model)
                        equal(f"{model}: tokens written", one.store(prompt), len(prompt))
                        equal(f"{model}: pages read", two.load(prompt), PAGES)
                        before = sorted(os.listdir(folder))
                        equal(f"{model}: tokens written by the other", two.store(prompt), len(prompt))
                        equal(f"{model}: files", sorted(os.listdir(folder)), before)
    with report.check("sglang, files: ranks of MLA with states"), tempfile.TemporaryDirectory(prefix="kvconn-interop-") as folder:
        model = Model(mla=True, sidecars=("mamba",))
        theirs = ("file", {"file_storage_path": folder})
        ours = ("dynamic", {**KVCONN, "url": f"fs://{folder}?layout=sglang"})
        with engine(model, *theirs, rank=0, ranks=2) as zero, engine(model, *ours, rank=1, ranks=2) as one:
            zero.store(tokens(PAGES, model))
            one.store(tokens(PAGES, model))
            equal("pages of the second rank", one.load(tokens(PAGES, model)), PAGES)
        with engine(model, *theirs, rank=1, ranks=2) as one:
            equal("pages of the second rank, read by SGLang", one.load(tokens(PAGES, model)), PAGES)
    another_length = report.check("sglang, files: a file of another length is not found")
    with another_length, tempfile.TemporaryDirectory(prefix="kvconn-interop-") as folder:
        with engine(Model(), "file", {"file_storage_path": folder}) as one:
            one.store(tokens(PAGES, one.model))
        first, second = sorted(Path(folder).glob("*.bin"))[:2]
        first.write_bytes(first.read_bytes()[:-1])
        second.write_bytes(second.read_bytes() + b"x")
        with engine(Model(), "dynamic", {**KVCONN, "url": f"fs://{folder}?layout=sglang"}) as one:
            prompt = tokens(PAGES, one.model)
            keys = one.hashes(prompt)
            bad = {first.name[:64], second.name[:64]}
            wanted = next(place for place, key in enumerate(keys) if key in bad)
            equal("pages read", one.load(prompt), wanted)
            one.store(prompt)
            equal("pages read after a write", one.load(prompt), PAGES)
    with report.check("sglang, files: clear leaves other models"), tempfile.TemporaryDirectory(prefix="kvconn-interop-") as folder:
        with engine(Model(name="other"), "file", {"file_storage_path": folder}) as other:
            other.store(tokens(PAGES, other.model))
            with engine(Model(), "dynamic", {**KVCONN, "url": f"fs://{folder}?layout=sglang"}) as one:
                one.store(tokens(PAGES, one.model))
                one.controller.clear_storage_backend()
                equal("own pages", one.hits(tokens(PAGES, one.model)), 0)
            equal("pages of the other", other.load(tokens(PAGES, other.model)), PAGES)


def processes(report: Report) -> None:
    """A fresh process finds every page, with any seed of Python's hashes."""
    with report.check("sglang, fs: another process with another hash seed"), backend("fs") as made:
        code = (
            "import json, sys; from interop.sglang.engine import *; from interop.sglang.pools import Model\n"
            "with engine(Model(), 'dynamic', json.loads(sys.argv[1])) as one: print('pages:', one.load(tokens(5, one.model)))"
        )
        with engine(Model(), made.kind, made.config) as one:
            one.store(tokens(PAGES, one.model))
        for seed in ("0", "7"):
            child = subprocess.run(
                [sys.executable, "-c", code, json.dumps(made.config)],
                env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
                capture_output=True,
                text=True,
                check=False,
            )
            if "pages: 5" not in child.stdout:
                raise Failed(f"with seed {seed}: {child.stdout}{child.stderr}")


def _kill(server: RedisServer | None) -> None:
    server.process.kill()
    server.process.wait()


def _start(server: RedisServer | None) -> None:
    if not server._start():
        raise Failed("the server's port was taken")


@contextmanager
def _paused(server: RedisServer | None) -> Iterator[None]:
    server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


@contextmanager
def _warnings() -> Iterator[list[str]]:
    found: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    handler = Keep(logging.WARNING)
    logging.getLogger("kvconn").addHandler(handler)
    try:
        yield found
    finally:
        logging.getLogger("kvconn").removeHandler(handler)
