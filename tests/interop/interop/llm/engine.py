"""A process that runs `serve.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from ..report import Failed
from . import model

END_S = 60


class Answer(NamedTuple):
    """The model's answer to a prompt."""

    tokens: list[int]
    cached: int
    """Tokens of the prompt that came from the tier. A fresh process has no other cache."""


@dataclass(frozen=True)
class Settings:
    """How to start vLLM."""

    folder: Path
    chunk_tokens: int
    tier: dict[str, object] | None = None
    hash_seed: str | None = "0"
    hash_algorithm: str = "sha256"

    def with_tier(self, tier: dict[str, object], **changes: str | None) -> Settings:
        """These settings with another tier, which is an entry of `secondary_tiers`."""
        return replace(self, tier=tier, **changes)

    def model(self) -> Path:
        """The folder of the model, which the first call writes."""
        path = self.folder / "model"
        return path if path.exists() else model.write(path)

    def extra_config(self) -> dict[str, object]:
        """`kv_connector_extra_config`."""
        return {
            "spec_name": "CpuTieringSpec",
            "spec_module_path": "interop.llm.spec",
            "cpu_bytes_to_use": 32 << 20,
            "block_size": self.chunk_tokens,
            "secondary_tiers": [self.tier],
        }


class Engine:
    """Ends with the `with` block. If vLLM fails, the error has the end of its log."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def __enter__(self) -> Engine:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONHASHSEED"}
        if self.settings.hash_seed is not None:
            environment["PYTHONHASHSEED"] = self.settings.hash_seed
        # vLLM's own processes import `spec.py`.
        environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), environment.get("PYTHONPATH", "")])
        self.log = (self.settings.folder / "log").open("w+")
        command = [sys.executable, "-m", "interop.llm.serve", str(self.settings.model())]
        self.process = subprocess.Popen(
            [*command, json.dumps(self.settings.extra_config()), self.settings.hash_algorithm],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=environment,
            text=True,
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        try:
            code = self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise Failed(f"vLLM did not end within {END_S} s; its log: {self._log()}") from None
        finally:
            assert self.process.stdout
            self.process.stdout.close()
            self.log.close()
        # An error before says more.
        if code != 0 and kind is None:
            raise Failed(f"vLLM ended with {code}")

    def generate(self, prompt: list[int]) -> Answer:
        """Gives the tokens that follow."""
        assert self.process.stdin and self.process.stdout
        try:
            print(json.dumps(prompt), file=self.process.stdin, flush=True)
        except BrokenPipeError:
            pass  # The log says why.
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"vLLM ended without an answer; its log: {self._log()}")
        return Answer(**json.loads(line))

    def _log(self) -> str:
        self.log.seek(0)
        return self.log.read()[-4000:]
