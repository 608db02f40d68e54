"""A redis server for one check, and a minimal client."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .report import Failed

START_TIMEOUT_S = 30
ATTEMPTS = 20
_INSTALLER = Path(__file__).parents[2] / "servers"


def installed(name: str, program: str) -> str:
    """The path of a program that `tests/servers/install` installs."""
    lines = (_INSTALLER / "versions").read_text().splitlines()
    versions = dict(line.split() for line in lines if not line.startswith("#"))
    home = Path(os.environ.get("KVCONN_TEST_SERVERS") or Path.home() / ".cache/kvconn-tests")
    path = home / f"{name}-{versions[name]}" / "bin" / program
    if not path.exists():
        raise Failed(f"{path} is missing; tests/servers/install installs it")
    return str(path)


class RedisServer:
    """Listens on 127.0.0.1 and a unix socket, and saves nothing. Ends with the `with` block."""

    def __init__(self, *args: str, program: str = "redis-server", tls: Sequence[str] = ()) -> None:
        """`program` may be a valkey server. With the options `tls` of its certificate, the port speaks only TLS."""
        self.args, self.program, self.tls = args, program, tls
        self.directory = Path(tempfile.mkdtemp(prefix="kvconn-interop-"))
        self.socket = self.directory / "socket"
        self.port = 0
        self.process: subprocess.Popen | None = None

    def __enter__(self) -> RedisServer:
        for _ in range(ATTEMPTS):
            with socket.create_server(("127.0.0.1", 0)) as free:
                self.port = free.getsockname()[1]
            if self._start():
                return self
        self.__exit__()
        raise RuntimeError(f"no free port for {self.program} in {ATTEMPTS} attempts")

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def kill(self) -> None:
        """Kills the server."""
        if self.process:
            self.process.kill()
            self.process.wait()

    def start_again(self) -> None:
        """Starts the server that was killed, empty, on the same port."""
        if not self._start():
            raise RuntimeError(f"another program has taken port {self.port}")

    def _start(self) -> bool:
        log = self.directory / "log"
        ports = ["--port", "0", "--tls-port", str(self.port), *self.tls] if self.tls else ["--port", str(self.port)]
        options = ["--bind", "127.0.0.1", *ports, "--unixsocket", str(self.socket)]
        options += ["--save", "", "--appendonly", "no", "--daemonize", "no"]
        with log.open("w") as out:
            # First, because the name of a configuration file comes before all options.
            command = [self.program, *self.args, *options]
            self.process = subprocess.Popen(command, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
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
        raise RuntimeError(f"{self.program} does not start; its log:\n{log.read_text()}")

    def ask(self, *words: str | bytes, password: str = "") -> Any:
        """Sends one command on a new connection. Gives bytes, a number, text, a list or None."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(START_TIMEOUT_S)
            connection.connect(str(self.socket))
            stream = connection.makefile("rwb")
            if password:
                _command(stream, "AUTH", password)
            return _command(stream, *words)

    def keys(self, password: str = "") -> set[str]:
        """All keys of database 0."""
        return {key.decode() for key in self.ask("KEYS", "*", password=password)}


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
