"""`kvconn.sglang` with a wrong configuration, and on a store that fails."""

import importlib
import json
import logging
import os
import unittest
from unittest import mock

import sglang_case
import sglang_fakes as fakes
from kvconn import InvalidError
from sglang_case import Case, indices, key, keys
from sglang_fakes import Config, MHATokenToKVPoolHost, PoolName, PoolTransfer
from support import run_child, wait_until


def setUpModule():
    sglang_case.start()


def tearDownModule():
    sglang_case.stop()


class Configuration(Case):
    def test_wrong_values_name_their_key(self):
        for options, named in [
            ({"url": None}, "`url` is missing"),
            ({"url": ""}, "`url` is missing"),
            ({"url": 6379}, "`url` is int, not text"),
            ({"revision": 3}, "`revision`"),
            ({"namespace": 3}, "`namespace`"),
            ({"lookup_timeout_ms": "soon"}, "lookup_timeout_ms"),
            ({"timeout_ms": -5}, "timeout_ms"),
            ({"layout": "sglang", "revision": "a"}, "`revision`"),
        ]:
            with self.subTest(options=options):
                with self.assertRaises(InvalidError) as caught:
                    self.open(options=options)
                self.assertIn(named, str(caught.exception))

    def test_keys_of_sglang_are_not_options(self):
        of_sglang = {
            "backend_name": "kvconn",
            "module_path": "kvconn.sglang",
            "class_name": "KvconnHiCache",
            "prefetch_threshold": 1,
            "prefetch_timeout_base": 1,
            "prefetch_timeout_per_ki_token": 0.25,
            "hicache_storage_pass_prefix_keys": True,
            "tp_lcm_size": 4,
        }
        with self.assertNoLogs("kvconn", logging.WARNING):
            self.open(options=of_sglang)
        with self.assertLogs("kvconn", logging.WARNING) as logs:
            self.open(options={**of_sglang, "lookup_timeout": 4})
        self.assertEqual(len(logs.output), 1)
        self.assertIn("lookup_timeout_ms", logs.output[0])

    def test_a_password_is_warned_of_and_not_shown(self):
        # Another thread logs this, and must not do so in the next test.
        is_away = lambda: any("does not answer" in text for text in logs.output)
        with self.assertLogs("kvconn", logging.WARNING) as logs:
            self.open(options={"url": "redis://:s3cret@127.0.0.1:1"})
            wait_until(is_away, "a warning")
        self.assertTrue(any("password_file" in text for text in logs.output), logs.output)
        self.assertNotIn("s3cret", "".join(logs.output))
        with mock.patch.dict(os.environ, {"KVCONN_TEST_SECRET": "s3cret"}), self.assertLogs("kvconn", logging.WARNING) as logs:
            logging.getLogger("kvconn").warning("one")
            self.open(options={"url": f"redis://:{'${KVCONN_TEST_SECRET}'}@127.0.0.1:1"})
            wait_until(is_away, "a warning")
        self.assertFalse(any("password_file" in text or "s3cret" in text for text in logs.output), logs.output)

    def test_options_reach_the_store(self):
        made = self.open(options={"url": f"memory://{self.id()}-small", "capacity": 1})
        with self.assertLogs("kvconn", logging.WARNING) as logs:
            self.assertEqual(made.batch_set_v1(keys(1), indices(1)), [False])
            # SGLang shows no reason, so the log must. The line comes from another thread.
            # The stores of other tests may log, too.
            refusals = lambda: [text for text in logs.output if "the store refuses chunks" in text]
            wait_until(refusals, "a warning")
        self.assertIn("capacity", refusals()[0])

    def test_the_extra_config_is_not_changed(self):
        config = Config({"url": self.url, "revision": "a", "interface_v1": 1})
        before = json.dumps(config.extra_config)
        sglang_case.backend.KvconnHiCache(config, {})
        self.assertEqual(json.dumps(config.extra_config), before)


