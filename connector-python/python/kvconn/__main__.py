"""The ``kvconn`` command: ``python -m kvconn``, or ``kvconn`` where the wheel is installed."""

import signal
import sys

from kvconn._kvconn import _command


def main() -> int:
    # Python's handler runs only between steps of Python code, and the command has none.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return _command(["kvconn", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
