"""vLLM's own files: its fs tier and kvconn's `layout=vllm` read each other's files."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from ..report import Report, equal
from .engine import Engine, config, keys

SHAPES: dict[str, dict[str, object]] = {
    "one worker": {},
    "two workers": {"world_size": 2, "tp_size": 2},
    "any parallelism": {"world_size": 2, "tp_size": 2, "is_parallelism_agnostic": True},
    "two groups": {"groups": (("full.0",), ("window.0",))},
    "a model with a path": {"model": "/models/a model"},
}


def run(report: Report) -> None:
    """Both directions, in several configurations."""
    for name, shape in SHAPES.items():
        with tempfile.TemporaryDirectory() as folder:
            theirs = {"type": "fs", "root_dir": folder, "n_read_threads": 2, "n_write_threads": 2}
            ours = {"type": "kvconn", "url": f"fs://{folder}?layout=vllm"}
            for writer, reader, what in ((theirs, ours, "vLLM writes, kvconn reads"), (ours, theirs, "kvconn writes, vLLM reads")):
                with report.check(f"files, {name}: {what}"):
                    prompts = [keys(6, what, group) for group in range(2)]
                    for prompt in prompts:
                        with Engine(config([writer], **shape)) as engine:
                            engine.store(prompt)
                        with Engine(config([reader], **shape)) as engine:
                            equal("hits", engine.found(prompt), 6)
            with report.check(f"files, {name}: the same folders"):
                with tempfile.TemporaryDirectory() as other:
                    for tier in (theirs | {"root_dir": other}, ours):
                        with Engine(config([tier], **shape)) as engine:
                            engine.store(keys(6, "kvconn writes, vLLM reads"))
                    equal("config.json", _configurations(Path(folder)), _configurations(Path(other)))
                    wanted = {path.relative_to(other) for path in Path(other).rglob("*") if path.is_file()}
                    equal("missing files", wanted - {path.relative_to(folder) for path in Path(folder).rglob("*")}, set())
    with report.check("files: kvconn makes vLLM's config.json where there is none"), tempfile.TemporaryDirectory() as folder:
        with Engine(config([{"type": "kvconn", "url": f"fs://{folder}?layout=vllm"}])) as engine:
            engine.store(keys(2))
        ((path, content),) = _configurations(Path(folder)).items()
        equal("content", (content["model_name"], content["dtype"], path.parent.name[:14]), ("example/model", "bfloat16", "example_model_"))


def _configurations(folder: Path) -> dict[Path, dict]:
    return {path.relative_to(folder): json.loads(path.read_text()) for path in folder.rglob("config.json")}
