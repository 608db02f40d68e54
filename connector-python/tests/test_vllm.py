"""`kvconn.vllm` on classes with vLLM's interface, in the shapes of four releases. `tests/interop` drives the real ones."""

import array
import functools
import hashlib
import json
import logging
import multiprocessing
import os
import subprocess
import sys
import threading
import unittest.mock
import uuid
from pathlib import Path
from urllib.parse import quote

import kvconn
from fake_vllm import PLATFORM, VllmConfig, installed, spec
from kvconn._vllm_lookups import Lookups
from support import DEADLINE, TestCase, wait_until

RELEASES = [(0, 27), (0, 30), (0, 32), (0, 33)]
ROW = 4096
#: The names of the tier's own metrics begin with this.
OWN = "vllm:kv_offload_kvconn_"
ROWS = 32


def keys(count, name="prompt", group=0):
    """The chunks of a prompt: block hash, and 4 bytes of the group."""
    return [hashlib.sha256(f"{name}/{i}".encode()).digest() + group.to_bytes(4, "big") for i in range(count)]


class Engine:
    """A tier with a primary tier of `ROWS` rows, and the calls that vLLM's manager makes."""

    def __init__(self, test, release, tier=None, **of_spec):
        context = installed(*release)
        self.vllm = context.__enter__()
        test.addCleanup(context.__exit__, None, None, None)
        self.memory = bytearray(os.urandom(ROWS * ROW))
        self.view = memoryview(self.memory).cast("b", shape=[ROWS, ROW])
        self.jobs = 0
        # On a busy machine, an answer may take longer than the default.
        options = {"url": f"memory://{uuid.uuid4().hex}", "lookup_timeout_ms": 30_000} | (tier or {})
        self.spec = spec(release, **of_spec)
        self.tier = self.new(self.view, **options)
        test.addCleanup(self.tier.shutdown)

    def new(self, view, *detector, **options):
        # Without both of these, kvconn warns.
        vllm_config = VllmConfig()  # noqa: F841
        with unittest.mock.patch.dict(os.environ, PYTHONHASHSEED="0"):
            return self.vllm.tier.KvconnTier(self.spec, view, "kvconn", *detector, **options)

    def job(self, names, rows, is_load, request="r"):
        self.jobs += 1
        (field,) = {"chunk_ids", "block_ids"} & set(self.vllm.Job.__dataclass_fields__)
        job = self.vllm.Job(
            job_id=self.jobs, keys=names, is_promotion=is_load, req_context=self.vllm.ReqContext(request), **{field: array.array("i", rows)}
        )
        (self.tier.submit_load if is_load else self.tier.submit_store)(job)
        return job.job_id

    def results(self, count=1):
        found = []
        wait_until(lambda: found.extend(self.tier.get_finished_jobs()) or len(found) >= count, f"{count} results")
        return found

    def look(self, names, request="r"):
        """The answers after one question."""
        context = self.vllm.ReqContext(request)

        found = []

        def answered():
            found[:] = [self.tier.lookup(key, context).name for key in names]
            self.tier.on_schedule_end(None)
            return "RETRY" not in found

        wait_until(answered, "answers")
        return found

    def row(self, index):
        return bytes(self.memory[index * ROW : (index + 1) * ROW])


def each_release(test):
    """Runs a test with an engine of each release."""

    @functools.wraps(test)
    def run(self):
        for release in RELEASES:
            with self.subTest(release=release):
                test(self, functools.partial(Engine, self, release))
                self.doCleanups()

    return run


