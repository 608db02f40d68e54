"""Keys: the names of chunks, and the keys of a prompt's prefix."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from operator import index
from typing import Any, Literal, NamedTuple, Self, SupportsIndex

from kvconn import _kvconn
from kvconn._errors import ErrorKind, InvalidError, InvalidTypeError
from kvconn._types import DType

#: Name and value of each tag.
Tags = Mapping[str, str] | Iterable[tuple[str, str]]

_MAX_U32 = 2**32 - 1


class _EngineFields(NamedTuple):
    model: str
    world_size: int
    worker_id: int
    chunk_hash: str
    dtype: str
    tags: tuple[tuple[str, str], ...]
    layer_id: int | None


class Key(str):
    """The name of a chunk, as LMCache inside an engine writes it: ``model@world_size@worker_id@hash@dtype[@layer_id][@tag%value..]``.

    A key is its text: a `str` that also has the fields. So it is equal to its text, and every method that takes a key takes both.

    >>> import kvconn
    >>> key = kvconn.Key(model="facebook/opt-125m", world_size=2, worker_id=1, chunk_hash=0x1F2E3D, dtype="float16")
    >>> str(key)
    'facebook/opt-125m@2@1@1f2e3d@half'
    >>> kvconn.Key.parse("facebook/opt-125m@2@1@1f2e3d@half@user%ann").tags
    (('user', 'ann'),)

    Args:
        model: the model's name.
        world_size: the number of workers.
        worker_id: the worker that wrote the chunk, from 0.
        chunk_hash: the hash of the chunk's tokens and of all tokens before them: an int of at most 256 bits, 2 to 32 bytes, or the
            hex text of the key.
        dtype: the type of the cache's elements, such as ``"bfloat16"``, ``torch.bfloat16`` or ``numpy.dtype("float16")``.
        tags: the names and values of tags, as a dict or as pairs.
        layer_id: the layer, from 0, of a key that names a chunk of one layer.

    Raises:
        InvalidError: a field is wrong. The message names it.
    """

    __slots__ = ("_fields",)
    _fields: _EngineFields

    def __new__(
        cls,
        *,
        model: str,
        world_size: SupportsIndex,
        worker_id: SupportsIndex,
        chunk_hash: SupportsIndex | bytes | str,
        dtype: str | DType | type[Any],
        tags: Tags = (),
        layer_id: SupportsIndex | None = None,
    ) -> Self:
        fields = _EngineFields(
            _text("model", model),
            _number("world_size", world_size, _MAX_U32),
            _number("worker_id", worker_id, _MAX_U32),
            _hash_hex(chunk_hash),
            _dtype_name(dtype),
            _pairs(tags),
            None if layer_id is None else _number("layer_id", layer_id, _MAX_U32),
        )
        text, dtype_name = _kvconn._engine_key(fields)
        return cls._of(text, fields._replace(dtype=dtype_name))

    @classmethod
    def parse(cls, text: str) -> Self:
        """The key of a text, such as one of `Store.list`.

        Raises:
            InvalidError: the text is not a key, or is an object key, or has several readings because a field contains ``@``. A store
                takes a text with several readings as it is.
        """
        model, world_size, worker_id, chunk_hash, dtype, tags, layer_id = _kvconn._engine_fields(text)
        return cls._of(text, _EngineFields(model, world_size, worker_id, chunk_hash, dtype, tuple(tags), layer_id))

    @classmethod
    def _of(cls, text: str, fields: _EngineFields) -> Self:
        key = str.__new__(cls, text)
        key._fields = fields
        return key

    @property
    def model(self) -> str:
        """The model's name."""
        return self._fields.model

    @property
    def world_size(self) -> int:
        """The number of workers."""
        return self._fields.world_size

    @property
    def worker_id(self) -> int:
        """The worker that wrote the chunk."""
        return self._fields.worker_id

    @property
    def chunk_hash(self) -> str:
        """The hash as the key has it, in hex."""
        return self._fields.chunk_hash

    @property
    def dtype(self) -> str:
        """The type of the cache's elements, by torch's name: ``"bfloat16"``."""
        return self._fields.dtype

    @property
    def tags(self) -> tuple[tuple[str, str], ...]:
        """Name and value of each tag, in the order of the text."""
        return self._fields.tags

    @property
    def layer_id(self) -> int | None:
        """The layer; ``None`` in the key of a chunk of all layers."""
        return self._fields.layer_id

    def with_layer(self, layer_id: SupportsIndex) -> Self:
        """The key of the same chunk's part of one layer, counted from 0."""
        return type(self)(**{**self._fields._asdict(), "layer_id": layer_id})

    def __repr__(self) -> str:
        return _repr("kvconn.Key", self._fields)

    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, Any]]:
        return (), self._fields._asdict()


