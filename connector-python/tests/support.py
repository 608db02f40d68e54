"""Shared by the tests: a redis server, completions, child processes."""

import contextlib
import os
import random
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import unittest

DEADLINE = 30.0


def object_key(i, model="test-model"):
    """A key as LMCache's multiprocess mode writes it."""
    return f"{model}@00000001@0@{i:016x}"


def engine_key(i, model="test-model"):
    """A key as LMCache's in-process mode writes it."""
    return f"{model}@1@0@{i + 1:x}@bfloat16"


def free_port():
    """A free port. The kernel gives those from 32768 on to other sockets, perhaps before the server binds."""
    while True:
        port = random.randrange(20_000, 32_768)
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port


class RedisServer:
    """A redis server on this port, or on a free one. The test fails if redis-server is not installed."""

    def __init__(self, port=None, *args):
        program = shutil.which("redis-server")
        if program is None:
            raise AssertionError("redis-server is missing; install Debian's package 'redis-server'")
        self.dir = tempfile.mkdtemp(prefix="kvconn-redis-")
        self.port = port or free_port()
        self.process = subprocess.Popen(
            [program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", self.dir, *args],
            stdout=subprocess.DEVNULL,
        )
        wait_until(self._answers, "redis-server answers")

    def _answers(self):
        if self.process.poll() is not None:
            raise AssertionError(f"redis-server ended with {self.process.returncode}")
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as s:
                s.sendall(b"PING\r\n")
                return s.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def ask(self, command):
        """Sends a command without arguments that contain spaces."""
        with socket.create_connection(("127.0.0.1", self.port), DEADLINE) as s:
            s.sendall(f"{command}\r\n".encode())
            return s.recv(1024)

    def stop_answering(self):
        self.process.send_signal(19)  # SIGSTOP

    def kill(self):
        self.process.kill()
        self.process.wait()

    def close(self):
        self.kill()
        shutil.rmtree(self.dir, ignore_errors=True)


def wait_until(condition, what):
    end = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {DEADLINE} s: {what}")
        time.sleep(0.005)


def completions(client, count=1):
    """Waits for `count` completions by the eventfd, as LMCache does."""
    poller = select.poll()
    poller.register(client.event_fd(), select.POLLIN)
    found = []
    end = time.monotonic() + DEADLINE
    while len(found) < count:
        left = end - time.monotonic()
        if left <= 0:
            raise AssertionError(f"{len(found)} of {count} completions within {DEADLINE} s")
        poller.poll(left * 1000)
        found += client.drain_completions()
    return found


def run_child(code, *args, **environment):
    """Runs a Python program in a child process and gives its output. The child must succeed in time. A variable that is None is not set."""
    # A shell starts background jobs with SIGINT ignored, and Python then leaves it ignored.
    interruptible = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    child = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", interruptible + code, *args],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env={name: value for name, value in variables.items() if value is not None},
    )
    if child.returncode != 0:
        raise AssertionError(f"the child ended with {child.returncode}: {child.stdout}{child.stderr}")
    return child.stdout


def resident_bytes():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class TestCase(unittest.TestCase):
    def directory(self):
        path = tempfile.mkdtemp(prefix="kvconn-test-")
        self.addCleanup(shutil.rmtree, path, ignore_errors=True)
        return path

    def redis(self):
        server = RedisServer()
        self.addCleanup(server.close)
        return server

    def cluster(self):
        """A node that has all slots of its cluster."""
        # The bus has a port of its own, by default 10000 above the node's.
        server = RedisServer(None, "--cluster-enabled", "yes", "--cluster-port", str(free_port()))
        self.addCleanup(server.close)
        server.ask("CLUSTER ADDSLOTSRANGE 0 16383")
        wait_until(lambda: b"cluster_state:ok" in server.ask("CLUSTER INFO"), "the cluster is ready")
        return server
