"""LMCache's own S3 clients (awscrt) and kvconn share a bucket, in both of LMCache's modes. `s3_server.py` has the servers and URLs."""

from __future__ import annotations

from . import in_process, multiprocess

GROUPS = {
    "in-process": in_process.run,
    "multiprocess": multiprocess.run,
}
SMOKE = ("in-process",)
