"""The `kvconn` command, as a user runs it."""

import json
import os
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .report import Failed

WITHIN_S = 120


class CommandFailed(Failed):
    """What the command said on stderr."""


@dataclass(frozen=True)
class Read:
    """A chunk that the command read: its bytes, and its layout as the command says it."""

    data: bytes
    layout: str


def path() -> Path:
    """The command."""
    return Path(os.environ["KVCONN"])


def run(*args: str, data: bytes = b"") -> subprocess.CompletedProcess:
    """Runs the command; `data` is its stdin."""
    command = [path(), *args]
    return subprocess.run(command, input=data, capture_output=True, timeout=WITHIN_S, check=False)


def succeed(*args: str, data: bytes = b"") -> subprocess.CompletedProcess:
    """As `run`, for a command that must succeed."""
    done = run(*args, data=data)
    if done.returncode != 0:
        raise CommandFailed(f"`kvconn {' '.join(args)}` ends with {done.returncode}: {done.stderr.decode().strip()}")
    return done


def put(url: str, key: str, data: bytes, layout: list[str] | None = None) -> None:
    """Stores a chunk; `layout` is `--shape .. --dtype .. --format ..`, or nothing for plain bytes."""
    succeed("put", url, key, "-", *(layout or []), data=data)


def get(url: str, key: str) -> Read:
    """Reads a chunk."""
    done = succeed("get", url, key)
    prefix = f"kvconn: read {key}: "
    said = done.stderr.decode().strip()
    if not said.startswith(prefix):
        raise CommandFailed(f"`kvconn get` says `{said}` instead of `{prefix}..`")
    return Read(done.stdout, said.removeprefix(prefix))


def exists(url: str, key: str) -> bool:
    """Whether the store has the key; exit code 1 is the answer no."""
    done = run("exists", url, key)
    if done.returncode not in (0, 1):
        raise CommandFailed(f"`kvconn exists` ends with {done.returncode}: {done.stderr.decode().strip()}")
    return done.returncode == 0


def keys(url: str) -> set[str]:
    """Every key of the store."""
    return set(succeed("ls", url).stdout.decode().split("\n")) - {""}


def copy(source: str, target: str) -> None:
    """Copies all chunks."""
    succeed("cp", source, target)


@cache
def schemes() -> frozenset[str]:
    """The URL schemes that are linked into the command."""
    linked = json.loads(succeed("list", "--json").stdout)
    return frozenset(scheme for connector in linked["connectors"] for scheme in connector["schemes"])


def require(scheme: str) -> None:
    """A store that the command does not have is a failure, not something to skip."""
    if scheme not in schemes():
        have = ", ".join(sorted(schemes()))
        raise CommandFailed(f"no connector for {scheme}:// is linked into {path()}; it has {have}")
