"""Chunks and keys that LMCache and kvconn exchange."""

import hashlib
import math
from dataclasses import dataclass

BYTES = {
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
    "uint8": 1,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
}


@dataclass(frozen=True)
class Group:
    """Layers with the same shape and dtype."""

    kv_size: int
    layers: int
    hidden: int
    dtype: str


@dataclass(frozen=True)
class Model:
    """An engine's description of its cache."""

    groups: tuple[Group, ...]
    chunk_tokens: int = 16

    def chunk(self, name: str, tokens: int | None = None, fmt: str = "") -> "Chunk":
        """Makes a chunk of this many tokens, or a full chunk."""
        tokens = tokens or self.chunk_tokens
        groups = tuple(((g.kv_size, g.layers, tokens, g.hidden), g.dtype) for g in self.groups)
        return Chunk.of(name, groups, fmt or ("KV_MLA_FMT" if self.groups[0].kv_size == 1 else "KV_2LTD"))


@dataclass(frozen=True)
class Chunk:
    """Bytes with a layout."""

    name: str
    data: bytes
    groups: tuple[tuple[tuple[int, ...], str], ...]
    format: str

    @staticmethod
    def of(name: str, groups: tuple, fmt: str) -> "Chunk":
        """Makes a chunk whose content depends on its name."""
        size = sum(math.prod(shape) * BYTES[dtype] for shape, dtype in groups)
        return Chunk(name, hashlib.shake_128(name.encode()).digest(size), groups, fmt)

    @property
    def layout(self) -> list[str]:
        """The arguments of `kvconn put` for the layout of one group."""
        ((shape, dtype),) = self.groups
        return ["--shape", ",".join(map(str, shape)), "--dtype", dtype, "--format", self.format]

    @property
    def layout_text(self) -> str:
        """The layout as `kvconn get` prints it."""
        groups = " ".join(f"{dtype} [{', '.join(map(str, shape))}]" for shape, dtype in self.groups)
        return f"{self.format} {groups}, {len(self.data)} bytes"

    @property
    def raw_layout_text(self) -> str:
        """The layout that `kvconn get` prints if the store keeps only the bytes."""
        return f"BINARY uint8 [{len(self.data)}, 0, 0, 0], {len(self.data)} bytes"


PLAIN = Model((Group(2, 3, 8, "bfloat16"),))
MLA = Model((Group(1, 3, 8, "bfloat16"),))
TWO_GROUPS = Model((Group(2, 3, 8, "bfloat16"), Group(1, 2, 24, "float8_e4m3fn")))

PAGES = Model((Group(2, 4, 16, "bfloat16"),))
"""A full chunk is 4096 bytes, because LMCache's `s3://` writes only chunks that fill whole pages of its pool."""

KEY = "meta-llama/Llama-3.1-8B@2@1@{hash}@{dtype}{rest}"
KEY_DTYPES = {"float16": "half", "float32": "float", "float64": "double"}


def key(name: str, dtype: str = "bfloat16", rest: str = "") -> str:
    """Makes a different in-process key for each name."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    number = int(digest[: 64 if "wide" in name else 16], 16)
    dtype = KEY_DTYPES.get(dtype, dtype.replace("float8", "fp8"))
    return KEY.format(hash=f"{'-' if 'negative' in name else ''}{number:x}", dtype=dtype, rest=rest)


def with_header() -> list[tuple[str, Chunk]]:
    """Makes keys and chunks of one group for stores that keep the layout."""
    pairs = []
    for dtype in BYTES:
        name = f"a chunk of {dtype}"
        pairs.append((key(name, dtype), Model((Group(2, 3, 8, dtype),)).chunk(name)))
    pairs += [
        (key("a partial chunk"), PLAIN.chunk("a partial chunk", tokens=5)),
        (key("one token"), PLAIN.chunk("one token", tokens=1)),
        (key("MLA"), MLA.chunk("MLA")),
        (key("tags", rest="@tenant%a@user%b%c"), PLAIN.chunk("tags")),
        (key("a layer", rest="@17"), Chunk.of("a layer", (((16, 2, 8), "bfloat16"),), "KV_T2D")),
        (key("a layer with tags", rest="@0@tenant%a"), Chunk.of("a layer with tags", (((16, 2, 8), "float16"),), "KV_T2D")),
        (key("a wide hash"), PLAIN.chunk("a wide hash")),
        (key("a negative hash"), PLAIN.chunk("a negative hash")),
    ]
    return pairs


def two_groups() -> list[tuple[str, Chunk]]:
    """Makes keys and chunks of `TWO_GROUPS`: a full chunk and a partial one."""
    names = {"two groups": None, "two groups, partial": 5}
    return [(key(name), TWO_GROUPS.chunk(name, tokens)) for name, tokens in names.items()]


def raw(model: Model = PLAIN) -> list[tuple[str, Chunk]]:
    """Makes keys and full chunks for stores that keep only the bytes."""
    names = {"a full chunk": "", "tags": "@tenant%a", "a wide hash": "", "a negative hash": ""}
    return [(key(f"raw: {name}", rest=rest), model.chunk(f"raw: {name}")) for name, rest in names.items()]
