"""kvconn's storage backend in SGLang's own cache controller, on a CPU."""

from collections.abc import Callable
from functools import partial

from ..report import Report
from ..sglang_whole import checks as whole
from . import checks, ours

STORES = ("memory", "fs", "redis", "resp", "s3", "tiered")
#: `file` is SGLang's own backend, the reference for kvconn's.
GROUPS: dict[str, Callable[[Report], None]] = {
    **{name: partial(checks.run, name=name) for name in ("file", *STORES)},
    "topologies": checks.topologies,
    "lost-server": ours.lost_server,
    "names": ours.names,
    "published": ours.published,
    "configuration": ours.configuration,
    "upkeep": ours.upkeep,
    "files": ours.files,
    "processes": ours.processes,
    "whole": whole.run,
}
SMOKE = ("fs", "redis", "names", "published", "files")
