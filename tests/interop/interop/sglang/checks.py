"""Checks of a storage backend that SGLang's own `file` backend passes, too."""

import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from ..report import Failed, Report, equal
from ..topology_servers import TOPOLOGIES
from .backends import Backend, backend
from .engine import Engine, engine, tokens
from .pools import Model

PAGES = 5
LAYOUTS = ("layer_first", "page_first", "page_first_direct")
POOLS = (("mamba",), ("swa",), ("mamba", "swa"), ("deepseek_v4_c4",))
Check = Callable[[Backend], None]


def topologies(report: Report) -> None:
    """Runs the checks of the bytes over servers with TLS, with sentinels and in clusters."""
    for name in TOPOLOGIES:
        run(report, name, (bytes_come_back, both_interfaces, many_pages))


def run(report: Report, name: str, checks: Sequence[Check] = ()) -> None:
    """Runs some checks of this file, or all of them, on the backend `name`."""
    for check in checks or CHECKS:
        with report.check(f"sglang, {name}: {(check.__doc__ or '').splitlines()[0].rstrip('.')}"), backend(name) as made:
            check(made)


def bytes_come_back(made: Backend) -> None:
    """Every byte of every layout comes back, in the engine that wrote and in another one."""
    for model in models():
        with engine(model, made.kind, made.config) as first:
            prompt = tokens(PAGES, model)
            equal(f"{model}: pages before", first.hits(prompt), 0)
            equal(f"{model}: tokens written", first.store(prompt), len(prompt))
            equal(f"{model}: pages read", first.load(prompt), PAGES)
            with engine(model, made.kind, made.config) as second:
                equal(f"{model}: pages of a longer prompt", second.load(tokens(PAGES + 3, model)), PAGES)
        made.drop()


def both_controllers(made: Backend) -> None:
    """SGLang's plain controller and its hybrid one read each other's pages."""
    model = Model()
    for writer, reader in ((True, False), (False, True)):
        with engine(model, made.kind, made.config, plain=writer) as one, engine(model, made.kind, made.config, plain=reader) as other:
            equal("tokens written", one.store(tokens(PAGES, model)), PAGES * model.page_tokens)
            equal("pages read", other.load(tokens(PAGES, model)), PAGES)
        made.drop()


def both_interfaces(made: Backend) -> None:
    """SGLang's interface by addresses and its old one by tensors read each other's pages."""
    for layout in LAYOUTS:
        for mla in (False, True):
            model = Model(layout=layout, mla=mla)
            for new, old in ((1, 0), (0, 1)):
                config = made.with_options(interface_v1=new), made.with_options(interface_v1=old)
                with engine(model, made.kind, config[0]) as one, engine(model, made.kind, config[1]) as other:
                    one.store(tokens(PAGES, model))
                    equal(f"{model}: pages read", other.load(tokens(PAGES, model)), PAGES)
                made.drop()


def many_pages(made: Backend) -> None:
    """A prompt of more pages than SGLang moves in one call."""
    for plain in (False, True):
        model = Model(page_tokens=1)
        with engine(model, made.kind, made.config, plain=plain) as one:
            equal("tokens written", one.store(tokens(200, model)), 200)
            equal("pages read", one.load(tokens(220, model)), 200)
        made.drop()


def emptied_between(made: Backend) -> None:
    """A store that is emptied between the hit and the read gives no page."""
    with _engine(Model(), made) as one:
        prompt = tokens(PAGES, one.model)
        one.store(prompt)
        equal("pages read", one.load(prompt, between=made.drop), 0)
        one.store(prompt)
        equal("pages read later", one.load(prompt), PAGES)


def missing_page(made: Backend) -> None:
    """A prefix ends before the first page that is gone."""
    with _engine(Model(), made) as one:
        prompt = tokens(PAGES, one.model)
        one.store(prompt)
        third = one.hashes(prompt)[2]
        equal("pages read", one.load(prompt, between=lambda: made.drop(third)), 2)
        equal("pages found", one.hits(prompt), 2)


def other_model(made: Backend) -> None:
    """Another model finds nothing, and each keeps its own bytes."""
    with _engine(Model(), made) as one, _engine(Model(name="interop/qwen"), made) as other:
        prompt = tokens(PAGES, one.model)
        one.store(prompt)
        equal("pages of the other model", other.hits(prompt), 0)
        other.store(prompt)
        equal("pages of the first", one.load(prompt), PAGES)
        equal("pages of the other", other.load(prompt), PAGES)


def ranks(made: Backend) -> None:
    """Each tensor parallel rank reads its own pages."""
    model = Model()
    with _ranks(model, made) as (first, second):
        prompt = tokens(PAGES, model)
        first.store(prompt)
        equal("pages of the second rank", second.hits(prompt), 0)
        second.store(prompt)
        equal("pages of the first rank", first.load(prompt), PAGES)
        equal("pages of the second rank", second.load(prompt), PAGES)


def one_copy_of_mla(made: Backend) -> None:
    """MLA: the first rank writes one copy for all, and each rank has Mamba states of its own."""
    model = Model(mla=True)
    with _ranks(model, made) as (first, second):
        prompt = tokens(PAGES, model)
        second.store(prompt)
        equal("objects that the second rank wrote", len(made.keys()), 0)
        first.store(prompt)
        written = len(made.keys())
        second.store(prompt)
        equal("objects after the second rank wrote", len(made.keys()), written)
        equal("pages of the second rank", second.load(prompt), PAGES)
    made.drop()
    model = replace(model, sidecars=("mamba",))
    with _ranks(model, made) as (first, second):
        first.store(prompt)
        equal("pages of the second rank without its state", second.hits(prompt), 0)
        second.store(prompt)
        equal("pages of the first rank", first.load(prompt), PAGES)
        equal("pages of the second rank", second.load(prompt), PAGES)