class _ObjectFields(NamedTuple):
    model: str
    kv_rank: int
    object_group: int
    chunk_hash: bytes
    salt: str


class ObjectKey(str):
    """The name of a chunk, as LMCache's server writes it: ``model@kv_rank@object_group@hash[@salt]``.

    A key is its text, as a `Key` is. vLLM's tier and SGLang's backend of kvconn have such keys, too.

    >>> import kvconn
    >>> str(kvconn.ObjectKey(model="facebook/opt-125m", kv_rank=0x01000100, chunk_hash=b"\\x1f\\x2e"))
    'facebook/opt-125m@01000100@0@1f2e'

    Args:
        model: the model's name, without ``@``.
        kv_rank: the part of the KV cache: ``world_size << 24 | rank << 16 | local_world_size << 8 | local_rank``, at most 32 bits.
        chunk_hash: the hash of the chunk's tokens and of all tokens before them: bytes, or their hex text.
        object_group: the group that the chunk belongs to.
        salt: the salt that separates the chunks of different users.

    Raises:
        InvalidError: a field is wrong. The message names it.
    """

    __slots__ = ("_fields",)
    _fields: _ObjectFields

    def __new__(
        cls,
        *,
        model: str,
        kv_rank: SupportsIndex,
        chunk_hash: bytes | str,
        object_group: SupportsIndex = 0,
        salt: str = "",
    ) -> Self:
        fields = _ObjectFields(
            _text("model", model),
            _number("kv_rank", kv_rank, _MAX_U32, smallest=-0x0FFF_FFFF),
            _number("object_group", object_group, 2**64 - 1),
            _hash_bytes(chunk_hash),
            _text("salt", salt),
        )
        return cls._of(_kvconn._object_key(*fields), fields)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The key of a text, such as one of `Store.list`.

        Raises:
            InvalidError: the text is not an object key.
        """
        return cls._of(text, _ObjectFields(*_kvconn._object_fields(text)))

    @classmethod
    def _of(cls, text: str, fields: _ObjectFields) -> Self:
        key = str.__new__(cls, text)
        key._fields = fields
        return key

    @property
    def model(self) -> str:
        """The model's name."""
        return self._fields.model

    @property
    def kv_rank(self) -> int:
        """The part of the KV cache."""
        return self._fields.kv_rank

    @property
    def object_group(self) -> int:
        """The group that the chunk belongs to."""
        return self._fields.object_group

    @property
    def chunk_hash(self) -> bytes:
        """The hash of the chunk's tokens and of all tokens before them."""
        return self._fields.chunk_hash

    @property
    def salt(self) -> str:
        """The salt; empty if the key has none."""
        return self._fields.salt

    def __repr__(self) -> str:
        return _repr("kvconn.ObjectKey", self._fields)

    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, Any]]:
        return (), self._fields._asdict()


