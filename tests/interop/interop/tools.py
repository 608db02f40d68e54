"""Runs LMCache's checking tools on the wheel, in both of LMCache's modes."""

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml

from .report import Failed, Report, equal
from .server import RedisServer
from .wheel import external, plugin

TIMEOUT_S = 300
DOCUMENT = Path(__file__).parents[3] / "docs" / "engines" / "lmcache.md"
BENCH = "--no-skip-verify --num-keys 32 --in-flight 4 --data-size-kb 256 --rounds 2 --lookup-max-hit-rate 1.0".split()


def run(report: Report) -> None:
    """Runs all checks of this group."""
    with tempfile.TemporaryDirectory(prefix="kvconn-interop-") as folder, RedisServer() as server:
        root, address = Path(folder), f"127.0.0.1:{server.port}"
        for name, config in {
            "external://, redis": {"remote_url": external("redis", "RedisConnector", address)},
            "external://, fs": {"remote_url": external("fs", "FSConnector", base_path=f"{root}/external")},
        }.items():
            with report.check(f"tools: basic_check --mode test_remote, {name}"):
                basic_check("test_remote", root, config)
        plugins = plugin("kv", f"redis://{address}") | plugin("kv.files", f"fs://{root}/plugin")
        with report.check("tools: basic_check --mode test_storage_manager, two plugins"):
            config = {"remote_storage_plugins": ["kv", "kv.files"], "extra_config": plugins}
            basic_check("test_storage_manager", root, config)
            equal("files that the second plugin wrote", any((root / "plugin").glob("*.data")), True)
        with report.check("tools: every configuration of docs/engines/lmcache.md"):
            _documented_configurations(root, address)
        stores = {
            "resp": f"resp://{address}",
            "fs": f"fs://{root}/l2",
            "memory": "memory://l2",
            "tiered": f"tiered://?front=memory://front&back=fs://{root}/back",
            # The store of examples/acme-kv/wheel.
            "acme": "acme://localhost:0",
        }
        for name, url in stores.items():
            adapter = json.dumps(
                {
                    "type": "native_plugin",
                    "module_path": "kvconn",
                    "class_name": "NativeClient",
                    "adapter_params": {"url": url},
                }
            )
            with report.check(f"tools: basic_check --mode test_l2_adapter, {name}"):
                basic_check("test_l2_adapter", root, {}, "--l2-adapter", adapter)
            with report.check(f"tools: lmcache bench l2 --no-skip-verify, {name}"):
                bench(adapter)


def _documented_configurations(root: Path, address: str) -> None:
    """Checks each configuration of docs/engines/lmcache.md, with the check's own server and directory."""
    text = DOCUMENT.read_text().replace("127.0.0.1:6379", address).replace("/var/cache/kvconn", str(root / "documented"))
    configs = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    equal("configurations in docs/engines/lmcache.md", len(configs), 4)
    for config in configs:
        # `test_remote` opens `remote_url`. It reads attributes that LMCache's audit connector lacks.
        remote = config.get("remote_url", "").startswith("external://")
        mode = "test_remote" if remote else "test_storage_manager"
        basic_check(mode, root, config | {"max_local_cpu_size": 0.5})
    adapters = {shlex.split(words)[0] for words in re.findall(r"--l2-adapter ('.*?')", text, re.DOTALL)}
    equal("adapters in docs/engines/lmcache.md", len(adapters), 2)
    for adapter in adapters:
        basic_check("test_l2_adapter", root, {}, "--l2-adapter", adapter)


def basic_check(mode: str, root: Path, config: dict, *args: str) -> None:
    """Runs the tool and reads its output, because it ends with 0 even after a failure."""
    path = root / "lmcache.yaml"
    # JSON is YAML.
    path.write_text(json.dumps({"chunk_size": 256, "local_cpu": False, "max_local_cpu_size": 0.5} | config))
    environment = os.environ | {"LMCACHE_CONFIG_FILE": str(path)}
    output = _succeed([sys.executable, "-m", "lmcache.v1.basic_check", "--mode", mode, *args], environment)
    # `| GET   | 2.27 | 3.96 | 1.12 | 5/5 | 100.0% | ..`
    rates = re.findall(r"^\| ([A-Z][^|]*?) *\|.*?\| *(\d+)/(\d+) \|", output, re.MULTILINE)
    if len(rates) != 4 or any(passed != total or passed == "0" for _, passed, total in rates):
        raise Failed(f"not all operations passed: {output[-2000:]}")
    if "Failed" in output or "content" not in output.lower():
        raise Failed(f"the content check did not pass: {output[-2000:]}")
    for passed, total in re.findall(r"[Cc]ontent[^:]*: (\d+)/(\d+)", output):
        equal("chunks with the right content", passed, total)


def bench(adapter: str) -> None:
    """Runs the bench and reads its tables, because its exit code does not count failed operations."""
    lmcache = Path(sys.executable).with_name("lmcache")
    output = _succeed([str(lmcache), "bench", "l2", *BENCH, "--l2-adapter", adapter], dict(os.environ))
    totals = {}
    for operation, table in _tables(output):
        keys, found = (re.search(rf"^{field}: +(\d+)$", table, re.MULTILINE) for field in ("Total keys", "Total success"))
        if keys and found:
            totals[operation] = (int(found[1]), int(keys[1]))
    equal("operations", sorted(totals), ["Load", "Lookup", "Store"])
    for operation, (found, keys) in totals.items():
        equal(f"{operation}: keys that succeed", found, keys)
        equal(f"{operation}: it has keys", keys > 0, True)
    equal("the bench verified the data", bool(re.search(r"All \d+ keys data verified OK", output)), True)


def _tables(output: str) -> Iterator[tuple[str, str]]:
    parts = re.split(r"^-+ (Store|Lookup|Load) -+$", output, flags=re.MULTILINE)
    return zip(parts[1::2], parts[2::2], strict=True)


def _succeed(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise Failed(f"{' '.join(command[:4])} ends with {done.returncode}: {done.stdout[-1500:]} {done.stderr[-1500:]}")
    return done.stdout + done.stderr
