"""`kvconn.metrics`, and the pages of `prometheus_client`."""

import json
import os
import random
import subprocess
import sys
import tempfile
import unittest
import urllib.request
from unittest import mock

import kvconn
from kvconn import _kvconn, _libraries, _metrics
from prometheus_client import CollectorRegistry, Gauge, generate_latest, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families
from support import TestCase, engine_key, object_key, wait_until


def values(name, **labels):
    """The samples of a metric that have these labels."""
    samples = kvconn.metrics()[name]
    return [sample for sample in samples if labels.items() <= sample["labels"].items()]


def value(name, **labels):
    [sample] = values(name, **labels)
    return sample["value"]


class Counted(TestCase):
    def test_calls_hits_misses_bytes_and_times_are_counted(self):
        with kvconn.connect("memory://counted-here") as store:
            store.put(engine_key(1), bytes(1000))
            for key in (1, 1, 2):
                store.get(engine_key(key))
        where = {"connector": "kvconn.memory/MemoryConnector", "instance": "counted-here"}
        got = {**where, "operation": "get"}
        self.assertEqual(value("kvconn_calls_total", **got, result="ok"), 3)
        self.assertEqual((value("kvconn_hits_total", **got), value("kvconn_misses_total", **got)), (2, 1))
        self.assertEqual(value("kvconn_bytes_total", **got), 2000)
        self.assertEqual(value("kvconn_bytes_total", **where, operation="put"), 1000)
        self.assertEqual(value("kvconn_calls_in_flight", **got), 0)
        [seconds] = values("kvconn_call_seconds", **got)
        self.assertEqual((seconds["value"], seconds["buckets"]["+Inf"]), (3, 3))
        self.assertEqual([*seconds["buckets"]], [*_metrics.LE])
        self.assertEqual(sorted(seconds["buckets"].values()), [*seconds["buckets"].values()])
        self.assertGreater(seconds["sum"], 0)

    def test_errors_have_their_kind(self):
        store = kvconn.connect("memory://errors-here")
        store.close()
        with self.assertRaises(kvconn.ClosedError):
            store.get(engine_key(1))
        self.assertEqual(value("kvconn_errors_total", instance="errors-here", operation="get", kind="closed"), 1)

    def test_each_sample_has_the_labels_that_the_list_names(self):
        with kvconn.connect("memory://labels-here") as store:
            store.get(engine_key(1))
        recorded = 0
        for family in _metrics.families():
            for labels in [*family.numbers, *family.histograms]:
                if family.name.startswith("kvconn_"):
                    self.assertEqual([name for name, _ in labels], sorted(family.labels), family.name)
                    recorded += 1
            self.assertTrue(family.help.endswith("."), family)
        self.assertGreater(recorded, 5)

    def test_the_dict_is_json_and_has_every_metric(self):
        shown = json.loads(json.dumps(kvconn.metrics()))
        self.assertEqual(shown.keys(), kvconn.metrics().keys())
        for name in ("kvconn_calls_total", "kvconn_breaker_open", "kvconn_pool_in_use_bytes", "kvconn_node_requests_total"):
            self.assertIsInstance(shown[name], list)

    def test_pools_are_counted_while_a_chunk_holds_memory(self):
        with kvconn.connect("fs://" + self.directory(), pool_bytes=1 << 20) as store:
            store.put(engine_key(1), bytes(5000))
            before = value("kvconn_pool_in_use_bytes")
            chunk = store.get(engine_key(1))
            self.assertEqual(value("kvconn_pool_in_use_bytes") - before, 8192)
            self.assertGreaterEqual(value("kvconn_pool_capacity_bytes"), 1 << 20)
            del chunk

    def test_no_sample_shows_a_secret(self):
        with self.assertRaises(kvconn.KvconnError):
            kvconn.connect("redis://user:hunter2@127.0.0.1:1/0?timeout_ms=100").get(engine_key(1))
        with kvconn.connect("redis://user:hunter2@127.0.0.1:1/0?connect=lazy&timeout_ms=500") as store:
            with self.assertRaises(kvconn.KvconnError):
                store.get(engine_key(1))
        self.assertTrue(values("kvconn_errors_total", connector="kvconn.redis/RedisConnector"))
        self.assertNotIn("hunter2", json.dumps(kvconn.metrics()))

    def test_the_queues_of_engines_are_counted(self):
        key = object_key(1)
        for _ in range(2):
            client = _kvconn.EngineClient("memory://engined-here", {"lookup_timeout_ms": 30_000}, engine="sglang")
            self.assertEqual(client.store([key], buffers=[bytes(100)]), [True])
            self.assertEqual(client.load([key], buffers=[bytearray(99)]), [False])
            client.close()
            # The last owner of the queue records what is new.
            del client
        where = {"connector": "kvconn.memory/MemoryConnector", "instance": "engined-here"}
        wait_until(lambda: values("kvconn_engine_stale_keys_total", **where), "the queue is recorded")
        wait_until(lambda: value("kvconn_engine_stale_keys_total", **where) == 2, "both queues are recorded")
        self.assertEqual([sample["value"] for sample in values("kvconn_engine_pinned_bytes", **where)] or [0.0], [0.0])

    def test_libraries_are_added_up(self):
        with kvconn.connect("memory://twice-here") as store:
            store.get(engine_key(1))
        with mock.patch.object(_libraries, "_libraries", [_kvconn, _kvconn]):
            self.assertEqual(value("kvconn_misses_total", instance="twice-here", operation="get"), 2)
            [seconds] = values("kvconn_call_seconds", instance="twice-here", operation="get")
            self.assertEqual((seconds["value"], seconds["buckets"]["+Inf"]), (2, 2))

    def test_a_child_of_fork_starts_at_zero(self):
        with kvconn.connect("memory://forked-here") as store:
            store.get(engine_key(1))
            pid = os.fork()
            if pid == 0:
                ok = False
                try:
                    ok = not values("kvconn_calls_total")
                    with kvconn.connect("memory://forked-here") as mine:
                        mine.get(engine_key(1))
                    ok = ok and value("kvconn_misses_total", instance="forked-here", operation="get") == 1
                finally:
                    os._exit(0 if ok else 1)
            self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)
            self.assertEqual(value("kvconn_misses_total", instance="forked-here", operation="get"), 1)

    def test_an_import_loads_no_other_package(self):
        code = "import sys, kvconn; kvconn.metrics(); print([m for m in ('prometheus_client', 'numpy', 'torch') if m in sys.modules])"
        self.assertEqual(subprocess.check_output([sys.executable, "-c", code], text=True).strip(), "[]")


