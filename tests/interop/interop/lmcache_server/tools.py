"""LMCache's tools for L2 adapters, and LMCache's tests of its own adapters with kvconn's in their place."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

from .. import tools
from ..report import Failed, Report, equal
from .manager import spec
from .transfer import stores

TIMEOUT_S = 540
#: Files of LMCache's tests, and the number of the tests that pass.
_TESTS = (
    "test_mock_l2_adapter.py",
    "test_native_connector_l2_adapter.py",
    "test_fs_l2_adapter_delete.py",
    "test_cache_salt_l2_eviction.py",
    "test_fault_inject_l2_adapter.py",
    "test_store_controller.py",
    "test_prefetch_controller.py",
    "test_distributed_storage_manager.py",
    "test_runtime_adapters.py",
    "test_report_status.py",
)
_PASS = 266
#: Tests of behaviour that only the replaced adapter has, and the reason.
_OTHERS = {
    "TestPadBuffersToAlignment": "the native adapter pads its buffers",
    "test_factory_derives_padding_from_use_odirect": "the native adapter pads its buffers",
    "TestDeleteBackwardCompatibility": "the native adapter may have a client that cannot delete",
    "test_report_status_shape_with_l2": "the mock adapter's status has keys of its own",
    "test_restore_of_existing_key_does_not_renotify": "the fs adapter skips files that exist; kvconn replaces, as the native adapter does",
}


def run(report: Report) -> None:
    """Runs LMCache's `basic_check` and `bench l2` on each store."""
    with stores() as urls, tempfile.TemporaryDirectory(prefix="kvconn-interop-") as folder:
        for name, url in urls.items():
            with report.check(f"lmcache-server: {name}: basic_check --mode test_l2_adapter"):
                tools.basic_check("test_l2_adapter", Path(folder), {}, "--l2-adapter", spec(url))
            with report.check(f"lmcache-server: {name}: lmcache bench l2 --no-skip-verify"):
                tools.bench(spec(url))


def their_tests(report: Report) -> None:
    """Runs LMCache's tests, from its source package."""
    with report.check("lmcache-server: LMCache's tests of its adapters and controllers pass with kvconn's adapter"):
        source = _source()
        arguments = ["-q", "-p", "no:cacheprovider", "-o", "log_cli=false", "-W", "ignore", "-p", "interop.lmcache_server.in_their_place"]
        arguments += ["-k", f"not ({' or '.join(_OTHERS)})", *(f"tests/v1/distributed/{name}" for name in _TESTS)]
        here = str(Path(__file__).parents[2])
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *arguments],
            cwd=source, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise Failed(f"pytest ends with {done.returncode}: {done.stdout[-3000:]}{done.stderr[-1000:]}")
        equal("tests that pass", int(re.search(r"(\d+) passed", done.stdout)[1]), _PASS)


def _source() -> Path:
    """The folder with LMCache's tests. Only them, because the sources would hide the installed package."""
    home = Path(os.environ.get("KVCONN_INTEROP_HOME", Path.home() / ".cache/kvconn-engines"))
    name = f"lmcache-{version('lmcache')}"
    folder = home / f"{name}-tests"
    if folder.exists():
        return folder
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home) as scratch:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation",
             "--no-binary", ":all:", "--dest", scratch, name.replace("-", "==")],
            check=True, timeout=TIMEOUT_S, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        with tarfile.open(next(Path(scratch).glob("*.tar.gz"))) as archive:
            wanted = [m for m in archive.getmembers() if m.name.split("/")[1:2] in (["tests"], ["pytest.ini"])]
            archive.extractall(scratch, wanted, filter="data")
        # At once, so that an interrupted download leaves nothing.
        (Path(scratch) / name).rename(folder)
    return folder
