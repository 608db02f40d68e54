"""Runs the `kvconn` command, as a user does."""

import json
import os
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .report import Failed

TIMEOUT_S = 120


class CommandFailed(Failed):
    """The command failed. The message has its stderr."""


@dataclass(frozen=True)
class Read:
    """A chunk that the command read: the bytes, and the layout as the command prints it."""

    data: bytes
    layout: str


def path() -> Path:
    """The path of the command."""
    return Path(os.environ["KVCONN"])


def run(*args: str, data: bytes = b"") -> subprocess.CompletedProcess:
    """Runs the command; `data` is its stdin."""
    command = [path(), *args]
    return subprocess.run(command, input=data, capture_output=True, timeout=TIMEOUT_S, check=False)


def succeed(*args: str, data: bytes = b"") -> subprocess.CompletedProcess:
    """Runs the command, and fails if it fails."""
    done = run(*args, data=data)
    if done.returncode != 0:
        raise CommandFailed(f"`kvconn {' '.join(args)}` ends with {done.returncode}: {done.stderr.decode().strip()}")
    return done


def put(url: str, key: str, data: bytes, layout: list[str] | None = None) -> None:
    """Stores a chunk. `layout` is `--shape .. --dtype .. --format ..`, or `None` for plain bytes."""
    succeed("put", url, key, "-", *(layout or []), data=data)


def get(url: str, key: str) -> Read:
    """Reads a chunk."""
    done = succeed("get", url, key)
    prefix = f"kvconn: read {key}: "
    message = done.stderr.decode().strip()
    if not message.startswith(prefix):
        raise CommandFailed(f"`kvconn get` prints `{message}` instead of `{prefix}..`")
    return Read(done.stdout, message.removeprefix(prefix))


def exists(url: str, key: str) -> bool:
    """Whether the store has the key. The command exits with 1 if it has not."""
    done = run("exists", url, key)
    if done.returncode not in (0, 1):
        raise CommandFailed(f"`kvconn exists` ends with {done.returncode}: {done.stderr.decode().strip()}")
    return done.returncode == 0


def keys(url: str) -> set[str]:
    """All keys of the store."""
    return set(succeed("ls", url).stdout.decode().split("\n")) - {""}


def copy(source: str, target: str) -> None:
    """Copies all chunks."""
    succeed("cp", source, target)


@cache
def schemes() -> frozenset[str]:
    """The URL schemes of the connectors in the command."""
    linked = json.loads(succeed("list", "--json").stdout)
    return frozenset(scheme for connector in linked["connectors"] for scheme in connector["schemes"])


def require(scheme: str) -> None:
    """Fails if the command lacks this store, because a skipped check would pass unnoticed."""
    if scheme not in schemes():
        raise CommandFailed(f"{path()} has no connector for {scheme}://; it has {', '.join(sorted(schemes()))}")