class EachRelease(TestCase):
    @each_release
    def test_rows_go_to_the_store_and_come_back_to_other_rows(self, new):
        engine = new()
        names = keys(8)
        self.assertEqual(engine.look(names), ["MISS"] * 8)
        stored = engine.job(names, range(8), False)
        self.assertTrue(engine.tier.has_pending_work())
        (result,) = engine.results()
        self.assertEqual((result.job_id, result.success), (stored, True))
        self.assertFalse(engine.tier.has_pending_work())
        self.assertEqual(engine.look(names, "another"), ["HIT"] * 8)
        loaded = engine.job(names, range(16, 24), True)
        (result,) = engine.results()
        self.assertEqual((result.job_id, result.success), (loaded, True))
        self.assertEqual([engine.row(i) for i in range(8)], [engine.row(i) for i in range(16, 24)])
        fields = {"transfer_time": float, "transfer_bytes": int}
        for name, kind in fields.items():
            if name in type(result).__dataclass_fields__:
                self.assertIsInstance(getattr(result, name), kind)
        self.assertEqual(getattr(result, "transfer_bytes", 8 * ROW), 8 * ROW)

    @each_release
    def test_a_load_of_a_part_keeps_the_part_and_ends_the_questions_for_the_rest(self, new):
        engine = new()
        names = keys(4)
        engine.job(names, range(4), False)
        engine.results()
        self.assertEqual(engine.look(names), ["HIT"] * 4)
        engine.job([*names[:2], *keys(1, "lost"), names[3]], range(8, 12), True)
        self.look_for_lost(engine)
        (result,) = engine.results()
        self.assertFalse(result.success)
        if "successful_keys" in type(result).__dataclass_fields__:
            self.assertEqual(result.successful_keys, (names[0], names[1], names[3]))
        self.assertEqual(engine.row(11), engine.row(3))
        # A miss for this request without a question, and unknown to another one.
        context = engine.vllm.ReqContext("r")
        self.assertEqual(engine.tier.lookup(keys(1, "lost")[0], context).name, "MISS")
        self.assertEqual(engine.tier.lookup(names[0], context).name, "HIT")
        self.assertEqual(engine.tier.lookup(keys(1, "lost")[0], engine.vllm.ReqContext("s")).name, "RETRY")

    def look_for_lost(self, engine):
        """The request has seen the chunk as a hit before it vanished."""
        engine.tier._lookups._requests["r"][keys(1, "lost")[0]] = True

    @each_release
    def test_a_load_of_nothing_has_no_successful_keys(self, new):
        engine = new()
        engine.job(keys(3, "absent"), range(3), True)
        before = [engine.row(i) for i in range(3)]
        (result,) = engine.results()
        self.assertFalse(result.success)
        self.assertIsNone(getattr(result, "successful_keys", None))
        self.assertEqual([engine.row(i) for i in range(3)], before)

    @each_release
    def test_jobs_without_keys_succeed(self, new):
        engine = new()
        submitted = [engine.job([], [], is_load) for is_load in (False, True)]
        self.assertEqual({(result.job_id, result.success) for result in engine.results(2)}, {(job, True) for job in submitted})

    @each_release
    def test_a_job_may_have_its_keys_in_a_set(self, new):
        engine = new()
        names = set(keys(5))
        order = list(names)
        engine.job(names, range(5), False)
        engine.results()
        engine.job(order, range(10, 15), True)
        engine.results()
        self.assertEqual([engine.row(i) for i in range(5)], [engine.row(i) for i in range(10, 15)])

    @each_release
    def test_drained_jobs_are_all_reported(self, new):
        engine = new()
        submitted = [engine.job(keys(4, f"drained {i}"), range(4 * i, 4 * i + 4), False) for i in range(6)]
        engine.tier.drain_jobs()
        self.assertEqual(sorted(result.job_id for result in engine.tier.get_finished_jobs()), submitted)
        self.assertFalse(engine.tier.has_pending_work())

    @each_release
    def test_groups_have_chunks_of_their_own(self, new):
        engine = new()
        engine.job(keys(3, group=1), range(3), False)
        engine.results()
        self.assertEqual(engine.look(keys(3, group=0)), ["MISS"] * 3)
        self.assertEqual(engine.look(keys(3, group=1)), ["HIT"] * 3)

    @each_release
    def test_shutdown_gives_the_view_back(self, new):
        engine = new()
        engine.job(keys(4), range(4), False)
        engine.tier.shutdown()
        engine.tier.shutdown()
        engine.view.release()

    @each_release
    def test_a_store_that_fails_to_close_is_logged_and_gives_the_view_back(self, new):
        server = self.redis()
        front, back = f"memory://{uuid.uuid4().hex}", f"redis://127.0.0.1:{server.port}"
        engine = new(tier={"url": f"tiered://?front={quote(front, safe='')}&back={quote(back, safe='')}&mode=write_back"})
        server.kill()
        engine.job(keys(1), range(1), False)
        engine.results()
        with self.assertLogs("kvconn.vllm", "ERROR") as logged:
            engine.tier.shutdown()
        self.assertIn("the back store lacks 1 chunks", logged.output[0])
        engine.view.release()

    @each_release
    def test_a_tier_that_does_not_open_gives_the_view_back(self, new):
        engine = new()
        view = memoryview(engine.memory).cast("b", shape=[ROWS, ROW])
        for options in ({"url": "nowhere://h"}, {"url": "memory://a", "lookup_timeout_ms": "soon"}, {}):
            with self.assertRaises(kvconn.KvconnError):
                engine.new(view, **options)
        view.release()

    @each_release
    def test_a_wrong_class_name_is_answered_with_the_right_one(self, new):
        with self.assertRaisesRegex(AttributeError, "'KvConnTier'; it has KvconnTier"):
            new().vllm.tier.KvConnTier

    @each_release
    def test_metrics_are_defined_and_count_what_is_new(self, new):
        engine = new()
        defined = engine.vllm.tier.KvconnTier.build_metric_definitions({})
        own = {name.removeprefix(OWN): metadata for name, metadata in defined.items() if name.startswith(OWN)}
        # Each is a name of the client's.
        self.assertLessEqual(own.keys(), set(engine.tier._client.stats()))
        self.assertEqual({metadata.labelnames for metadata in own.values()}, {("tier",)})
        engine.tier.get_stats()
        self.assertIsNone(engine.tier.get_stats())
        for _ in range(2):
            engine.job(keys(4), range(4), False)
            engine.results()
            stats = engine.tier.get_stats()
            self.assertEqual(stats.counters["vllm:kv_offload_kvconn_stored_bytes", ("kvconn",)], 4 * ROW)
            self.assertLessEqual({name for name, _ in [*stats.counters, *stats.gauges]}, set(defined))

    @each_release
    def test_the_metrics_of_each_call_are_reported_once_a_second(self, new):
        name = uuid.uuid4().hex
        engine = new(tier={"url": f"memory://{name}"})
        defined = engine.vllm.tier.KvconnTier.build_metric_definitions({})
        self.assertEqual(defined["kvconn_calls"].labelnames, ("connector", "instance", "operation", "result"))
        self.assertEqual(defined["kvconn_call_seconds"].buckets[-1], 60)
        reports = engine.vllm.tier._vllm_metrics.REPORTS
        for jobs in (1, 2, 0):
            for _ in range(jobs):
                engine.job(keys(4), range(4), False)
                engine.results()
            reports._next = 0
            stats = engine.tier.get_stats() or engine.vllm.OffloadingConnectorStats()
            # A second tier of this process, within the second.
            again = engine.vllm.OffloadingConnectorStats()
            reports.add_to(again)
            self.assertTrue(again.is_empty())
            self.assertLessEqual({name for name, _ in [*stats.counters, *stats.gauges, *stats.observed]}, set(defined))
            calls = {labels: n for (metric, labels), n in stats.counters.items() if metric == "kvconn_calls" and {name, "batched_put"} <= {*labels}}
            self.assertEqual(len(calls), 1 if jobs else 0)
            for labels, count in calls.items():
                self.assertEqual(labels[-1], "ok")
                self.assertEqual(len(stats.observed["kvconn_call_seconds", labels[:-1]]), count)
                self.assertEqual(stats.counters["kvconn_bytes", labels[:-1]], 4 * ROW * jobs)

    @each_release
    def test_a_child_of_fork_reports_from_zero(self, new):
        name = uuid.uuid4().hex
        engine = new(tier={"url": f"memory://{name}"})
        engine.job(keys(4), range(4), False)
        engine.results()
        reports = engine.vllm.tier._vllm_metrics.REPORTS
        reports._next = 0
        engine.tier.get_stats()

        def child(out):
            stats = engine.vllm.OffloadingConnectorStats()
            reports.add_to(stats)
            out.put(({**stats.counters}, reports._numbers))

        processes = multiprocessing.get_context("fork")
        out = processes.SimpleQueue()
        process = processes.Process(target=child, args=(out,))
        process.start()
        counters, numbers = out.get()
        process.join(DEADLINE)
        self.assertTrue(all(n > 0 for n in counters.values()), counters)
        self.assertFalse([labels for _, labels in numbers if ("instance", name) in labels])

    @each_release
    def test_events_say_what_was_stored_whole(self, new):
        for on_here, on_there in ((True, True), (True, False), (False, True)):
            with self.assertLogs("kvconn.vllm", "INFO") as logged:
                engine = new(tier={"enable_kv_events": on_here, "locality": "LOCAL"}, events=on_there)
            self.assertEqual(any("--kv-events-config" in line for line in logged.output), on_here and not on_there)
            names = keys(3)
            engine.job(names, range(3), False)
            engine.results()
            engine.job(names, range(3), True)
            engine.results()
            events = list(engine.tier.take_events())
            self.assertEqual(list(engine.tier.take_events()), [])
            if not (on_here and on_there):
                self.assertEqual(events, [])
                continue
            (event,) = events
            self.assertEqual((event.keys, event.medium.name, event.removed, event.locality.name), (names, "STORAGE", False, "LOCAL"))

    @each_release
    def test_a_detector_reaches_the_base_class_that_takes_one(self, new):
        engine = new()
        if hasattr(engine.tier, "bp_detector"):
            view = memoryview(engine.memory).cast("b", shape=[ROWS, ROW])
            tier = engine.new(view, "detector", url="memory://detector")
            self.assertEqual(tier.bp_detector, "detector")
            tier.shutdown()