class Page(TestCase):
    def test_a_page_shows_what_the_dict_has(self):
        registry = CollectorRegistry()
        kvconn.export_prometheus(registry)
        kvconn.export_prometheus(registry)
        with kvconn.connect("memory://paged") as store:
            store.put(engine_key(1), b"chunk")
            store.get(engine_key(1))
        server, thread = start_http_server(0, "127.0.0.1", registry)
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=30) as answer:
                text = answer.read().decode()
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
        shown = {family.name: family for family in text_string_to_metric_families(text)}
        for family in _metrics.families():
            page = shown[family.base]
            self.assertEqual((page.type, page.documentation), (family.kind, family.help))
        got = {"connector": "kvconn.memory/MemoryConnector", "instance": "paged", "operation": "get"}
        self.assertIn(("kvconn_hits_total", got, 1.0), [sample[:3] for sample in shown["kvconn_hits"].samples])
        [seconds] = values("kvconn_call_seconds", **got)
        samples = [sample for sample in shown["kvconn_call_seconds"].samples if got.items() <= sample.labels.items()]
        buckets = {sample.labels["le"]: sample.value for sample in samples if sample.name.endswith("_bucket")}
        self.assertEqual(buckets, seconds["buckets"])
        plain = {sample.name: sample.value for sample in samples if "le" not in sample.labels}
        self.assertEqual(plain, {"kvconn_call_seconds_count": 1.0, "kvconn_call_seconds_sum": seconds["sum"]})

    def test_a_registry_with_these_names_is_refused(self):
        registry = CollectorRegistry()
        Gauge("kvconn_breaker_open", "Another metric of this name.", registry=registry)
        with self.assertRaisesRegex(ValueError, "kvconn_breaker_open"):
            kvconn.export_prometheus(registry)

    def test_open_metrics_have_units(self):
        from prometheus_client.openmetrics.exposition import generate_latest as open_metrics

        registry = CollectorRegistry()
        kvconn.export_prometheus(registry)
        text = open_metrics(registry).decode()
        for line in ("# UNIT kvconn_call_seconds seconds", "# UNIT kvconn_bytes bytes", "# TYPE kvconn_calls counter"):
            self.assertIn(line + "\n", text)


