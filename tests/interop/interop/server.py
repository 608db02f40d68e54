"""A redis server for one check, and a minimal client."""

import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

START_TIMEOUT_S = 30
ATTEMPTS = 20


class RedisServer:
    """Listens on 127.0.0.1 and a unix socket, and saves nothing. Ends with the `with` block."""

    def __init__(self, *args: str) -> None:
        self.args = args
        self.directory = Path(tempfile.mkdtemp(prefix="kvconn-interop-"))
        self.socket = self.directory / "socket"
        self.port = 0
        self.process: subprocess.Popen | None = None

    def __enter__(self) -> "RedisServer":
        for _ in range(ATTEMPTS):
            with socket.create_server(("127.0.0.1", 0)) as free:
                self.port = free.getsockname()[1]
            if self._start():
                return self
        self.__exit__()
        raise RuntimeError(f"no free port for redis-server in {ATTEMPTS} attempts")

    def __exit__(self, *_: object) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def start_again(self) -> None:
        """Starts the server that was killed, empty, on the same port."""
        if not self._start():
            raise RuntimeError(f"another program has taken port {self.port}")

    def _start(self) -> bool:
        log = self.directory / "log"
        options = ["--bind", "127.0.0.1", "--port", str(self.port), "--unixsocket", str(self.socket)]
        options += ["--save", "", "--appendonly", "no", "--daemonize", "no", *self.args]
        with log.open("w") as out:
            self.process = subprocess.Popen(
                ["redis-server", *options], cwd=self.directory, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                if "already in use" in log.read_text():
                    return False
                break
            try:
                self.ask("PING")
            except (OSError, EOFError):
                time.sleep(0.01)
            except RedisError:
                return True  # The server runs and requires a password.
            else:
                return True
        raise RuntimeError(f"redis-server does not start; its log:\n{log.read_text()}")

    def ask(self, *words: str | bytes, password: str = "") -> object:
        """Sends one command on a new connection. Gives bytes, a number, text, a list or None."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(START_TIMEOUT_S)
            connection.connect(str(self.socket))
            stream = connection.makefile("rwb")
            if password:
                _command(stream, "AUTH", password)
            return _command(stream, *words)

    def keys(self) -> set[str]:
        """All keys of database 0."""
        return {key.decode() for key in self.ask("KEYS", "*")}


class RedisError(Exception):
    """The server's error. The message is the server's."""


def _command(stream, *words: str | bytes) -> object:
    parts = [word.encode() if isinstance(word, str) else word for word in words]
    stream.write(b"*%d\r\n" % len(parts))
    for part in parts:
        stream.write(b"$%d\r\n%s\r\n" % (len(part), part))
    stream.flush()
    return _reply(stream)


def _reply(stream) -> object:
    line = stream.readline()
    if not line.endswith(b"\r\n"):
        raise EOFError("the server has closed the connection")
    kind, rest = line[:1], line[1:-2]
    if kind == b"+":
        return rest.decode()
    if kind == b"-":
        raise RedisError(rest.decode())
    if kind == b":":
        return int(rest)
    if kind == b"$":
        return None if rest == b"-1" else stream.read(int(rest) + 2)[:-2]
    if kind == b"*":
        return None if rest == b"-1" else [_reply(stream) for _ in range(int(rest))]
    raise RedisError(f"a reply of unknown type: {line!r}")