class Files(TestCase):
    def test_vllms_layout_has_vllms_names_and_its_description(self):
        folder = self.directory()
        for tier in ({"url": f"fs://{folder}?layout=vllm"}, {"url": f"fs://{folder}", "layout": "vllm"}):
            with self.subTest(tier=tier), self.assertLogs("kvconn", "WARNING"):
                engine = Engine(self, (0, 32), tier=tier, rank=3)
                (name,) = keys(1, "files", group=2)
                engine.job([name], [5], False)
                engine.results()
                (described,) = Path(folder).rglob("config.json")
                self.assertEqual(json.loads(described.read_text()), {"model_name": "org/model", "blocks_per_file": 1})
                self.assertRegex(described.parent.name, "^org_model_[0-9a-f]{12}$")
                file = Path(f"{described.parent}_r3", name.hex()[:3], f"{name.hex()[3:5]}_g2", f"{name[:-4].hex()}.bin")
                self.assertEqual(file.read_bytes(), engine.row(5))
                # A file of another length is a miss, and a description stays.
                file.write_bytes(b"short")
                described.write_text("{}")
                engine.job([name], [6], True)
                self.assertFalse(engine.results()[0].success)
                engine.tier.shutdown()
                described.write_text(json.dumps({"model_name": "org/model", "blocks_per_file": 1}))

    def test_vllms_description_is_where_the_store_has_the_files(self):
        folder = self.directory()
        external = "external://h:0/kvconn.fs/?connector_name=FSConnector&layout=vllm"
        behind = quote(f"fs://{folder}/behind?layout=vllm", safe="")
        for at, tier in (
            ("external", {"url": f"{external}&base_path={folder}/external"}),
            ("external/team", {"url": f"{external}&base_path={folder}/external", "namespace": "team"}),
            ("option", {"url": external, "base_path": f"{folder}/option"}),
            ("url/team", {"url": f"fs://{folder}/url?layout=vllm&namespace=team"}),
            ("tier/team", {"url": f"fs://{folder}/tier", "layout": "vllm", "namespace": "team"}),
            ("100%25", {"url": f"fs://{folder}/100%25?layout=vllm"}),
            ("variable", {"url": "fs://?base_path=${KV_FOLDER}/variable", "layout": "${KV_LAYOUT}"}),
            ("behind", {"url": f"tiered://?front=memory%3A%2F%2F{uuid.uuid4().hex}&back={behind}"}),
        ):
            variables = unittest.mock.patch.dict(os.environ, KV_FOLDER=str(folder), KV_LAYOUT="vllm")
            with self.subTest(at=at), variables, self.assertLogs("kvconn", "WARNING"):
                before = set(Path(folder).rglob("config.json"))
                engine = Engine(self, (0, 32), tier=tier)
                engine.job(keys(2), [5, 6], False)
                self.assertTrue(engine.results()[0].success)
                engine.tier.shutdown()
                (described,) = set(Path(folder).rglob("config.json")) - before
                self.assertEqual(described.parent.parent, Path(folder, at))
                self.assertEqual(len([*Path(folder, at).glob(f"{described.parent.name}_r0/*/*/*.bin")]), 2)

    def test_only_the_fs_store_has_vllms_names(self):
        with self.assertLogs("kvconn", "INFO") as logged:
            Engine(self, (0, 32), tier={"layout": "vllm"})
        logged = "\n".join(logged.output)
        self.assertIn("unknown option `layout`", logged)
        self.assertRegex(logged, r"the model `vllm\+org/model\+[0-9a-f]{32}`")

    def test_a_store_that_does_not_open_gets_no_files(self):
        folder = self.directory()
        with self.assertRaises(kvconn.InvalidError):
            Engine(self, (0, 32), tier={"url": f"fs://{folder}/new", "layout": "vllm", "fsync": "sometimes"})
        self.assertEqual([], os.listdir(folder))

    def test_a_namespace_that_vllms_files_cannot_have_is_refused(self):
        behind = quote(f"fs://{self.directory()}?layout=vllm", safe="")
        with self.assertRaisesRegex(kvconn.InvalidError, "namespace"):
            Engine(self, (0, 32), tier={"url": f"tiered://?front=memory%3A%2F%2Fx&back={behind}", "namespace": "team"})


