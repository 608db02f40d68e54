"""Runs the test programs of the workspace, several at a time: many wait for servers, and others compile.

    python3 tests/at_once.py              all tests, also those in the documentation
    python3 tests/at_once.py --ignored    gives `--ignored` to each test program, and leaves the documentation out

Prints the output of each program when it ends, and that of the failed ones again at the end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
AT_ONCE = 3
# These compile, so they take the longest. The others fill the time beside them.
FIRST = ("linking", "compile_fail", "counts", "command")


@dataclass(frozen=True)
class Job:
    name: str
    command: list[str]
    directory: Path = ROOT
    environment: dict[str, str] = field(default_factory=dict)


def test_programs(arguments: list[str]) -> list[Job]:
    """Builds the test programs as `cargo test --workspace` does, and gives their jobs."""
    build = ["cargo", "test", "--workspace", "--no-run", "--message-format", "json-render-diagnostics"]
    built = subprocess.run(build, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if built.returncode:
        sys.exit(built.returncode)
    libraries = subprocess.check_output(["rustc", "--print", "target-libdir"], text=True).strip()
    messages = [json.loads(line) for line in built.stdout.splitlines() if line.startswith("{")]
    jobs = []
    for message in messages:
        if message.get("executable") and message["profile"]["test"]:
            package = Path(message["manifest_path"]).parent
            name = f"{package.name}: {message['target']['name']}"
            # As cargo starts a test program.
            environment = {"CARGO_MANIFEST_DIR": str(package), "LD_LIBRARY_PATH": libraries}
            jobs.append(Job(name, [message["executable"], *arguments], package, environment))
    return sorted(jobs, key=lambda job: not job.name.endswith(FIRST))


def run(job: Job) -> tuple[Job, int, str, float]:
    start = time.monotonic()
    done = subprocess.run(
        job.command,
        cwd=job.directory,
        env={**os.environ, **job.environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    return job, done.returncode, done.stdout, time.monotonic() - start


def main() -> None:
    arguments = sys.argv[1:]
    jobs = test_programs(arguments)
    if not jobs:
        sys.exit("tests/at_once.py: cargo built no test program")
    if not arguments:
        jobs.append(Job("documentation", ["cargo", "test", "--workspace", "--doc"]))
    failures = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for ended in as_completed([pool.submit(run, job) for job in jobs]):
            job, code, output, seconds = ended.result()
            print(f"-- {job.name} ({seconds:.0f}s){f' FAILED with {code}' if code else ''}\n{output}", flush=True)
            if code:
                failures.append((job, output))
    for job, output in failures:
        print(f"-- {job.name} FAILED\n{output}")
    if failures:
        sys.exit(f"tests/at_once.py: {len(failures)} of {len(jobs)} test programs failed")
    print(f"{len(jobs)} test programs passed")


if __name__ == "__main__":
    main()
