"""A whole `LLM(..)` on the CPU: one process computes a prompt and stores it, another one reads it from the tier.

The tokens of both must be equal. A third process reads zeroes in place of the stored bytes, and must give other tokens. Otherwise the
tokens would not depend on the bytes.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .. import command
from ..report import Failed, Report, equal
from ..s3_server import S3Server
from ..server import RedisServer
from .engine import Engine, Settings

PROMPT_TOKENS, CHUNK_TOKENS = 500, 64
CHUNKS = PROMPT_TOKENS // CHUNK_TOKENS
STORED_S = 60


def redis(report: Report) -> None:
    """`KvconnTier` by its class, over a redis server."""
    with _settings() as settings, RedisServer() as server:
        url = f"redis://127.0.0.1:{server.port}"
        tier = {"type": "KvconnTier", "module_path": "kvconn.vllm", "url": url, "namespace": "tiny"}

        def spoil() -> int:
            names = [name for name in server.keys() if name.endswith("kv_bytes")]
            for name in names:
                server.ask("SETRANGE", name, "0", bytes(int(server.ask("STRLEN", name))))
            return len(names)

        _reuse(report, "llm, KvconnTier on redis", settings.with_tier(tier), lambda: _ours(url, "tiny"), spoil)


def fs(report: Report) -> None:
    """`KvconnTier` by its short name, which the entry point registers, over files."""
    with _settings() as settings:
        url = f"fs://{settings.folder}/chunks"
        tier = {"type": "kvconn", "url": url, "namespace": "tiny"}
        spoil = _spoil_files(settings.folder / "chunks", "*.data")
        _reuse(report, "llm, kvconn on fs", settings.with_tier(tier), lambda: _ours(url, "tiny"), spoil)


def s3(report: Report) -> None:
    """`KvconnTier` over an object store."""
    with _settings() as settings, S3Server() as server:
        tier = {"type": "kvconn", "url": server.ours(), "namespace": "tiny", "lookup_timeout_ms": 30_000}
        spoil = _spoil_files(server.bucket, "*@*")
        _reuse(report, "llm, kvconn on s3", settings.with_tier(tier), lambda: len(server.names()), spoil)


def vllm_fs(report: Report) -> None:
    """vLLM's own `fs` tier, as a reference for the same driver without kvconn."""
    with _settings() as settings:
        files = settings.folder / "files"
        tier = {"type": "fs", "root_dir": str(files)}
        _reuse(report, "llm, vLLM's fs", settings.with_tier(tier), lambda: len([*files.rglob("*.bin")]), _spoil_files(files, "*.bin"))


def seed(report: Report) -> None:
    """Hashes of an algorithm whose seed is random: no hit in another process without `PYTHONHASHSEED`, a hit with it."""
    prompt = _prompt(2)
    for given, wanted in ((None, 0), ("0", CHUNKS * CHUNK_TOKENS)):
        with (
            report.check(f"llm, xxhash, PYTHONHASHSEED={given}: tokens from the tier"),
            _settings() as settings,
        ):
            files = settings.folder / "chunks"
            tier = {"type": "kvconn", "url": f"fs://{files}", "namespace": "tiny"}
            settings = settings.with_tier(tier, hash_seed=given, hash_algorithm="xxhash")
            with Engine(settings) as engine:
                engine.generate(prompt)
                _wait(lambda: _ours(f"fs://{files}", "tiny"))
            with Engine(settings) as engine:
                equal("tokens from the tier", engine.generate(prompt).cached, wanted)


GROUPS = {"redis": redis, "fs": fs, "s3": s3, "vllm_fs": vllm_fs, "seed": seed}
SMOKE = ()


def _reuse(report: Report, name: str, settings: Settings, stored: Callable[[], int], spoil: Callable[[], int]) -> None:
    prompt = _prompt(1)
    computed = None
    with report.check(f"{name}: an empty store has no token"), Engine(settings) as engine:
        computed = engine.generate(prompt)
        equal("tokens from the tier", computed.cached, 0)
        _wait(stored)
    if computed is None:
        return
    with report.check(f"{name}: another process takes the prefix from it, and gives equal tokens"), Engine(settings) as engine:
        reused = engine.generate(prompt)
        equal("tokens from the tier", reused.cached, CHUNKS * CHUNK_TOKENS)
        equal("tokens", reused.tokens, computed.tokens)
    with report.check(f"{name}: the tokens come from its bytes"):
        equal("chunks that are now zeroes", spoil(), CHUNKS)
        with Engine(settings) as engine:
            spoilt = engine.generate(prompt)
            equal("tokens from the tier", spoilt.cached, CHUNKS * CHUNK_TOKENS)
            if spoilt.tokens == computed.tokens:
                raise Failed(f"zeroes in place of the stored bytes give the same tokens {spoilt.tokens}")


@contextmanager
def _settings() -> Iterator[Settings]:
    with tempfile.TemporaryDirectory(prefix="kvconn-interop-") as folder:
        yield Settings(Path(folder), CHUNK_TOKENS)


def _prompt(number: int) -> list[int]:
    source = random.Random(number)
    return [source.randrange(3, 512) for _ in range(PROMPT_TOKENS)]


def _ours(url: str, namespace: str) -> int:
    return len(command.keys(f"{url}?namespace={namespace}"))


def _wait(stored: Callable[[], int]) -> None:
    """vLLM stores after it has answered."""
    deadline = time.monotonic() + STORED_S
    while (found := stored()) < CHUNKS:
        if time.monotonic() > deadline:
            raise Failed(f"the store has {found} of {CHUNKS} chunks after {STORED_S} s")
        time.sleep(0.1)


def _spoil_files(folder: Path, pattern: str) -> Callable[[], int]:
    def spoil() -> int:
        files = [*folder.rglob(pattern)]
        for file in files:
            # kvconn's files may have a header, which stays.
            size, header = file.stat().st_size, 28 if pattern == "*.data" else 0
            with file.open("r+b") as opened:
                opened.seek(header)
                opened.write(bytes(size - header))
        return len(files)

    return spoil
