"""torch's tensors in kvconn's stores: stored, loaded and filled without a copy."""

from __future__ import annotations

import gc
import re
import tempfile
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kvconn
import numpy
import torch

from .report import Failed, Report, equal
from .server import RedisServer

KEY = "test-model@1@0@1f@bfloat16"
IN_HEADERS = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.float8_e4m3fn, torch.float8_e5m2]
"""The dtypes that LMCache's chunk header can name, and so files and redis keep."""
OTHERS = [torch.int8, torch.int16, torch.int32, torch.int64, torch.bool, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]


def numbers(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Small numbers, which every dtype has."""
    shape = shape or (2, 3, 4)
    return (torch.arange(torch.Size(shape).numel()) % 7).reshape(shape).to(dtype)


def same(name: str, found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Fails unless dtype, shape and bytes are equal."""
    equal(name, (found.dtype, found.shape), (wanted.dtype, wanted.shape))
    equal(name, bits(found), bits(wanted))


def bits(tensor: torch.Tensor) -> bytes:
    """The tensor's bytes."""
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def refused(name: str, hint: str, call: Callable[[], object]) -> None:
    """Fails unless the call is a `ValueError` with the hint in it."""
    try:
        call()
    except kvconn.InvalidError as e:
        if hint not in str(e):
            raise Failed(f"{name}: the error has no {hint!r}: {e}") from e
    else:
        raise Failed(f"{name} is not refused")


def round_trips(store: kvconn.Store, dtypes: list[torch.dtype], shapes: tuple[tuple[int, ...], ...] = ((2, 3, 4), (5,), (0,))) -> None:
    """Stores, loads and fills tensors of each dtype."""
    for dtype in dtypes:
        for shape in shapes:
            wanted = numbers(dtype, *shape)
            store.put(KEY, wanted)
            chunk = store.get(KEY)
            same(f"{dtype}", chunk.torch(), wanted)
            if wanted.numel():
                equal(f"{dtype}: the chunk's memory", chunk.torch().data_ptr(), numpy.frombuffer(chunk, "u1").ctypes.data)
            target = torch.zeros_like(wanted)
            equal(f"{dtype}: bytes", store.get_into(KEY, target), wanted.nbytes)
            same(f"{dtype}: filled", target, wanted)


def of_the_documents() -> list[str]:
    """The programs with tensors in the wheel's README and in docs/python.md."""
    top = Path(__file__).parents[3]
    text = "".join((top / path).read_text() for path in ("connector-python/README.md", "docs/python.md"))
    programs = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [program for program in programs if "import torch" in program]


def run(report: Report) -> None:
    """Checks tensors in a store in memory, in files, and on a redis server."""
    with report.check("tensors: memory keeps every dtype"), kvconn.connect("memory://tensors") as store:
        round_trips(store, IN_HEADERS + OTHERS)
    with report.check("tensors: files keep the dtypes of LMCache's header"), tempfile.TemporaryDirectory() as folder:
        with kvconn.connect(f"fs://{folder}") as store:
            round_trips(store, IN_HEADERS)
    with report.check("tensors: the programs of the documents run"), tempfile.TemporaryDirectory() as folder:
        names: dict[str, Any] = {}
        for program in of_the_documents():
            exec(program.replace("/tmp/kv", folder), names)
        same("loaded", names["loaded"], names["tensor"])
        # The program on asyncio has stored another tensor of the same layout.
        equal("bytes", names["length"], names["tensor"].nbytes)
        same("filled", names["pinned"], torch.ones_like(names["tensor"]))
    with report.check("tensors: redis keeps them, too"), RedisServer() as server:
        with kvconn.connect(f"redis://127.0.0.1:{server.port}") as store:
            # redis refuses chunks of 0 bytes.
            round_trips(store, IN_HEADERS, ((2, 3, 4), (5,)))
        with kvconn.connect(f"resp://127.0.0.1:{server.port}") as store:
            wanted = numbers(torch.bfloat16)
            store.put(KEY, wanted)
            refused("a raw chunk", "dtype=", store.get(KEY).torch)
            for dtype in (torch.bfloat16, "bfloat16"):
                same("raw", store.get(KEY).torch(dtype, (2, 3, 4)), wanted)
    with report.check("tensors: numpy, torch and DLPack share the chunk's memory"), kvconn.connect("memory://tensors") as store:
        wanted = numbers(torch.float32)
        store.put(KEY, wanted)
        chunk = store.get(KEY)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            same("by its method", chunk.torch(), wanted)
            same("by DLPack", torch.from_dlpack(chunk), wanted)
        places = {chunk.torch().data_ptr(), torch.from_dlpack(chunk).data_ptr(), numpy.from_dlpack(chunk).ctypes.data}
        equal("one memory", len(places), 1)
        same("another dtype", chunk.torch(torch.int32, (4, 6)), wanted.view(torch.int32).reshape(4, 6))
    with report.check("tensors: memory lives as long as its tensors"), tempfile.TemporaryDirectory() as folder:
        store = kvconn.connect(f"fs://{folder}", pool_bytes=3 << 19, timeout_ms=200)
        store.put(KEY, torch.ones(1 << 18))
        for load in (kvconn.Chunk.torch, torch.from_dlpack):
            tensor = load(store.get(KEY))[5:]
            gc.collect()
            try:
                store.get(KEY)
            except kvconn.KvconnError as e:
                equal("the pool is full", e.kind, "pool_full")
            else:
                raise Failed("the pool gave the tensor's memory to another chunk")
            del tensor
            store.get(KEY)
        tensor = store.get(KEY).torch()
        store.close()
        equal("after the close", float(tensor.sum()), float(1 << 18))
    with report.check("tensors: a tensor is free after the call"), kvconn.connect("memory://tensors") as store:
        tensor = numbers(torch.bfloat16)
        gone = weakref.ref(tensor)
        store.put(KEY, tensor)
        store.get_into(KEY, tensor)
        store.batched_put({KEY: tensor})
        store.batched_get_into([KEY], [tensor])
        del tensor
        equal("its references", gone(), None)
    with report.check("tensors: refusals say how to mend them"), kvconn.connect("memory://tensors") as store:
        data = numbers(torch.float32, 4, 6)
        with_gradient = data.clone().requires_grad_()
        for name, wrong, hint in (
            ("a gradient", with_gradient, "detach()"),
            ("columns", data[:, ::2], "x.contiguous()"),
            ("a transposed tensor", data.T, "x.contiguous()"),
            ("a sparse tensor", data.to_sparse(), "strided"),
            ("a conjugate", torch.ones(4, dtype=torch.complex64).conj(), "conjugate"),
            ("a negated view", torch._neg_view(data), "resolve_neg()"),
            ("no memory", torch.empty(4, device="meta"), "does not give its memory"),
        ):
            refused(name, hint, lambda wrong=wrong: store.put(KEY, wrong))
            refused(name, hint, lambda wrong=wrong: store.get_into(KEY, wrong))
        store.put(KEY, with_gradient.detach())
        same("detached", store.get(KEY).torch(), data)
        store.put(KEY, torch.ones(3, dtype=torch.complex64))
        equal("complex numbers are bytes", store.get(KEY).format, "BINARY")
    with report.check("tensors: a tensor of another dtype or shape is not filled"), kvconn.connect("memory://tensors") as store:
        store.put(KEY, numbers(torch.bfloat16, 2, 6))
        for target in (torch.zeros(2, 6, dtype=torch.float16), torch.zeros(6, 2, dtype=torch.bfloat16)):
            try:
                store.get_into(KEY, target)
            except kvconn.KvconnError as e:
                equal("kind", e.kind, "size_mismatch")
            else:
                raise Failed(f"{target.dtype} {target.shape} is filled")
        row = torch.zeros(20, dtype=torch.bfloat16)
        equal("a row", store.get_into(KEY, row), 24)
        same("a row", row[:12].reshape(2, 6), numbers(torch.bfloat16, 2, 6))


GROUPS = {"tensors": run}
SMOKE = ("tensors",)