class Faults(Case):
    def calls(self, made):
        """Every call that a thread of SGLang makes, with its answer for no pages."""
        transfers = [PoolTransfer(PoolName.KV, indices(2), keys(2))]
        none = {PoolName.KV: [False] * 2}
        tensors = [fakes.Tensor(bytes(192)) for _ in range(2)]
        return [
            (made.batch_get_v1, (keys(2), indices(2)), [False] * 2),
            (made.batch_set_v1, (keys(2), indices(2)), [False] * 2),
            (made.batch_exists, (keys(2),), 0),
            (made.batch_get_v2, (transfers,), none),
            (made.batch_set_v2, (transfers,), none),
            (made.batch_exists_v2, (keys(2), transfers), fakes.PoolTransferResult.empty()),
            (made.get, (key(0), tensors[0]), None),
            (made.batch_get, (keys(2), tensors), [None] * 2),
            (made.set, (key(0), tensors[0]), False),
            (made.batch_set, (keys(2), tensors), False),
            (made.exists, (key(0),), False),
            (made.clear, (), False),
        ]

    def assert_no_pages(self, made):
        for call, arguments, wanted in self.calls(made):
            found = call(*arguments)
            if isinstance(wanted, fakes.PoolTransferResult):
                found, wanted = found.kv_hit_pages, wanted.kv_hit_pages
            self.assertEqual(found, wanted, call.__name__)

    def test_calls_before_the_pools_are_there(self):
        self.assert_no_pages(sglang_case.backend.KvconnHiCache(Config({"url": self.url}), {}))

    def test_calls_after_the_close(self):
        made = self.open()
        made.batch_set_v1(keys(2), indices(2))
        made.close()
        made.close()
        self.assert_no_pages(made)

    def test_calls_on_a_pool_that_raises(self):
        pool = MHATokenToKVPoolHost()
        made = self.open(pool)
        made.batch_set_v1(keys(2), indices(2))
        with mock.patch.object(pool, "get_page_buffer_meta", side_effect=RuntimeError("gone")):
            self.assertEqual(made.batch_get_v1(keys(2), indices(2)), [False] * 2)
            self.assertEqual(made.batch_set_v1(keys(2), indices(2)), [False] * 2)

    def test_calls_on_a_lost_server(self):
        server = self.redis()
        made = self.open(options={"url": f"resp://127.0.0.1:{server.port}"})
        self.assertEqual(made.batch_set_v1(keys(2), indices(2)), [True] * 2)
        server.kill()
        self.assert_no_pages(made)

    def test_calls_on_a_stopped_server(self):
        server = self.redis()
        options = {"timeout_ms": 2000, "lookup_timeout_ms": 500, "breaker_failures": 1}
        made = self.open(options={"url": f"resp://127.0.0.1:{server.port}", **options})
        self.assertEqual(made.batch_set_v1(keys(2), indices(2)), [True] * 2)
        server.stop_answering()
        self.assert_no_pages(made)

    def test_registering_again_opens_again(self):
        made = self.open()
        made.batch_set_v1(keys(1), indices(1))
        made.register_mem_pool_host(MHATokenToKVPoolHost())
        self.assertEqual(made.batch_exists(keys(1)), 1)

    def test_clear_removes_only_its_own(self):
        made, other = self.open(), self.open(model_name="other")
        self.store.put("a+b@00000000@0@ff", b"foreign")
        for one in (made, other):
            one.batch_set_v1(keys(3), indices(3))
        self.assertTrue(made.clear())
        self.assertEqual((made.batch_exists(keys(3)), other.batch_exists(keys(3)), len(self.stored())), (0, 3, 7))

    def test_stats_are_sglangs(self):
        made = self.open(enable_storage_metrics=True)
        made.batch_set_v1(keys(3), indices(3))
        made.batch_get_v1(keys(4), indices(4))
        made.batch_get_v1(keys(1, start=50), indices(1))
        stats = made.get_stats()
        self.assertEqual((stats.backup_pgs, stats.prefetch_pgs), ([3], [3]))
        self.assertTrue(all(speed > 0 for speed in stats.backup_bandwidth + stats.prefetch_bandwidth))
        self.assertEqual(made.get_stats().backup_pgs, [])
        self.assertIsNone(self.open().get_stats())

    def test_without_sglang_the_import_says_so(self):
        code = "try:\n import kvconn.sglang\nexcept ImportError as e:\n print(e)"
        self.assertIn("pip install sglang", run_child(code))

    def test_another_version_of_sglang_is_one_warning(self):
        for found, warnings in [("0.5.23", 0), ("0.5.23+cpu", 0), ("0.6.1", 1)]:
            with mock.patch("importlib.metadata.version", return_value=found), self.assertLogs("kvconn.sglang", logging.WARNING) as logs:
                logging.getLogger("kvconn.sglang").warning("one")
                importlib.reload(sglang_case.backend)
            self.assertEqual(len(logs.output) - 1, warnings, logs.output)
        self.assertIn("0.6.1", logs.output[-1])


if __name__ == "__main__":
    unittest.main()