def prefix_keys(
    tokens: Iterable[SupportsIndex],
    *,
    model: str,
    dtype: str | DType | type[Any],
    world_size: SupportsIndex = 1,
    worker_id: SupportsIndex = 0,
    tags: Tags = (),
    chunk_size: int = 256,
    partial: bool = False,
    hash: Literal["sha256_cbor", "builtin"] = "sha256_cbor",
    seed: str | None = None,
    none_hash: int | None = None,
) -> list[Key]:
    """The keys of a prompt's chunks, as LMCache inside an engine makes them.

    Each key names its chunk and all tokens before it. So two prompts that start alike have the same first keys, and
    ``store.get_prefix(keys)`` gives the chunks that are stored.

    >>> import kvconn
    >>> first = kvconn.prefix_keys(range(600), model="facebook/opt-125m", dtype="bfloat16", seed="0")
    >>> second = kvconn.prefix_keys(range(512), model="facebook/opt-125m", dtype="bfloat16", seed="0")
    >>> first == second, len(first)
    (True, 2)

    Args:
        tokens: the token ids: a list, an array or a tensor of one dimension.
        model, dtype, world_size, worker_id, tags: as in `Key`.
        chunk_size: the number of tokens of a chunk; LMCache's ``chunk_size``.
        partial: whether a last chunk of fewer tokens has a key; LMCache's ``save_unfull_chunk``.
        hash: LMCache's ``pre_caching_hash_algorithm``. ``"builtin"``, LMCache's default, is Python's own `hash`. It is the same in
            another process only if both have the same ``PYTHONHASHSEED``.
        seed: the engine's ``PYTHONHASHSEED``. By default this process's. If that is not set, the seed of vLLM 0.29 and later for
            ``sha256_cbor``.
        none_hash: the hash of the empty prefix, in place of the seed's. LMCache logs it as ``NONE_HASH``. It is 0 without vLLM.

    Raises:
        InvalidError: an argument is wrong, or ``"builtin"`` has no fixed seed.
    """
    ids, size = _token_list(tokens), _chunk_size(chunk_size)
    if not partial:
        ids = ids[: len(ids) - len(ids) % size]
    hashes: Iterable[int]
    if hash == "sha256_cbor":
        start = None if none_hash is None else _number("none_hash", none_hash, 2**64 - 1)
        hashes = _kvconn._engine_hashes(ids, size, _seed(seed), start)
    elif hash == "builtin":
        hashes = _builtin_hashes(ids, size, _builtin_none_hash(seed) if none_hash is None else _number("none_hash", none_hash, 2**63 - 1, smallest=-(2**63)))
    else:
        raise _unknown_hash(hash, "sha256_cbor", "builtin")
    pairs = _pairs(tags)
    return [
        Key(model=model, world_size=world_size, worker_id=worker_id, chunk_hash=chunk_hash, dtype=dtype, tags=pairs)
        for chunk_hash in hashes
    ]


def prefix_object_keys(
    tokens: Iterable[SupportsIndex],
    *,
    model: str,
    kv_rank: SupportsIndex,
    object_group: SupportsIndex = 0,
    salt: str = "",
    chunk_size: int = 256,
    hash: Literal["blake3", "sha256_cbor"] = "blake3",
    seed: str | None = None,
) -> list[ObjectKey]:
    """The keys of a prompt's whole chunks, as LMCache's server makes them. As `prefix_keys`, but for `ObjectKey`.

    Args:
        tokens: the token ids: a list, an array or a tensor of one dimension.
        model, kv_rank, object_group, salt: as in `ObjectKey`.
        chunk_size: the number of tokens of a chunk; the server's ``--chunk-size``.
        hash: the server's ``--hash-algorithm``. ``"blake3"``, its default, needs no seed.
        seed: as in `prefix_keys`, for ``"sha256_cbor"``.

    Raises:
        InvalidError: an argument is wrong.
    """
    if hash not in ("blake3", "sha256_cbor"):
        raise _unknown_hash(hash, "blake3", "sha256_cbor")
    ids, size = _token_list(tokens), _chunk_size(chunk_size)
    hashes = _kvconn._object_hashes(ids, size, None if hash == "blake3" else _seed(seed))
    return [
        ObjectKey(model=model, kv_rank=kv_rank, chunk_hash=chunk_hash, object_group=object_group, salt=salt)
        for chunk_hash in hashes
    ]


#: The seed of vLLM 0.29 and later for `sha256_cbor` without PYTHONHASHSEED.
_VLLM_SEED = "vllm-none-hash"


def _seed(seed: str | None) -> str:
    return os.environ.get("PYTHONHASHSEED", _VLLM_SEED) if seed is None else _text("seed", seed)


def _builtin_none_hash(seed: str | None) -> int:
    """vLLM's `NONE_HASH` with Python's own hash, which depends on the seed that this process was started with."""
    own = os.environ.get("PYTHONHASHSEED", "random")
    if own in ("", "random") or seed not in (None, own):
        asked = "a fixed seed" if seed is None else f"the seed {seed!r}"
        raise InvalidError(
            f"hash='builtin' is Python's own hash, and this process has PYTHONHASHSEED={own}: start it with {asked}, as the engine, or pass "
            "`none_hash`",
            "invalid_input",
        )
    return hash(own)


def _builtin_hashes(ids: list[int], size: int, none_hash: int) -> Iterable[int]:
    previous = none_hash
    for start in range(0, len(ids), size):
        previous = hash((previous, tuple(ids[start : start + size]), ()))
        yield previous


