"""The bare system calls: what moves the same bytes without a client's own work.

The calls are made from Python, which adds some microseconds to each. At 1 MiB a chunk, that is one percent.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

from .completions import Blocking


class Sockets(Blocking):
    """Redis requests on sockets: `sendmsg` from the caller's memory, and `recvmsg` into it, on one thread.

    Reads a reply while the replies of other connections arrive, so the thread seldom sleeps.
    """

    def __init__(self, port: int, connections: int, ahead: int) -> None:
        """At most `ahead` requests wait for their replies."""
        super().__init__()
        self.ahead = ahead
        self.sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
        for each in self.sockets:
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def submit_batch_set(self, keys: list[str], views: list[memoryview]) -> int:
        """`SET`."""
        for connection, i, is_reply in self._steps(len(keys)):
            if is_reply:
                _receive(connection, b"+OK\r\n", [])
            else:
                head = b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n" % (len(keys[i]), keys[i].encode(), len(views[i]))
                if connection.sendmsg([head, views[i], b"\r\n"]) != len(head) + len(views[i]) + 2:
                    raise OSError("a part was sent")
        return self.ended(None)

    def submit_batch_get(self, keys: list[str], views: list[memoryview]) -> int:
        """`GET`. The length of the replies is known."""
        for connection, i, is_reply in self._steps(len(keys)):
            if is_reply:
                _receive(connection, b"$%d\r\n" % len(views[i]), [views[i], bytearray(2)])
            else:
                connection.sendall(b"*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n" % (len(keys[i]), keys[i].encode()))
        return self.ended([True] * len(keys))

    def submit_batch_exists(self, keys: list[str]) -> int:
        """`EXISTS` of all keys in one request."""
        request = b"*%d\r\n$6\r\nEXISTS\r\n" % (len(keys) + 1)
        self.sockets[0].sendall(request + b"".join(b"$%d\r\n%s\r\n" % (len(key), key.encode()) for key in keys))
        found = int(self.sockets[0].makefile("rb", 0).readline()[1:])
        return self.ended([True] * found + [False] * (len(keys) - found))

    def close(self) -> None:
        """Closes the connections."""
        for each in self.sockets:
            each.close()
        super().close()

    def _steps(self, count: int) -> Iterator[tuple[socket.socket, int, bool]]:
        """The order of requests and replies: the connection, the key's index, and whether its reply is next."""
        ahead = min(self.ahead, count)
        for i in range(count + ahead):
            for of, is_reply in ((i - ahead, True), (i, False)):
                if 0 <= of < count:
                    yield self.sockets[of % len(self.sockets)], of, is_reply


def _receive(connection: socket.socket, head: bytes, rest: list[bytearray | memoryview]) -> None:
    """Reads a reply that starts with `head` into `rest`."""
    found = bytearray(len(head))
    length = len(head) + sum(len(piece) for piece in rest)
    if connection.recvmsg_into([found, *rest], 0, socket.MSG_WAITALL)[0] != length or found != head:
        raise OSError(f"a reply starts with {bytes(found)!r}")


class Files(Blocking):
    """Files: `open`, `write` and `rename`; `open`, `read` and `close`; `stat`. One thread makes the calls."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        os.makedirs(folder, exist_ok=True)
        self.folder = folder

    def submit_batch_set(self, keys: list[str], views: list[memoryview]) -> int:
        """Writes each value to a file, and renames the file."""
        for key, view in zip(keys, views, strict=True):
            path = self._path(key)
            file = os.open(path + ".tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            if os.write(file, view) != len(view):
                raise OSError("a part was written")
            os.close(file)
            os.rename(path + ".tmp", path)
        return self.ended(None)

    def submit_batch_get(self, keys: list[str], views: list[memoryview]) -> int:
        """Reads each file into its place."""
        for key, view in zip(keys, views, strict=True):
            file = os.open(self._path(key), os.O_RDONLY)
            if os.readv(file, [view]) != len(view):
                raise OSError("a part was read")
            os.close(file)
        return self.ended([True] * len(keys))

    def submit_batch_exists(self, keys: list[str]) -> int:
        """Asks for each file."""
        return self.ended([os.path.exists(self._path(key)) for key in keys])

    def _path(self, key: str) -> str:
        return f"{self.folder}/{key.replace('/', '-')}"