class Questions(TestCase):
    def test_all_lookups_of_a_step_are_one_question(self):
        engine = Engine(self, (0, 32))
        names = keys(64)
        for request in ("a", "b"):
            for key in names:
                engine.tier.lookup(key, engine.vllm.ReqContext(request))
        engine.tier.on_schedule_end(None)
        self.assertEqual(engine.look(names, "a"), ["MISS"] * 64)
        self.assertEqual(engine.look(names, "b"), ["MISS"] * 64)
        stats = engine.tier._client.stats()
        self.assertEqual((stats["lookups"], stats["lookup_keys"]), (1, 64))

    def test_a_miss_is_known_to_its_request_only(self):
        engine = Engine(self, (0, 32))
        names = keys(2)
        self.assertEqual(engine.look(names, "a"), ["MISS"] * 2)
        engine.job(names, range(2), False)
        engine.results()
        self.assertEqual(engine.look(names, "b"), ["HIT"] * 2)
        self.assertEqual(engine.look(names, "a"), ["MISS"] * 2)
        engine.tier.on_request_finished(engine.vllm.ReqContext("a"))
        self.assertEqual(engine.look(names, "a"), ["HIT"] * 2)

    def test_an_answer_after_its_request_has_no_effect(self):
        lookups = Lookups()
        self.assertIsNone(lookups.ask(b"k", "a"))
        tag, names = lookups.question()
        self.assertEqual(names, [b"k"])
        lookups.finish("a")
        # The same id again: another request, which waits for the same question.
        self.assertIsNone(lookups.ask(b"k", "a"))
        self.assertIsNone(lookups.question())
        lookups.finish("a")
        lookups.answer(tag, b"\1")
        self.assertIsNone(lookups.ask(b"k", "a"))
        self.assertEqual(lookups.question(), (tag + 1, [b"k"]))

    def test_a_failed_load_wins_over_a_later_answer(self):
        lookups = Lookups()
        lookups.ask(b"k", "a")
        tag, _ = lookups.question()
        lookups.missed("a", [b"k"])
        lookups.answer(tag, b"\1")
        self.assertIs(lookups.ask(b"k", "a"), False)
        lookups.missed("gone", [b"k"])
        self.assertIsNone(lookups.ask(b"k", "gone"))

    def test_a_server_that_does_not_answer_is_a_miss_and_holds_no_call(self):
        server = self.redis()
        engine = Engine(self, (0, 32), tier={"url": f"redis://127.0.0.1:{server.port}", "lookup_timeout_ms": 50, "io_timeout_ms": 500})
        names = keys(2)
        engine.job(names, range(2), False)
        engine.results()
        server.process.send_signal(19)
        try:
            self.assertEqual(engine.look(names, "while it is stopped"), ["MISS"] * 2)
        finally:
            server.process.send_signal(18)
        wait_until(lambda: engine.look(names, uuid.uuid4().hex) == ["HIT"] * 2, "the server is used again")