def _token_list(tokens: Any) -> list[int]:
    """The token ids as Python's own ints."""
    if isinstance(tokens, (str, bytes, bytearray)):
        raise InvalidTypeError(f"the tokens are a {type(tokens).__name__}; they are the ids of a tokenizer, such as a list of int", "invalid_input")
    try:
        ids = tokens.tolist() if hasattr(tokens, "tolist") else list(tokens)
        ids = list(map(index, ids))
    except TypeError as e:
        message = f"the tokens are a list, an array or a tensor of whole numbers, in one dimension: {e}"
        raise InvalidTypeError(message, "invalid_input") from None
    if ids and not (0 <= min(ids) and max(ids) <= _MAX_U32):
        place = next(place for place, token in enumerate(ids) if not 0 <= token <= _MAX_U32)
        raise InvalidError(f"token {place} is {ids[place]}; a token is a whole number from 0 to {_MAX_U32}", "invalid_input")
    return ids


def _chunk_size(size: SupportsIndex) -> int:
    return _number("chunk_size", size, _MAX_U32, smallest=1, kind="invalid_input")


def _unknown_hash(name: object, *known: str) -> InvalidError:
    return InvalidError(f"the hash is {name!r}; kvconn has {' and '.join(map(repr, known))} here", "invalid_input")


def _text(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidTypeError(f"the field `{field}` is a {type(value).__name__}; it is a str", "invalid_key")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidError(
            f"the field `{field}` is {value!r}, which has an unpaired surrogate; was it decoded with `surrogateescape`?", "invalid_key"
        ) from None
    return value


def _number(field: str, value: SupportsIndex, largest: int, *, smallest: int = 0, kind: ErrorKind = "invalid_key") -> int:
    try:
        number = index(value)
    except TypeError:
        raise InvalidTypeError(f"the field `{field}` is a {type(value).__name__}; it is a whole number", kind) from None
    if not smallest <= number <= largest:
        raise InvalidError(f"the field `{field}` is {number}; it is a whole number from {smallest} to {largest}", kind)
    return number


def _hash_hex(value: SupportsIndex | bytes | str) -> str:
    """The hash as a key has it."""
    if isinstance(value, str):
        return _text("chunk_hash", value)
    if isinstance(value, bytes):
        if not 2 <= len(value) <= 32:
            raise InvalidError(f"the field `chunk_hash` has {len(value)} bytes; it has 2 to 32", "invalid_key")
        return value.hex()
    try:
        return f"{index(value):x}"
    except TypeError:
        raise InvalidTypeError(
            f"the field `chunk_hash` is a {type(value).__name__}; it is an int, bytes or hex text", "invalid_key"
        ) from None


def _hash_bytes(value: object) -> bytes:
    if isinstance(value, str):
        try:
            value = bytes.fromhex(value)
        except ValueError as e:
            raise InvalidError(f"the field `chunk_hash` is not the hex text of bytes: {e}", "invalid_key") from None
    if not isinstance(value, bytes):
        raise InvalidTypeError(f"the field `chunk_hash` is a {type(value).__name__}; it is bytes or hex text", "invalid_key")
    return value


def _dtype_name(value: object) -> str:
    """The name of a dtype of torch (``torch.bfloat16``), numpy or ml_dtypes, or the name itself."""
    # `numpy.float16` is a class. The class `float` has eight bytes in numpy and four in torch.
    if isinstance(value, type) and value.__module__ != "builtins":
        value = value.__name__
    return _text("dtype", value if isinstance(value, str) else str(value)).removeprefix("torch.")


def _pairs(tags: Any) -> tuple[tuple[str, str], ...]:
    try:
        pairs = tuple(tags.items() if isinstance(tags, Mapping) else tags)
    except TypeError:
        raise InvalidTypeError(f"the field `tags` is a {type(tags).__name__}; it is a dict of str, or pairs of str", "invalid_key") from None
    for place, pair in enumerate(pairs):
        if not (isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
            raise InvalidTypeError(
                f"tag {place} is {pair!r}; tags are a dict of str, or pairs of str: tags={{'user': 'ann'}}", "invalid_key"
            )
        for part in pair:
            _text("tags", part)
    return pairs


def _repr(name: str, fields: Any) -> str:
    # Fields with their usual values, which their arguments have by default, are left out.
    shown = [f"{field}={value!r}" for field, value in fields._asdict().items() if value not in ((), None, "") or field == "model"]
    return f"{name}({', '.join(shown)})"
