"""The drills of docs/recipes.md: what an engine with a recipe's configuration notices when its store fails and comes back."""

import os
import re
import signal
import subprocess
import unittest

import engines
import kvconn
import recipes
from servers import Bucket, Case, Cluster
from support import wait_until
from test_lmcache_l2 import Obj, data, key

NAMES = engines.keys(16)


class Drill(Case):
    """A drill with vLLM's tier: each request asks under a name of its own, as vLLM's do."""

    requests = 0

    def hits(self, engine):
        self.requests += 1
        return engines.hits(engine, NAMES, f"request {self.requests}")

    def refilled(self, engine):
        """Whether the store takes chunks again, as vLLM would put them."""
        return engines.fill(engine, NAMES)


class Redis(Drill):
    def setUp(self):
        super().setUp()
        self.server = self.store(recipes.compose("vllm-redis")["redis"]["command"])
        text, _ = recipes.engine("compose", "vllm-redis")
        self.engine = engines.vllm(self, self.local(text, {"redis:6379": f"127.0.0.1:{self.server.port}"}))
        self.assertTrue(engines.fill(self.engine, NAMES))
        self.assertEqual(self.hits(self.engine), 16)

    def test_a_restart_empties_the_cache_and_the_engine_fills_it_again(self):
        self.server.kill()
        with self.assertLogs("kvconn"):
            # Misses, and a store that fails: no error reaches the engine.
            self.assertEqual(self.hits(self.engine), 0)
            self.assertFalse(engines.fill(self.engine, NAMES))
        self.server.start()
        wait_until(lambda: self.refilled(self.engine), "the store is used again")
        self.assertEqual(self.hits(self.engine), 16)

    def test_a_server_that_hangs_costs_misses_and_loses_nothing(self):
        self.server.process.send_signal(signal.SIGSTOP)
        try:
            text = recipes.engine("compose", "vllm-redis")[0]
            another = self.local(text, {"redis:6379": f"127.0.0.1:{self.server.port}"})
            # With the recipe's own limit of a lookup.
            with self.assertLogs("kvconn"):
                engine = engines.vllm(self, another, patient=False)
                self.assertEqual(self.hits(engine), 0)
        finally:
            self.server.process.send_signal(signal.SIGCONT)
        wait_until(lambda: self.hits(self.engine) == 16, "the chunks are found again")

    def test_a_full_server_evicts_and_takes_new_chunks(self):
        command = list(recipes.compose("vllm-redis")["redis"]["command"])
        command[command.index("--maxmemory") + 1] = "6mb"
        server = self.store(command)
        with kvconn.connect(f"resp://kv@127.0.0.1:{server.port}?password_file={self.secrets}/store_password") as store:
            names = [f"m@00000001@0@{i:016x}" for i in range(200)]
            for name in names:
                store.put(name, bytes(100_000))
            left = [name for name in names if store.exists(name)]
        self.assertLess(len(left), 100)
        self.assertIn(names[-1], left)

    def test_another_password_needs_no_restart_of_the_engine(self):
        (self.secrets / "store_password").unlink()
        subprocess.run([recipes.DEPLOY / "make-secrets", self.secrets], check=True, stdout=subprocess.DEVNULL)
        self.server.restart()
        wait_until(lambda: self.refilled(self.engine), "the store is used with the new password")
        self.assertEqual(self.hits(self.engine), 16)


class ValkeyCluster(Drill):
    def setUp(self):
        super().setUp()
        self.cluster = Cluster(self)
        self.cluster.wait()
        self.engine = engines.vllm(self, self.cluster.json())
        wait_until(lambda: self.refilled(self.engine), "the cluster takes chunks")
        self.assertEqual(self.hits(self.engine), 16)

    def lost(self, index):
        """Chunks on a node, as the node says."""
        node = self.cluster.nodes[index]
        login = ["--no-auth-warning", "--user", "kv", "--pass", self.text("store_password")]
        said = subprocess.run(
            ["redis-cli", "-p", str(node.port), *login, "scan", "0", "count", "1000"], capture_output=True, text=True, check=True
        )
        return len(re.findall(r"^vllm\+", said.stdout, re.MULTILINE))

    def test_a_dead_node_costs_its_own_chunks_only(self):
        counts = [self.lost(i) for i in range(3)]
        self.assertEqual(sum(counts), 16)
        self.cluster.nodes[1].kill()
        # A prefix ends at the first miss, but vLLM asks for each chunk.
        wait_until(lambda: self.hits(self.engine) == 16 - counts[1], "the chunks of the other nodes are found")
        self.cluster.nodes[1].start()
        self.cluster.wait()
        wait_until(lambda: self.refilled(self.engine), "the node takes chunks again")
        self.assertEqual(self.hits(self.engine), 16)

    def test_a_node_that_lost_its_volume_gets_its_slots_again(self):
        node, folder = self.cluster.nodes[2], self.cluster.folders[2]
        node.kill()
        os.unlink(f"{folder}/nodes.conf")
        node.start()
        wait_until(lambda: self.refilled(self.engine), "the node takes chunks again")
        self.assertEqual(self.hits(self.engine), 16)
        self.assertGreater(self.lost(2), 0)

    def test_nodes_are_upgraded_one_after_another(self):
        for index, node in enumerate(self.cluster.nodes):
            others = 16 - self.lost(index)
            node.restart()
            self.cluster.wait()
            self.assertGreaterEqual(self.hits(self.engine), others)
            wait_until(lambda: self.refilled(self.engine), "the node takes chunks again")
        self.assertEqual(self.hits(self.engine), 16)


class S3(Case):
    def test_an_object_store_that_is_away_costs_misses(self):
        bucket = Bucket(self)
        text = self.local(recipes.engine("compose", "lmcache-s3")[0], {"minio:9000": f"127.0.0.1:{bucket.port}"})
        test = engines.adapters()
        names, objects = [key(i) for i in range(4)], [Obj(data(i)) for i in range(4)]
        with engines.lmcache(text) as adapter:
            self.assertGreater(test.store(adapter, names, objects), 0)
            bucket.server.kill()
            with self.assertLogs("kvconn"):
                self.assertEqual(test.lookup(adapter, names), [False] * 4)
                self.assertEqual(test.store(adapter, names, objects), -1)
            self.assertEqual(adapter.report_status()["state"], "lost")
            bucket.server.start()
            # moto keeps nothing.
            bucket.make()
            wait_until(lambda: test.store(adapter, names, objects) > 0, "the store is used again")
            self.assertEqual(test.lookup(adapter, names), [True] * 4)


if __name__ == "__main__":
    unittest.main()
