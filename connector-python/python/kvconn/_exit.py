"""The end of a process: every open store is closed, so that nothing that waits to be written is lost."""

from __future__ import annotations

import os
import sys

from kvconn import _libraries

#: The process that has the finalizer of multiprocessing.
_finalized_in = 0


def opened() -> None:
    """Called when a store is opened. A child of multiprocessing may end without `atexit`, so it needs a finalizer."""
    global _finalized_in
    util, process = sys.modules.get("multiprocessing.util"), sys.modules.get("multiprocessing.process")
    if _finalized_in == os.getpid() or util is None or process is None or process.parent_process() is None:
        return
    # After those of queues and pools, whose priorities are higher.
    util.Finalize(None, close_stores, exitpriority=-100)
    _finalized_in = os.getpid()


def close_stores() -> None:
    """Closes the open stores of all libraries in parallel, and reports those that lost chunks."""
    for closing in [library._close_open_stores() for library in _libraries.loaded()]:
        for lost in closing.wait():
            if _logging_is_gone():
                print(f"kvconn: {lost}", file=sys.stderr, flush=True)


def _logging_is_gone() -> bool:
    """Whether no handler takes the log lines of kvconn any more. `logging` ends at exit, too, and may be first."""
    import logging

    logger: logging.Logger | None = logging.getLogger("kvconn")
    handlers: list[logging.Handler] = []
    while logger is not None:
        handlers += logger.handlers
        logger = logger.parent if logger.propagate else None
    # A handler that was closed still writes to a stream, but not to a file. Without any, Python writes to stderr.
    return bool(handlers) and all(getattr(h, "_closed", False) and type(h) is not logging.StreamHandler for h in handlers)
