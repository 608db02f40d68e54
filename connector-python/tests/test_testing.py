"""kvconn.testing: the contract's checks, a store with faults, and fixtures for pytest."""

import pathlib
import pickle
import subprocess
import sys
import unittest
from textwrap import dedent

import kvconn
from kvconn.testing import ConformanceError, conformance, faulty_url
from support import DEADLINE, TestCase, engine_key, run_child


class Conformance(TestCase):
    def test_a_store_that_keeps_the_contract_gives_a_report(self):
        seen = []
        report = conformance("memory://", checks="overwriting", progress=seen.append)
        self.assertTrue(report.passed)
        self.assertEqual((report.checks, report.failures), (tuple(seen), ()))
        self.assertEqual({check.chapter for check in seen}, {"overwriting"})
        self.assertRegex(str(report), r"^\d+ passed, 0 failed, 0 skipped$")
        self.assertTrue(all(check.rule and check.why is None and check.seconds > 0 for check in seen))
        self.assertEqual(str(seen[0]), f"{seen[0].name}: passed")

    def test_checks_that_do_not_apply_are_skipped_and_said(self):
        report = conformance("memory://", checks="capabilities", capacity=1 << 30)
        self.assertTrue(report.passed and report.skipped)
        self.assertEqual(len(report.skipped), str(report).count(": skipped: "))
        self.assertTrue(all(check.why for check in report.skipped))

    def test_a_store_that_breaks_it_fails_the_test_with_the_report(self):
        with self.assertRaises(AssertionError) as raised:
            conformance("blackhole://", checks="overwriting")
        error = raised.exception
        self.assertIsInstance(error, ConformanceError)
        self.assertIn("put_replaces: failed: ", str(error))
        self.assertIn("(the rule: ", str(error))
        self.assertFalse(error.report.passed)
        self.assertEqual(str(pickle.loads(pickle.dumps(error))), str(error))

    def test_the_report_starts_with_the_cause(self):
        with self.assertRaises(ConformanceError) as raised:
            conformance("blackhole://")
        report, lines = raised.exception.report, str(raised.exception).splitlines()
        (cause,) = report.failures
        self.assertTrue(lines[0].startswith(f"{cause.name}: failed: "), lines[0])
        needing = [check for check in report.skipped if check.needs == cause.name]
        self.assertIn(f"{len(needing)} skipped: they need `{cause.name}`, which failed", lines)
        self.assertNotIn(str(needing[0]), lines)

    def test_a_store_that_cannot_be_opened_or_a_name_without_checks_is_one_error(self):
        with self.assertRaises(kvconn.KvconnError):
            conformance("nothing://h")
        with self.assertRaisesRegex(kvconn.InvalidError, "no check has 'nosuch' in its name.* overwriting"):
            conformance("memory://", checks="nosuch")
        for seconds in (0, -1, float("nan")):
            with self.assertRaisesRegex(kvconn.InvalidError, "leaves no time for a check"):
                conformance("memory://", check_timeout=seconds)

    def test_ctrl_c_ends_a_run(self):
        program = """
            import os, signal, threading
            from kvconn.testing import conformance
            seen = []
            def progress(result):
                seen.append(result)
                os.kill(os.getpid(), signal.SIGINT)
            try:
                conformance("memory://", progress=progress)
            except KeyboardInterrupt:
                print("interrupted after", len(seen))
        """
        self.assertEqual(run_child(dedent(program)), "interrupted after 1\n")


class Faults(TestCase):
    def test_an_error_rate_fails_calls_with_the_kind_in_every_run_alike(self):
        keys = [engine_key(n) for n in range(200)]
        runs = []
        for _ in range(2):
            with kvconn.connect(faulty_url("memory://", error_rate=0.2, error="timeout", operations=["put"], seed=3)) as store:
                answers = store.batched_put([(key, b"x") for key in keys], return_exceptions=True)
                runs.append([answer is None for answer in answers])
                stored = store.batched_exists(keys)
            self.assertEqual(stored, runs[-1])
            errors = [answer for answer in answers if answer is not None]
            self.assertTrue(all(isinstance(error, kvconn.TimedOutError) and error.temporary for error in errors))
            self.assertTrue(10 < len(errors) < 80, len(errors))
        self.assertEqual(*runs)

    def test_options_beside_the_url_need_no_encoding(self):
        with kvconn.connect("faulty://", back="memory://?capacity=1000000", miss_rate=1) as store:
            store.put(engine_key(1), b"x")
            self.assertIsNone(store.get(engine_key(1)))
            self.assertFalse(store.exists(engine_key(1)))

    def test_a_url_with_an_option_is_encoded(self):
        url = faulty_url("fs:///kv?timeout_ms=5&retries=2", error_rate=0.5)
        self.assertEqual(url, "faulty://?back=fs%3A%2F%2F%2Fkv%3Ftimeout_ms%3D5%26retries%3D2&error_rate=0.5")
        kvconn.connect(faulty_url(f"fs://{self.directory()}?timeout_ms=500&retries=2")).close()

    def test_one_operation_may_be_a_str(self):
        self.assertEqual(faulty_url("memory://", operations="get"), faulty_url("memory://", operations=["get"]))

    def test_a_wrong_rate_is_refused(self):
        with self.assertRaisesRegex(kvconn.InvalidError, "option `error_rate`: `2` is not a share from 0 to 1"):
            kvconn.connect(faulty_url("memory://", error_rate=2))


class Fixtures(TestCase):
    def test_the_fixtures_give_empty_stores_that_are_closed(self):
        tests = pathlib.Path(self.directory())
        (tests / "conftest.py").write_text('pytest_plugins = ["kvconn.testing.pytest_plugin"]\n')
        (tests / "test_stores.py").write_text(dedent(f"""
            import asyncio, kvconn, pytest
            KEY, opened = {engine_key(1)!r}, []

            @pytest.mark.parametrize("round", range(2))
            def test_a_store_is_empty(memory_store, memory_store_url, round):
                assert isinstance(memory_store, kvconn.Store) and not memory_store.exists(KEY)
                memory_store.put(KEY, b"hello")
                with kvconn.connect(memory_store_url) as same:
                    assert same.get(KEY) == b"hello"
                opened.append(memory_store)

            def test_asyncio(async_memory_store):
                async def use():
                    await async_memory_store.put(KEY, b"hello")
                    assert await async_memory_store.get(KEY) == b"hello"
                asyncio.run(use())
                opened.append(async_memory_store)

            def test_they_were_closed():
                assert len(opened) == 3 and all(store.closed for store in opened)
        """))
        child = subprocess.run(
            [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )
        self.assertIn("4 passed", child.stdout, child.stdout + child.stderr)

    def test_the_package_does_not_import_pytest(self):
        self.assertEqual(run_child("import sys, kvconn.testing; print('pytest' in sys.modules)"), "False\n")


if __name__ == "__main__":
    unittest.main()
