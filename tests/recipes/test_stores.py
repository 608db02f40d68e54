"""The stores of the recipes, started with their commands, keep chunks for the engines' classes with the recipes' JSON."""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import engines
import recipes
import sglang_fakes
from recipes import DEPLOY
from servers import Bucket, Case, Cluster, Server, kvconn
from sglang_case import fill, flat, indices
from sglang_case import keys as pages
from support import free_port
from test_lmcache_l2 import data, key

NAMES = engines.keys(8)


class Stores(Case):
    def keeps(self, text):
        """vLLM's tier with this JSON stores chunks, which another tier finds. No option of the JSON is unknown."""
        with engines.no_unknown_option(self):
            first = engines.vllm(self, text)
            self.assertEqual(engines.hits(first, NAMES, "before"), 0)
            self.assertTrue(engines.fill(first, NAMES))
            self.assertEqual(engines.hits(first, NAMES, "after"), 8)
            # The names of another recipe's chunks must differ from those of this one.
            first.tier.shutdown()

    def redis(self):
        return self.store(recipes.compose("vllm-redis")["redis"]["command"])

    def test_vllm_on_redis(self):
        for place in ("compose", "kubernetes"):
            server = self.redis()
            text, which = recipes.engine(place, "vllm-redis")
            self.assertEqual(which, "vllm")
            self.keeps(self.local(text, {"redis:6379": f"127.0.0.1:{server.port}"}))

    def test_an_unknown_option_is_found(self):
        server = self.redis()
        text, _ = recipes.engine("compose", "vllm-redis")
        text = self.local(text, {"redis:6379": f"127.0.0.1:{server.port}"}).replace('"url"', '"min_idel": 8, "url"')
        with self.assertLogs("kvconn", "WARNING") as logged:
            engines.vllm(self, text)
        self.assertRegex("".join(logged.output), "unknown option `min_idel`.*min_idle")

    def test_the_access_list_suffices_and_confines(self):
        server = self.redis()
        url = f"resp://kv@127.0.0.1:{server.port}?password_file={self.secrets}/store_password"
        self.assertIn("passed", kvconn("check", url))
        self.assertIn(f"127.0.0.1:{server.port}", kvconn("ping", url))

        def cli(*words):
            done = subprocess.run(["redis-cli", "-p", str(server.port), *words], capture_output=True, text=True, check=False)
            return (done.stdout + done.stderr).strip()

        # The health check has no password, and can do nothing else.
        self.assertEqual(cli("ping"), "PONG")
        for words in (["get", "x"], ["config", "get", "*"], ["flushall"], ["cluster", "nodes"], ["info"]):
            self.assertIn("NOPERM", cli(*words))
        store = ["--no-auth-warning", "--user", "kv", "--pass", self.text("store_password")]
        self.assertIn("allkeys-lru", cli(*store, "info", "memory"))
        for words in (
            ["config", "set", "maxmemory", "1"],
            ["flushall"],
            ["shutdown"],
            ["acl", "list"],
            ["eval", "return 1", "0"],
            ["client", "list"],
        ):
            self.assertIn("NOPERM", cli(*store, *words))
        self.assertIn("NOPERM", kvconn("ls", f"resp://127.0.0.1:{server.port}", code=3))

    def test_vllm_on_a_valkey_cluster(self):
        cluster = Cluster(self)
        cluster.wait()
        self.keeps(cluster.json("compose"))
        url = recipes.options(cluster.json("kubernetes"), "vllm")["url"]
        shown = kvconn("ping", f"{url}&password_file={self.secrets}/store_password")
        for node in cluster.nodes:
            self.assertIn(f"127.0.0.1:{node.port}", shown)
        self.assertIn("passed", kvconn("check", f"{url}&password_file={self.secrets}/store_password"))

    def test_vllm_on_a_service_with_tls(self):
        folder, port = Path(self.directory()), free_port()
        key, ca, cert = folder / "key.pem", folder / "ca.pem", folder / "cert.pem"

        def openssl(words):
            subprocess.run(["openssl", *words.split()], check=True, capture_output=True, cwd=folder)

        openssl("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca-key.pem -out ca.pem")
        openssl("req -newkey rsa:2048 -nodes -subj /CN=server -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out request.pem")
        openssl("x509 -req -in request.pem -CA ca.pem -CAkey ca-key.pem -days 2 -copy_extensions copy -out cert.pem")
        tls = (
            f"--tls-port {port} --port 0 --tls-auth-clients no --tls-ca-cert-file {ca} --tls-cert-file {cert} --tls-key-file {key}".split()
        )
        password = self.text("store_password")
        Server(self, port, ["redis-server", "--bind", "127.0.0.1", "--save", "", "--dir", folder, *tls, "--requirepass", password])
        text, _ = recipes.engine("kubernetes", "vllm-managed-redis")
        (ca,) = [m for m in recipes.containers("vllm-managed-redis")["vllm"]["volumeMounts"] if m["name"] == "authority"]
        self.keeps(self.local(text, {"redis.example.com:6379": f"127.0.0.1:{port}", ca["mountPath"]: str(folder)}))

    def test_sglang_on_redis(self):
        for place in ("compose", "kubernetes"):
            server = self.redis()
            text, which = recipes.engine(place, "sglang-redis")
            self.assertEqual(which, "sglang")
            pool = sglang_fakes.MHATokenToKVPoolHost()
            written = fill(pool, 3)
            with engines.no_unknown_option(self):
                with engines.sglang(self.local(text, {"redis:6379": f"127.0.0.1:{server.port}"}), pool) as backend:
                    self.assertEqual(backend.batch_exists(pages(3)), 0)
                    self.assertEqual(backend.batch_set_v1(pages(3), indices(3)), [True] * 3)
                    self.assertEqual(backend.batch_exists(pages(4)), 3)
                    self.assertEqual(backend.batch_get_v1(pages(3), indices(3, first=4)), [True] * 3)
                    self.assertEqual(flat(pool, 3, first=4), written)

    def stores(self, adapter):
        test = engines.adapters()
        names, objects = [key(i) for i in range(4)], [engines.l2.Obj(data(i)) for i in range(4)]
        self.assertGreater(test.store(adapter, names, objects), 0)
        self.assertEqual(test.lookup(adapter, [*names, key(9)]), [True] * 4 + [False])
        loaded = [engines.l2.Obj(bytes(len(data(0)))) for _ in names]
        self.assertEqual(test.load(adapter, names, loaded), [True] * 4)
        self.assertEqual([bytes(one.memory) for one in loaded], [data(i) for i in range(4)])

    def test_lmcache_on_s3(self):
        bucket = Bucket(self)
        # The script runs again without harm.
        bucket.make()
        rules = json.loads(bucket.aws("s3api", "get-bucket-lifecycle-configuration", "--bucket", bucket.variables["BUCKET"]))["Rules"]
        self.assertEqual([rule["Expiration"]["Days"] for rule in rules], [7])
        text, which = recipes.engine("compose", "lmcache-s3")
        self.assertEqual(which, "lmcache")
        with engines.no_unknown_option(self):
            with engines.lmcache(self.local(text, {"minio:9000": f"127.0.0.1:{bucket.port}"})) as adapter:
                self.stores(adapter)
        listed = bucket.aws("s3", "ls", "--recursive", f"s3://{bucket.variables['BUCKET']}/qwen3/")
        self.assertEqual(len(listed.splitlines()), 4)

    def test_lmcache_on_s3_with_the_keys_in_the_environment(self):
        text, _ = recipes.engine("kubernetes", "lmcache-s3")
        name = re.match(r"s3://(\w+)/", recipes.options(text, "lmcache")["url"])[1]
        bucket = Bucket(self, name)
        keys = {"AWS_ACCESS_KEY_ID": self.text("s3_access_key"), "AWS_SECRET_ACCESS_KEY": self.text("s3_secret_key")}
        with (
            mock.patch.dict(os.environ, {**keys, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{bucket.port}"}),
            engines.no_unknown_option(self),
        ):
            with engines.lmcache(text) as adapter:
                self.stores(adapter)


class Install(unittest.TestCase):
    """The two ways to kvconn in an image, with the wheel in place of PyPI."""

    def setUp(self):
        self.wheels = os.environ["KVCONN_WHEELS"]
        self.variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"PIP_NO_INDEX": "1"}

    def test_the_dockerfile_installs_a_wheel_of_its_folder(self):
        text = (DEPLOY / "compose/image/Dockerfile").read_text()
        (step,) = re.findall(r"^RUN (.*)\Z", text, re.MULTILINE | re.DOTALL)
        (wanted,) = re.findall(r"^ARG KVCONN=(.*)$", text, re.MULTILINE)
        with engines_python() as python:
            step = step.replace("/tmp/kvconn", self.wheels)
            done = subprocess.run(
                ["sh", "-ec", step], env={**self.variables, "PYTHON": python, "KVCONN": wanted}, capture_output=True, text=True, check=False
            )
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            self.assertEqual(done.stdout.splitlines()[-1], wanted.replace("==", " "))

    def test_the_init_container_installs_where_python_looks(self):
        patch = recipes.read(DEPLOY / "kubernetes/pip-install/vllm.yaml")["spec"]["template"]["spec"]
        with engines_python() as python:
            folder = Path(python).parent / "kvconn"
            command = [
                word.replace("/kvconn", str(folder)) if word.startswith("--target") else word
                for word in patch["initContainers"][0]["command"]
            ]
            subprocess.run([python, *command[1:]], env={**self.variables, "PIP_FIND_LINKS": self.wheels}, check=True, capture_output=True)
            show = "from importlib.metadata import entry_points; print(*[e.value for e in entry_points(group='vllm.general_plugins')])"
            done = subprocess.run(
                [python, "-c", show], env={**self.variables, "PYTHONPATH": folder}, check=True, capture_output=True, text=True
            )
            self.assertIn("kvconn._vllm_plugin:register", done.stdout)


@contextlib.contextmanager
def engines_python():
    """A Python with pip and without kvconn, as an engine's image has."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        yield f"{folder}/bin/python"


if __name__ == "__main__":
    unittest.main()
