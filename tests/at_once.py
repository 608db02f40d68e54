"""Runs the test programs of the workspace, several at a time: many wait for servers, and others compile.

    python3 tests/at_once.py              all tests, also those in the documentation
    python3 tests/at_once.py --ignored    gives `--ignored` to each test program, and leaves the documentation out

Prints the output of each program when it ends, and that of the failed ones again at the end. If none ends for a while, it
prints the last lines of those that run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
AT_ONCE = 3
PATIENCE_S = 120
LAST_LINES = 5
# These compile, so they take the longest. The others fill the time beside them.
FIRST = ("linking", "compile_fail", "command")


@dataclass(frozen=True)
class Job:
    name: str
    command: list[str]
    directory: Path = ROOT
    environment: dict[str, str] = field(default_factory=dict)
    output: IO[bytes] = field(default_factory=TemporaryFile)

    def printed(self) -> str:
        """The program's output so far."""
        size = os.fstat(self.output.fileno()).st_size
        # The program writes at the file's position, so this does not move it.
        return os.pread(self.output.fileno(), size, 0).decode(errors="replace")


def test_programs(arguments: list[str]) -> list[Job]:
    """Builds the test programs as `cargo test --workspace` does, and gives their jobs."""
    # The counts of the hot paths need a release build, and valgrind. `tests/checks/run` runs them.
    build = ["cargo", "test", "--workspace", "--exclude", "kvconn-hot-paths", "--no-run", "--message-format", "json-render-diagnostics"]
    built = subprocess.run(build, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if built.returncode:
        sys.exit(built.returncode)
    metadata = json.loads(subprocess.check_output(["cargo", "metadata", "--no-deps", "--format-version", "1"], cwd=ROOT))
    packages = {package["id"]: package for package in metadata["packages"]}
    libraries = subprocess.check_output(["rustc", "--print", "target-libdir"], text=True).strip()
    messages = [json.loads(line) for line in built.stdout.splitlines() if line.startswith("{")]
    jobs = []
    for message in messages:
        if message.get("executable") and message["profile"]["test"]:
            package = packages[message["package_id"]]
            directory = Path(package["manifest_path"]).parent
            name = f"{directory.name}: {message['target']['name']}"
            # As cargo starts a test program.
            environment = {
                "CARGO_MANIFEST_DIR": str(directory),
                "CARGO_PKG_NAME": package["name"],
                "LD_LIBRARY_PATH": libraries,
            }
            jobs.append(Job(name, [message["executable"], *arguments], directory, environment))
    return sorted(jobs, key=lambda job: not job.name.endswith(FIRST))


def run(job: Job) -> tuple[int, float]:
    """Runs a program, and gives its exit code and its seconds."""
    start = time.monotonic()
    done = subprocess.run(
        job.command,
        cwd=job.directory,
        env={**os.environ, **job.environment},
        stdin=subprocess.DEVNULL,
        stdout=job.output,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.returncode, time.monotonic() - start


def main() -> None:
    arguments = sys.argv[1:]
    jobs = test_programs(arguments)
    if not jobs:
        sys.exit("tests/at_once.py: cargo built no test program")
    if not arguments:
        jobs.append(Job("documentation", ["cargo", "test", "--workspace", "--doc"]))
    failures = []
    pool = ThreadPoolExecutor(AT_ONCE)
    left = {pool.submit(run, job): job for job in jobs}
    try:
        while left:
            ended = wait(left, PATIENCE_S, FIRST_COMPLETED).done
            for future in ended:
                job, (code, seconds) = left.pop(future), future.result()
                output = job.printed()
                print(f"-- {job.name} ({seconds:.0f}s){f' FAILED with {code}' if code else ''}\n{output}", flush=True)
                if code:
                    failures.append((job, output))
            for job in [] if ended else [job for future, job in left.items() if future.running()]:
                last = "\n".join(job.printed().splitlines()[-LAST_LINES:])
                print(f"-- {job.name} still runs; its last lines:\n{last}", flush=True)
    finally:
        # After an interrupt, the programs that wait do not start.
        pool.shutdown(wait=False, cancel_futures=True)
    for job, output in failures:
        print(f"-- {job.name} FAILED\n{output}")
    if failures:
        sys.exit(f"tests/at_once.py: {len(failures)} of {len(jobs)} test programs failed")
    print(f"{len(jobs)} test programs passed")


if __name__ == "__main__":
    main()
