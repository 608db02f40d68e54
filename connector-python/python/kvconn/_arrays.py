"""Arrays of numpy and tensors of torch over the memory of chunks."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kvconn._errors import InvalidError

if TYPE_CHECKING:
    from kvconn._kvconn import Chunk


#: The dtypes that numpy has from ml_dtypes only. numpy does not export their memory, and older torches do not export float8.
_NARROW = frozenset(("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"))


def to_numpy(chunk: Chunk, dtype: Any, shape: Sequence[int] | None, group: int | None) -> Any:
    """``Chunk.numpy``."""
    import numpy

    at, length, stored, dims = chunk._part(group, need_dtype=dtype is None)
    wanted = stored if dtype is None else dtype
    name = _name(wanted)
    if name in _NARROW:
        wanted = _of_ml_dtypes(name)
    elif str(wanted).startswith("torch."):
        wanted = name
    element = numpy.dtype(wanted)
    if element.hasobject:
        # numpy would take the stored bytes for addresses.
        raise InvalidError(f"a chunk holds bytes, and no Python objects, so it cannot be read as {element}", "invalid_input")
    flat = numpy.ndarray((_count(length, element.itemsize, name),), element, memoryview(chunk), at)
    return flat.reshape(_shape(flat.size, length, shape, dims))


def to_torch(chunk: Chunk, dtype: Any, shape: Sequence[int] | None, group: int | None) -> Any:
    """``Chunk.torch``."""
    import torch

    at, length, stored, dims = chunk._part(group, need_dtype=dtype is None)
    wanted = stored if dtype is None else dtype
    element: Any = getattr(torch, _name(wanted), None)
    if not isinstance(element, torch.dtype):
        raise InvalidError(f"`{wanted}` is not a dtype of torch; write it as `torch.bfloat16` or `bfloat16`", "invalid_input")
    count = _count(length, element.itemsize, str(element))
    # As bytes: a torch that has float8 need not read it by DLPack.
    flat = torch.from_dlpack(chunk._capsule(at, length)).view(element)
    return flat.reshape(_shape(count, length, shape, dims))


def as_integers(array: Any) -> tuple[Any, str] | None:
    """The array's memory as unsigned integers, and its dtype. None for a dtype that every library exports."""
    name = _name(getattr(array, "dtype", None))
    if name not in _NARROW:
        return None
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        # bfloat16 was exported from the start, so the elements have one byte.
        return array.view(torch.uint8), name
    return array.view(f"u{array.dtype.itemsize}"), name


def _name(dtype: Any) -> str:
    """The name of a dtype of torch or numpy, or the name that is given."""
    return str(dtype).removeprefix("torch.")


def _of_ml_dtypes(name: str) -> Any:
    try:
        import ml_dtypes
    except ImportError:
        raise ImportError(
            f"numpy has no {name} without the package ml_dtypes: run `pip install ml_dtypes`, or use `chunk.torch()`"
        ) from None
    return getattr(ml_dtypes, name)


def _count(length: int, itemsize: int, name: str) -> int:
    if not itemsize or length % itemsize:
        raise InvalidError(f"{length} bytes are not a whole number of {name} of {itemsize} bytes", "invalid_input")
    return length // itemsize


def _shape(count: int, length: int, shape: Sequence[int] | None, stored: tuple[int, ...] | None) -> tuple[int, ...]:
    """The shape of an array of ``count`` elements: the given one, else the stored one, else one dimension."""
    if shape is None:
        return stored if stored is not None and math.prod(stored) == count else (count,)
    dims = tuple(shape)
    if -1 not in dims and math.prod(dims) != count:
        raise InvalidError(f"the shape {dims} has {math.prod(dims)} elements, and the chunk has {count} ({length} bytes)", "invalid_input")
    return dims
