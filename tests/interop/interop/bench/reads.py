"""How often a redis server has read from its connections."""

from __future__ import annotations

import re

from ..server import RedisServer


def reads(server: RedisServer | None) -> int | None:
    """The reads since the server started, with the one of this question. `None` without a server.

    A request that fits into one read is one round trip. The statistic is `total_reads_processed` of `INFO stats` (redis 6.2).
    """
    if server is None:
        return None
    stats = server.ask("INFO", "stats")
    assert isinstance(stats, bytes)
    found = re.search(rb"total_reads_processed:(\d+)", stats)
    assert found
    return int(found[1])