class Options(TestCase):
    def refused(self, *words, **options):
        view = memoryview(bytearray(ROWS * ROW)).cast("b", shape=[ROWS, ROW])
        with installed(0, 32) as vllm, self.assertRaises(kvconn.KvconnError) as caught:
            vllm.tier.KvconnTier(spec(), view, "kvconn", **options)
        self.assertIsInstance(caught.exception, ValueError)
        for word in words:
            self.assertIn(word, str(caught.exception))

    def test_wrong_values_are_refused_by_name(self):
        self.refused("no `url`", '"url"')
        self.refused("option `url`", "int", url=5)
        self.refused("option `locality`", "NEAR", "LOCAL", url="memory://a", locality="NEAR")
        self.refused("option `locality`", "LOCAL", url="memory://a", locality=[])
        self.refused("option `enable_kv_events`", "true", url="memory://a", enable_kv_events="yes")
        self.refused("option `namespace`", url="memory://a", namespace=5)
        self.refused("`lookup_timeout_ms`", "soon", url="memory://a", lookup_timeout_ms="soon")

    def test_a_namespace_keeps_engines_apart_on_every_store(self):
        server, folder = self.redis(), self.directory()
        for url in (f"redis://127.0.0.1:{server.port}", f"fs://{folder}", "memory://shared", "tiered://?front=memory%3A%2F%2Fa&back=memory%3A%2F%2Fb"):
            with self.subTest(url=url), self.assertNoLogs("kvconn", "WARNING"):
                one = Engine(self, (0, 32), tier={"url": url, "namespace": "one"})
                one.job(keys(2), range(2), False)
                one.results()
                for namespace, found in (("one", "HIT"), ("two", "MISS"), ("", "MISS")):
                    other = Engine(self, (0, 32), tier={"url": url, "namespace": namespace})
                    self.assertEqual(other.look(keys(2)), [found] * 2)

    def test_a_password_that_vllm_would_log_is_warned_of_and_not_shown(self):
        server = self.redis()
        for options, warned in (
            ({"url": f"redis://:s3cret@127.0.0.1:{server.port}"}, True),
            ({"url": f"redis://127.0.0.1:{server.port}", "password": "s3cret"}, True),
            ({"url": f"redis://:${{KVCONN_TEST}}@127.0.0.1:{server.port}"}, False),
        ):
            with (
                self.subTest(options=options),
                unittest.mock.patch.dict(os.environ, KVCONN_TEST="s3cret"),
                unittest.mock.patch("kvconn._identity._warned", set()),
                self.assertLogs("kvconn", "INFO") as logged,
            ):
                Engine(self, (0, 32), tier=options)
            self.assertEqual(any("has a secret" in line for line in logged.output), warned, logged.output)
            self.assertNotIn("s3cret", "".join(logged.output))

    def test_vllms_old_tiers_are_one_sentence(self):
        code = (
            "import sys, types\n"
            "for name in ('vllm', 'vllm.v1'): sys.modules[name] = types.ModuleType(name); sys.modules[name].__path__ = []\n"
            "import kvconn.vllm"
        )
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        self.assertIn("ImportError: `kvconn.vllm` needs vLLM 0.27 to 0.33", ended.stderr)

    def test_a_missing_vllm_is_one_sentence_with_its_command(self):
        code = (
            "import sys\n"
            "class Absent:\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            "        if name == 'vllm': raise ModuleNotFoundError('no vLLM', name=name)\n"
            "sys.meta_path.insert(0, Absent())\n"
            "import kvconn.vllm"
        )
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        self.assertIn("pip install 'kvconn[vllm]'", ended.stderr)


