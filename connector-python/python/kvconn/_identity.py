"""Names of an engine's chunks in a store: the model field of their keys.

Two engines share chunks if and only if this field is the same. So it has a digest over everything that makes their bytes incompatible.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
from collections.abc import Mapping

__all__ = ["is_local_path", "store_model", "warn_once"]

# An fs file name has at most 255 bytes. Besides the model, these are `@0x` and 8 digits of the rank, `@` and 8 digits of the group,
# `@` and 64 digits of the hash, `@` and 40 characters of the salt, and `.data`. In the model, 33 bytes are `+` and the digest.
_MODEL_BYTES = 255 - 11 - 9 - 65 - 41 - 5 - 33
_DIGEST_DIGITS = 32
# Each `/` of a model is five bytes in a file name: `-SEP-`.
_SLASH = "-SEP-"

_warned: set[tuple[str, str]] = set()


def store_model(engine: str, model: str, fields: Mapping[str, object]) -> str:
    """The model field of an engine's keys: ``<engine>+<model>+<digest>``.

    The digest is 32 hex digits of SHA-256 over the engine, the whole model and `fields` as canonical JSON. In the readable part, characters
    other than ASCII letters, digits and ``._/+-`` become ``_``. A long model loses its start there, so that a file name of the fs store
    stays within 255 bytes.

    Raises `TypeError` for a value that JSON cannot state exactly. JSON states None, bool, int, str, finite float, lists, tuples and
    mappings with str keys.
    """
    identity = {"engine": engine, "model": model, "fields": _exact(fields, "fields")}
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    digest = hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_DIGITS]
    # The fs store refuses some models that contain `SEP`, because they would read back as another model.
    readable = re.sub(r"[^A-Za-z0-9._/+-]", "_", model).replace("SEP", "sep") or "_"
    while len(f"{engine}+{readable}".replace("/", _SLASH)) > _MODEL_BYTES:
        readable = readable[1:]
    return f"{engine}+{readable}+{digest}"


def is_local_path(model: str) -> bool:
    """Whether `model` names a folder or file of this host. Such a name does not say which weights are there."""
    return model.startswith(("/", "./", "../", "~")) or model in (".", "..") or os.path.exists(model)


def warn_once(logger: logging.Logger, message: str) -> None:
    """Logs the warning unless this process has logged it by the same logger."""
    if (logger.name, message) not in _warned:
        _warned.add((logger.name, message))
        logger.warning("%s", message)


def _exact(value: object, where: str) -> object:
    """`value` in types of JSON. Raises a `TypeError` that names the place of a value of another type."""
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float and math.isfinite(value):
        return value
    if isinstance(value, (list, tuple)):
        return [_exact(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if type(key) is not str:
                raise TypeError(f"{where} has the key {key!r}, which is not a str")
        return {key: _exact(item, f"{where}.{key}") for key, item in value.items()}
    raise TypeError(f"{where} is {value!r}, a {type(value).__name__}, which JSON cannot state exactly")