def sparse_states(made: Backend) -> None:
    """A state at the end of a shorter prompt is found inside of a longer one."""
    model = Model(sidecars=("mamba",))
    with _engine(model, made) as one:
        one.store(tokens(2, model))
        one.store(tokens(PAGES, model))
        states = one.hashes(tokens(PAGES, model))
        made.drop(f"{states[-1]}.mamba" if made.kind == "file" else f"{states[-1]}@mamba")
        equal("pages with a state at the end", one.load(tokens(PAGES, model)), 2)


def three_threads(made: Backend) -> None:
    """Three threads ask, read and write at once."""
    model = Model()
    with _engine(model, made) as one:
        prompt = tokens(PAGES, model)
        one.store(prompt)
        keys = one.hashes(prompt)
        ends, failed = threading.Event(), []

        def ask() -> None:
            while not ends.is_set():
                if one.backend.batch_exists(keys) != PAGES:
                    failed.append("a question missed pages")

        def write() -> None:
            indices = one.pools.kv.alloc(len(prompt))
            for start in range(1, 40):
                new = [f"{start:02x}" + key[2:] for key in keys]
                values = [one.pools.kv.get_data_page(int(at)) for at in indices[:: model.page_tokens]]
                if not (one.backend.batch_set(new, values) and one.backend.batch_exists(new) == PAGES):
                    failed.append("a write failed")
            one.pools.kv.free(indices)

        threads = [threading.Thread(target=work) for work in (ask, write)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(20):
                equal("pages read", one.load(prompt), PAGES)
        finally:
            ends.set()
            for thread in threads:
                thread.join()
        equal("failures of the threads", failed, [])


def eight_requests(made: Backend) -> None:
    """Eight requests at once, with random aborts: each page that comes has the right bytes, and no host memory is lost."""
    for sidecars in ((), ("mamba",)):
        model = Model(sidecars=sidecars)
        with _engine(model, made) as one:
            prompts = [tokens(PAGES, model, start * 1000) for start in range(8)]
            for prompt in prompts:
                one.store(prompt)
            free = one.pools.kv.available_size()
            for seed in range(10):
                aborts = set(random.Random(seed).sample(range(8), 4))
                loaded = one.load_all(prompts, aborts)
                whole = [pages for number, pages in enumerate(loaded) if number not in aborts]
                equal("pages of the requests without an abort", whole, [PAGES] * 4)
            equal("free host memory", one.pools.kv.available_size(), free)
        made.drop()


def injector(made: Backend) -> None:
    """SGLang's failure injector changes nothing but hits."""
    os.environ["SGLANG_TEST_HICACHE_BACKEND_RANDOM_FAILURE"] = "0.3"
    os.environ["SGLANG_TEST_HICACHE_BACKEND_RANDOM_DELAY"] = "0.002"
    try:
        for sidecars in ((), ("mamba",)):
            model = Model(sidecars=sidecars)
            loads = 0
            with _engine(model, made) as one:
                for start in range(0, 40 * 1000, 1000):
                    prompt = tokens(PAGES, model, start)
                    one.store(prompt)
                    if sidecars and one.hits(prompt) == 0:
                        continue
                    try:
                        loads += one.load(prompt) > 0
                    except Failed as e:
                        # The injector may fail the read of a state after its hit. Other bytes stay a failure.
                        if "of 1 pages" not in str(e):
                            raise
            if not loads:
                raise Failed("no prompt came back in 40 tries")
    finally:
        del os.environ["SGLANG_TEST_HICACHE_BACKEND_RANDOM_FAILURE"], os.environ["SGLANG_TEST_HICACHE_BACKEND_RANDOM_DELAY"]


def attach_at_run_time(made: Backend) -> None:
    """The backend is detached and attached again at run time."""
    with _engine(Model(sidecars=("mamba",)), made) as one:
        prompt = tokens(PAGES, one.model)
        one.store(prompt)
        for _ in range(3):
            one.close()
            one.attach(made.kind, made.config)
            equal("pages read", one.load(prompt), PAGES)


CHECKS: tuple[Check, ...] = (
    bytes_come_back,
    both_controllers,
    both_interfaces,
    many_pages,
    emptied_between,
    missing_page,
    other_model,
    ranks,
    one_copy_of_mla,
    sparse_states,
    three_threads,
    eight_requests,
    injector,
    attach_at_run_time,
)


def models() -> Iterator[Model]:
    """Every layout with MHA and MLA, alone and with the pools of hybrid models."""
    for layout in LAYOUTS:
        for mla in (False, True):
            yield Model(layout=layout, mla=mla)
            for sidecars in POOLS:
                yield Model(layout=layout, mla=mla, sidecars=sidecars)
        yield Model(layout=layout, mla=True, sidecars=("indexer",), page_tokens=64)
        # SGLang gives no addresses of such a state, so its pages are copied.
        yield Model(layout=layout, sidecars=("mamba",), side_state=True)
        # The KV pool of DeepSeek V4 has no memory, and the pool beside it has the pages.
        yield Model(layout=layout, mla=True, sidecars=("deepseek_v4_c4",), anchor=True)


def _engine(model: Model, made: Backend):
    return engine(model, made.kind, made.config)


@contextmanager
def _ranks(model: Model, made: Backend) -> Iterator[tuple[Engine, Engine]]:
    with engine(model, made.kind, made.config, rank=0, ranks=2) as first, engine(model, made.kind, made.config, rank=1, ranks=2) as second:
        yield first, second