class Plugin(TestCase):
    def test_it_registers_once_and_twice(self):
        for release in RELEASES:
            with installed(*release) as vllm, self.assertNoLogs("kvconn"):
                vllm.plugin.register()
                vllm.plugin.register()
                self.assertEqual(vllm.SecondaryTierFactory._registry, {"kvconn": ("kvconn.vllm", "KvconnTier")})

    def test_another_owner_of_the_name_is_a_log_line(self):
        with installed(0, 32) as vllm, self.assertLogs("kvconn.vllm", "WARNING") as logged:
            vllm.SecondaryTierFactory.register_tier("kvconn", "other", "Tier")
            vllm.plugin.register()
        self.assertIn("already registered", logged.output[0])
        self.assertIn("`module_path`: `kvconn.vllm`", logged.output[0])

    def test_without_vllm_it_does_nothing_and_starts_nothing(self):
        code = (
            "import os, sys\n"
            "import kvconn._vllm_plugin as plugin\n"
            "plugin.register()\n"
            "engines = {'vllm', 'torch', 'numpy', 'lmcache', 'sglang', 'asyncio', 'kvconn.vllm', 'kvconn._vllm_identity'}\n"
            "print(sorted(engines & sys.modules.keys()), len(os.listdir('/proc/self/task')))"
        )
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
        self.assertEqual((ended.stdout, ended.stderr), ("[] 1\n", ""))


