"""The versions of LMCache that kvconn works with."""

from __future__ import annotations

import logging
import re

from kvconn import _kvconn
from kvconn._errors import of_open

logger = logging.getLogger("kvconn.lmcache")

#: The oldest LMCache that works, and the first that was not tested.
LMCACHE_FROM = (0, 5)
LMCACHE_BEFORE = (0, 6)


def check_version(found: str) -> None:
    """Refuses an LMCache that is too old, and warns of a version newer than those that were tested."""
    first, last = (".".join(map(str, limit)) for limit in (LMCACHE_FROM, LMCACHE_BEFORE))
    # `0.5.6`, `0.5rc1`, `v0.5`, `0.5+cu128`
    numbers = re.match(r"v?(?:\d+!)?(\d+)(?:\.(\d+))?", found)
    installed = (int(numbers[1]), int(numbers[2] or 0)) if numbers else (0, 0)
    # A source tree without tags has a version that says nothing: `0.1.dev1+g1a2b3c`, `0+unknown`.
    if installed == (0, 0) or found.startswith("0.1.dev"):
        logger.info("LMCache's version %s does not say whether it works with kvconn %s", found, _kvconn.__version__)
        return
    if installed < LMCACHE_FROM:
        message = f"kvconn {_kvconn.__version__} needs LMCache {first} or newer, not {found}"
        raise of_open("unsupported", message, "run `pip install -U lmcache`")
    if installed >= LMCACHE_BEFORE:
        logger.warning("kvconn %s was tested with LMCache before %s, not with %s", _kvconn.__version__, last, found)
