"""An S3 server for one check: `s3s-fs`, which verifies signatures, or `moto`, which does not.

LMCache names the bucket in the URL's host, sends that host as `Host`, and asks the system for its address. So the host must be the
bucket, a dot and a domain, and must resolve. `kv.localhost` resolves on few systems. `0x7f.1` does on all, as an old way to write
127.0.0.1: its bucket is `0x7f`, and its domain is `1`. kvconn gets the same bucket by path, at `http://127.0.0.1:PORT`.

| LMCache's URL | works |
|---|---|
| `s3://BUCKET.s3.REGION.amazonaws.com` | with Amazon |
| `s3://BUCKET.HOST:PORT`, with `disable_tls: true` | with a server that takes buckets by host, if the name resolves |
| `s3://127.0.0.1:PORT`, `s3://localhost:PORT` | no: the servers take the first part of the path for the bucket |
| `s3://BUCKET.HOST:PORT/PREFIX` | no: LMCache sends the prefix in `Host` |
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

from .server import installed

START_TIMEOUT_S = 60
ATTEMPTS = 20
BUCKET, DOMAIN = "0x7f", "1"
REGION = "us-east-1"
ACCESS_KEY, SECRET_KEY = "kvconn-interop", "interop/secret+key"
SERVERS = ("s3s-fs", "moto")
_XML = "{http://s3.amazonaws.com/doc/2006-03-01/}"


class S3Server:
    """Listens on 127.0.0.1, with one empty bucket. Ends with the `with` block."""

    def __init__(self, kind: str = "s3s-fs", folder: Path | None = None) -> None:
        """`kind` is one of `SERVERS`. `s3s-fs` keeps its objects below `folder`, or in a temporary directory."""
        self.kind = kind
        self.root = Path(tempfile.mkdtemp(prefix="kvconn-interop-", dir=folder))
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> S3Server:
        try:
            for _ in range(ATTEMPTS):
                with socket.create_server(("127.0.0.1", 0)) as free:
                    self.port = free.getsockname()[1]
                if self._start():
                    self.empty()
                    return self
            raise RuntimeError(f"no free port for {self.kind} in {ATTEMPTS} attempts")
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self.root, ignore_errors=True)

    # -- URLs

    @property
    def theirs(self) -> str:
        """The URL of the bucket for LMCache."""
        return f"s3://{BUCKET}.{DOMAIN}:{self.port}"

    @property
    def extra_config(self) -> dict[str, object]:
        """LMCache's options for this server: those of `s3://` in `extra_config`, which are also those of its `s3` adapter."""
        return {
            "s3_region": REGION,
            "disable_tls": True,
            "s3_prefer_http2": False,
            "s3_num_io_threads": 4,
            "aws_access_key_id": ACCESS_KEY,
            "aws_secret_access_key": SECRET_KEY,
        }

    @property
    def adapter(self) -> dict[str, object]:
        """LMCache's own L2 adapter for this bucket."""
        return {"type": "s3", "s3_endpoint": self.theirs, **self.extra_config}

    def ours(self, prefix: str = "", **options: str | int) -> str:
        """kvconn's URL of the bucket, or of a prefix in it."""
        given = {
            "endpoint": f"http://127.0.0.1:{self.port}",
            "region": REGION,
            "access_key_id": ACCESS_KEY,
            "secret_access_key": SECRET_KEY,
            **options,
        }
        query = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in given.items())
        return f"s3://{BUCKET}/{prefix}?{query}" if prefix else f"s3://{BUCKET}?{query}"

    # -- The objects, without either client

    def names(self) -> set[str]:
        """The names of all objects."""
        if self.kind == "s3s-fs":
            return {str(path.relative_to(self.bucket)) for path in self.bucket.rglob("*") if path.is_file()}
        names: set[str] = set()
        after = ""
        while True:
            page = ET.fromstring(self._ask("GET", f"?list-type=2&start-after={quote(after, safe='')}"))
            found = [name.text or "" for name in page.iter(f"{_XML}Key")]
            names |= {*found}
            if page.findtext(f"{_XML}IsTruncated") != "true":
                return names
            after = found[-1]

    def write(self, name: str, data: bytes) -> None:
        """Writes an object without metadata."""
        if self.kind == "s3s-fs":
            path = self.bucket / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        else:
            self._ask("PUT", f"/{quote(name)}", data)

    def empty(self) -> None:
        """Removes all objects, and their metadata."""
        if self.kind == "s3s-fs":
            for path in self._objects.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            self.bucket.mkdir()
        else:
            self._request("POST", "/moto-api/reset")
            self._ask("PUT", "")

    def create(self, bucket: str) -> None:
        """Creates another bucket. Only moto takes the request, which has no signature."""
        self._request("PUT", f"/{bucket}")

    # -- The process

    def kill(self) -> None:
        """Kills the server."""
        if self.process:
            self.process.kill()
            self.process.wait()

    def start_again(self) -> None:
        """Starts the server that was killed, with its bucket empty, on the same port."""
        if not self._start():
            raise RuntimeError(f"another program has taken port {self.port}")
        self.empty()

    @property
    def _objects(self) -> Path:
        return self.root / "objects"

    @property
    def bucket(self) -> Path:
        """The folder of the objects of s3s-fs, each a file of its name."""
        return self._objects / BUCKET

    def _start(self) -> bool:
        log = self.root / "log"
        self._objects.mkdir(exist_ok=True)
        with log.open("wb") as out:
            self.process = subprocess.Popen(self._command(), cwd=self.root, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                if "in use" in log.read_text():
                    return False
                break
            try:
                self._request("GET", "/")
            except urllib.error.HTTPError:
                return True  # s3s-fs refuses a request without a signature.
            except OSError:
                time.sleep(0.02)
            else:
                return True
        self.kill()
        raise RuntimeError(f"{self.kind} does not start; its log:\n{log.read_text()}")

    def _command(self) -> list[str]:
        if self.kind == "moto":
            program, options = "moto_server", ["-H", "127.0.0.1", "-p", str(self.port)]
        else:
            program, options = "s3s-fs", ["--host", "127.0.0.1", "--port", str(self.port)]
            options += ["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY]
            options += ["--domain", f"{DOMAIN}:{self.port}", str(self._objects)]
        return [installed(self.kind, program), *options]

    def _ask(self, method: str, path: str, data: bytes | None = None) -> bytes:
        """A request without a signature to the bucket. Only moto answers it."""
        return self._request(method, f"/{BUCKET}{path}", data)

    def _request(self, method: str, path: str, data: bytes | None = None) -> bytes:
        # Without the type, urllib says that the body is a form, and moto waits for its end.
        headers = {"Content-Type": "application/octet-stream"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=START_TIMEOUT_S) as answer:
            return bytes(answer.read())


class Throttled(BaseHTTPRequestHandler):
    """Answers each request with `503 SlowDown`, as S3 does for too many of them. `with Throttled.server() as url:`"""

    protocol_version = "HTTP/1.1"

    @classmethod
    @contextmanager
    def server(cls) -> Iterator[str]:
        """Listens on 127.0.0.1. Gives kvconn's URL of a bucket."""
        with ThreadingHTTPServer(("127.0.0.1", 0), cls) as server:
            server.daemon_threads = True
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            try:
                yield f"s3://throttled?endpoint=http://127.0.0.1:{server.server_port}&region={REGION}&anonymous=true"
            finally:
                server.shutdown()
                thread.join()

    def do_GET(self) -> None:  # noqa: N802: the name that the base class calls
        """Reads the request's body, and refuses."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
        self.send_response(503)
        # With it, a client knows S3 from a proxy: the answer to HEAD has no body.
        self.send_header("x-amz-request-id", "4442587FB7D0A2F9")
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Writes no log."""