#: Opens a store, forks a child that does the same, and ends both.
PROCESS = """
import os, sys, kvconn
from prometheus_client import REGISTRY, generate_latest

def work(misses):
    kvconn.export_prometheus()
    with kvconn.connect("memory://many") as store:
        for i in range(misses):
            store.get(f"m@1@0@{i + 1:x}@bfloat16")

work(2)
pid = os.fork()
if pid == 0:
    work(3)
    # `os._exit` would skip the last write.
    sys.exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert 'kvconn_misses_total{connector="kvconn.memory/MemoryConnector",instance="many",operation="get"} 2.0' in generate_latest(REGISTRY).decode()
"""


class ManyProcesses(TestCase):
    def test_a_page_of_another_process_shows_the_sum(self):
        with tempfile.TemporaryDirectory() as folder:
            environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": folder}
            for _ in range(2):
                done = subprocess.run([sys.executable, "-c", PROCESS], env=environment, capture_output=True, text=True, timeout=120)
                self.assertEqual((done.returncode, done.stderr), (0, ""))
            registry = CollectorRegistry()
            MultiProcessCollector(registry, folder)
            families = {family.name: family for family in text_string_to_metric_families(generate_latest(registry).decode())}
        got = {"connector": "kvconn.memory/MemoryConnector", "instance": "many", "operation": "get"}
        of = {(s.name, s.labels.get("le")): s.value for f in families.values() for s in f.samples if got.items() <= s.labels.items()}
        self.assertEqual(of["kvconn_misses_total", None], 10)
        self.assertEqual((of["kvconn_call_seconds_count", None], of["kvconn_call_seconds_bucket", "+Inf"]), (10, 10))
        self.assertEqual(of["kvconn_calls_in_flight", None], 0)
        self.assertEqual(families["kvconn_misses"].documentation, next(f.help for f in _metrics.families() if f.name == "kvconn_misses_total"))

    def test_a_directory_that_is_missing_is_an_error(self):
        environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": "/does/not/exist"}
        code = "import kvconn; kvconn.connect('memory://x').list(); kvconn.export_prometheus()"
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
        self.assertIn("FileNotFoundError", done.stderr)


class Observations(unittest.TestCase):
    """Buckets that vLLM takes as observations."""

    def test_observations_have_the_buckets_and_the_sum_of_what_was_recorded(self):
        import bisect

        from fake_vllm import installed

        with installed(0, 32):
            from kvconn._vllm_metrics import observations
        for seed in range(200):
            source = random.Random(seed)
            recorded = [10 ** source.uniform(-6, source.choice((-3, 1, 3))) for _ in range(source.randrange(50))]
            counts = [0] * len(_metrics.LE)
            for seconds in recorded:
                counts[bisect.bisect_left(_metrics.BOUNDS, seconds)] += 1
            given = [*observations(counts, sum(recorded))]
            again = [0] * len(_metrics.LE)
            for seconds in given:
                again[bisect.bisect_left(_metrics.BOUNDS, seconds)] += 1
            self.assertEqual(again, counts, seed)
            if counts[-1] == 0:
                self.assertAlmostEqual(sum(given), sum(recorded), delta=1e-6 * (1 + sum(recorded)))


if __name__ == "__main__":
    unittest.main()