class Identity(TestCase):
    def setUp(self):
        context = installed(0, 32)
        self.vllm = context.__enter__()
        self.addCleanup(context.__exit__, None, None, None)

    def identify(self, row=ROW, namespace="", revision="", settings=None, **changes):
        # kvconn reads it from here: vLLM's scheduler has a local of this name, too.
        vllm_config = VllmConfig(**(settings or {}))  # noqa: F841
        with self.quiet():
            return self.vllm.identity.identify(spec(**changes), row, namespace, revision)

    def quiet(self):
        return unittest.mock.patch.object(logging.getLogger("kvconn.vllm"), "disabled", True)

    def test_replicas_share(self):
        self.assertEqual(self.identify(), self.identify())
        self.assertEqual(self.identify(engine_id="other", data_parallel_index=3), self.identify())
        self.assertRegex(self.identify().model, r"^vllm\+org/model\+[0-9a-f]{32}$")

    def test_each_difference_of_the_layout_is_apart(self):
        changes = {
            "model": "org/other", "dtype": "float16", "tokens_per_hash": 32, "blocks_per_chunk": 2, "layers": ("l.0",),
            "tokens_per_block": 32, "group_id": 1, "worker_kv_bytes_per_block": 2048, "replicated_layout": True,
            "canonical_layout": True, "kv_cache_layout": "LBHNC", "world_size": 2, "tp_size": 2, "pp_size": 2, "pcp_size": 2,
            "dcp_size": 2,
        }  # fmt: skip
        found = [self.identify(**{name: value}).model for name, value in changes.items()]
        found += [self.identify().model, self.identify(row=2 * ROW).model, self.identify(namespace="a").model, self.identify(revision="a").model]
        for variable in ("PYTHONHASHSEED", "VLLM_KV_CACHE_LAYOUT", "VLLM_ROCM_SHUFFLE_KV_CACHE_LAYOUT"):
            with unittest.mock.patch.dict(os.environ, {variable: "1"}):
                found.append(self.identify().model)
        for name, value in {"device_type": "cpu", "is_rocm": lambda: True, "fp8_dtype": lambda: "torch.float8_e4m3fnuz"}.items():
            with unittest.mock.patch.object(PLATFORM, name, value):
                found.append(self.identify().model)
        self.assertEqual(len(set(found)), len(found))

    def test_each_difference_of_vllms_configuration_is_apart(self):
        paths = self.vllm.identity._SETTINGS
        found = {path: self.identify(settings={path: "one"}).model for path in paths}
        self.assertEqual(len(set(found.values()) | {self.identify().model}), len(paths) + 1)
        for path in paths:
            if path == "cache_config.calculate_kv_scales":
                continue
            self.assertEqual(self.identify(settings={path: "one"}).model, found[path])
            self.assertNotEqual(self.identify(settings={path: "two"}).model, found[path])
        scales = [self.identify(settings={"model_config.override_generation_config": {"attn_temperature_tuning": on}}) for on in (0, 1)]
        self.assertNotEqual(*scales)
        self.assertEqual(self.identify(settings={"model_config.override_generation_config": {"temperature": 1}}), self.identify())
        dummy = [self.identify(settings={"load_config.load_format": "dummy", "model_config.seed": seed}).model for seed in (0, 1)]
        self.assertEqual(len({*dummy, self.identify().model}), 3)

    def test_scales_of_one_process_are_for_that_process(self):
        settings = {"cache_config.calculate_kv_scales": True}
        self.assertNotEqual(self.identify(settings=settings, engine_id="a"), self.identify(settings=settings, engine_id="b"))

    def test_values_that_are_not_json_are_equal_in_every_process(self):
        class Backend:
            pass

        def overrides(config):
            return config

        for value in ({"a": [1, (2.5, None)]}, {"b", "a"}, overrides, Backend(), threading.Lock):
            one, two = (self.identify(settings={"model_config.hf_overrides": value}).model for _ in range(2))
            self.assertEqual(one, two)
        other = self.identify(settings={"model_config.hf_overrides": Backend()}).model
        self.assertEqual(self.identify(settings={"model_config.hf_overrides": Backend()}).model, other)

    def test_ranks_are_apart_unless_every_parallelism_has_the_same_bytes(self):
        two = {"world_size": 2, "tp_size": 2}
        self.assertEqual(self.identify(rank=1, **two).kv_rank, 1)
        shared = {"is_parallelism_agnostic": True, "canonical_layout": True}
        self.assertEqual(self.identify(rank=1, **two, **shared, worker_kv_bytes_per_block=2048), self.identify(**shared))
        # Without the canonical layout, a row has all layers of one worker before those of the next one.
        alone = {"is_parallelism_agnostic": True}
        self.assertNotEqual(self.identify(**two, **alone, worker_kv_bytes_per_block=2048).model, self.identify(**alone).model)
        copies = {"replicated_layout": True}
        self.assertEqual(self.identify(rank=1, **two, **copies), self.identify(**copies))

    def test_a_path_is_warned_of_once_and_replaced_by_a_namespace(self):
        one, two = self.directory() + "/llama", self.directory() + "/llama"
        for path in (one, two):
            Path(path).mkdir()
        with self.assertLogs("kvconn.vllm", "WARNING") as logged:
            for _ in range(2):
                vllm_config = VllmConfig()  # noqa: F841
                self.vllm.identity.identify(spec(model=one), ROW, "", "")
            self.vllm.identity.identify(spec(model=two), ROW, "prod", "")
            self.vllm.identity.identify(spec(model=two), ROW, "", "7")
        self.assertEqual(len(logged.output), 1)
        self.assertIn(one, logged.output[0])
        self.assertEqual(self.identify(model=one, namespace="prod"), self.identify(model=two, namespace="prod"))
        self.assertNotEqual(self.identify(model=one, revision="1"), self.identify(model=two, revision="1"))

    def test_a_snapshot_of_hugging_face_is_its_model_and_revision(self):
        revision = "0123456789abcdef0123456789abcdef01234567"

        def snapshot(home, revision=revision):
            vllm_config = VllmConfig()  # noqa: F841
            return self.vllm.identity.identify(spec(model=f"{home}/hub/models--org--model-8b/snapshots/{revision}"), ROW, "", "").model

        with self.assertNoLogs("kvconn.vllm", "WARNING"), unittest.mock.patch.dict(os.environ, PYTHONHASHSEED="0"):
            one = snapshot("/home/alice/.cache/huggingface")
            self.assertEqual(snapshot("/data"), one)
            self.assertNotEqual(snapshot("/data", revision[::-1]), one)
        self.assertRegex(one, r"^vllm\+org/model-8b\+[0-9a-f]{32}$")
        self.assertNotEqual(self.identify(model="org/model-8b").model, one)

    def test_hashes_that_other_processes_do_not_have_are_warned_of(self):
        wanted = {((0, 27), "sha256"): True, ((0, 27), "xxhash"): True, ((0, 32), "sha256"): False, ((0, 32), "sha256_cbor"): False,
                  ((0, 32), "xxhash"): True, ((0, 33), "xxhash_cbor"): True}  # fmt: skip
        without = {name: value for name, value in os.environ.items() if name != "PYTHONHASHSEED"}
        for (release, algorithm), is_random in wanted.items():
            for seed in ({}, {"PYTHONHASHSEED": "0"}):
                with (
                    installed(*release) as vllm,
                    unittest.mock.patch.dict(os.environ, without | seed, clear=True),
                    unittest.mock.patch("kvconn._identity._warned", set()),
                    self.assertLogs("kvconn.vllm", "WARNING") as logged,
                ):
                    logging.getLogger("kvconn.vllm").warning("so that there is one")
                    vllm_config = vllm.VllmConfig(**{"cache_config.prefix_caching_hash_algo": algorithm})  # noqa: F841
                    vllm.identity.identify(spec(release), ROW, "", "")
                warned = [line for line in logged.output if "PYTHONHASHSEED" in line]
                self.assertEqual(bool(warned), is_random and not seed, (release, algorithm, seed))

    def test_without_vllms_configuration_it_warns(self):
        with unittest.mock.patch("kvconn._identity._warned", set()), self.assertLogs("kvconn.vllm", "WARNING") as logged:
            self.vllm.identity.identify(spec(), ROW, "", "")
        self.assertIn("does not see vLLM's configuration", logged.output[0])
