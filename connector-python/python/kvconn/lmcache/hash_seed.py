"""Whether two processes give the same prompt the same chunk hashes. Without that, no process finds another one's chunks.

As in LMCache 0.5.6 (``v1/token_database.py``, ``v1/multiprocess/token_hasher.py``):

- The server's default, ``blake3``, is the same in every process. With another ``--hash-algorithm`` the server takes vLLM's function
  and vLLM's ``NONE_HASH``. Without vLLM it takes Python's ``hash`` of a tuple with ``None``. Before Python 3.12, ``None`` hashes to an
  address, so no seed helps.
- Inside an engine, the first hash is vLLM's ``NONE_HASH``: ``hash`` of a text for LMCache's default algorithm ``builtin``. It is random
  for the fast algorithms of vLLM 0.29 and later, and for all algorithms of older versions. ``PYTHONHASHSEED`` fixes each of these.
  Without vLLM, LMCache hashes integers only, which needs no seed.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from kvconn._identity import warn_once

logger = logging.getLogger("kvconn.lmcache")

_ADVICE = "set the environment variable PYTHONHASHSEED=0 for every process that shares the store, before it starts"


def is_set() -> bool:
    """Whether this process has a fixed seed. For Python, ``random`` means no seed."""
    return os.environ.get("PYTHONHASHSEED", "random") not in ("", "random")


def warn_inside_engine() -> None:
    """Warns once if the first hash of LMCache inside this engine may be random."""
    if not is_set() and find_spec("vllm") is not None:
        warn_once(logger, f"chunk hashes may differ in each process, so another process may find no chunk of this one: {_ADVICE}")


def warn_in_server(arguments: Sequence[str] | None = None) -> None:
    """Warns once if the server's hash algorithm may differ in each process.

    LMCache gives an adapter no configuration but the adapter's own, so this reads the command line (`arguments`, default ``sys.argv``).
    """
    algorithm = _hash_algorithm(sys.argv if arguments is None else arguments)
    if algorithm == "blake3":
        return
    if algorithm == "builtin" or find_spec("vllm") is None:
        advice = "use --hash-algorithm blake3, LMCache's default"
    elif not is_set():
        advice = f"{_ADVICE}, or use --hash-algorithm blake3, LMCache's default"
    else:
        return
    warn_once(
        logger,
        f"the chunk hashes of --hash-algorithm {algorithm} may differ in each process, so another server may find no chunk of this "
        f"one: {advice}",
    )


def _hash_algorithm(arguments: Sequence[str]) -> str:
    for argument, value in zip(arguments, [*arguments[1:], ""]):
        name, is_joined, joined = argument.partition("=")
        if name == "--hash-algorithm":
            return joined if is_joined else value
    return "blake3"
