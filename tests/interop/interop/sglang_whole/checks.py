"""One process computes a prompt and stores its pages, another one reads them from the store.

The tokens of both must be equal. A third process reads zeroes in place of the stored bytes, and must give other tokens. Otherwise the
tokens would not depend on the bytes.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import kvconn

from ..llm import model
from ..report import Failed, Report, equal
from ..server import RedisServer
from ..sglang.backends import KVCONN
from ..sglang.engine import until
from . import cpu
from .serve import PAGE_TOKENS

PROMPT_TOKENS = 400
# SGLang computes the last page, so that there is a token to continue.
REUSED_TOKENS = PROMPT_TOKENS - PAGE_TOKENS
END_S = 300


class Answer(NamedTuple):
    """The model's answer to a prompt, and the number of the prompt's tokens that came from the store."""

    tokens: list[int]
    cached: int


def run(report: Report) -> None:
    """A whole engine over a redis server."""
    with tempfile.TemporaryDirectory(prefix="kvconn-interop-") as root, RedisServer() as server:
        folder = Path(root)
        weights = model.write(folder / "model")
        (folder / "plugin").mkdir()
        cpu.install(folder / "plugin")
        url = f"resp://127.0.0.1:{server.port}"
        config = {**KVCONN, "url": url, "revision": "1", "prefetch_threshold": PAGE_TOKENS}
        random_tokens = random.Random(0)
        prompt = [random_tokens.randrange(3, 500) for _ in range(PROMPT_TOKENS)]

        def ask() -> Answer:
            return _ask(folder, weights, config, prompt, lambda: len(server.keys()))

        with report.check("sglang, a whole engine: an empty store"):
            first = ask()
            equal("tokens from the store", first.cached, 0)
        with report.check("sglang, a whole engine: a fresh process reuses the prefix"):
            equal("the answer", ask(), Answer(first.tokens, REUSED_TOKENS))
        with report.check("sglang, a whole engine: other bytes give another answer"):
            with kvconn.connect(url) as store:
                names = list(store.list())
                for name in names:
                    store.put(name, bytes(len(bytes(store.get(name)))))
            spoilt = ask()
            equal("tokens from the store", spoilt.cached, REUSED_TOKENS)
            if spoilt.tokens == first.tokens:
                raise Failed("the answer does not depend on the stored bytes")


def _ask(folder: Path, weights: Path, config: dict, prompt: list[int], stored) -> Answer:
    """The answer of a fresh process, which ends when all pages of the prompt are stored."""
    before = stored()
    path = [str(folder / "plugin"), str(Path(__file__).parents[2]), *sys.path]
    with (folder / "log").open("w+") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "interop.sglang_whole.serve", str(weights), json.dumps(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))},
            text=True,
        )
        try:
            assert child.stdin and child.stdout
            print(json.dumps(prompt), file=child.stdin, flush=True)
            line = child.stdout.readline()
            if not line:
                log.seek(0)
                raise Failed(f"SGLang ended without an answer; its log: {log.read()[-4000:]}")
            answer = Answer(**json.loads(line))
            if answer.cached == 0:
                pages = PROMPT_TOKENS // PAGE_TOKENS
                until(lambda: stored() >= before + 2 * pages, "SGLang has stored the prompt")
        finally:
            child.stdin.close()
            try:
                child.wait(END_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                raise Failed(f"SGLang did not end within {END_S} s") from None
            child.stdout.close()
    return answer
