"""`kvconn.sglang` on fakes of SGLang's interface."""

import hashlib
import importlib
import itertools
import json
import logging
import os
import random
import sys
import threading
import types
import unittest
from dataclasses import replace
from unittest import mock

import kvconn
import sglang_fakes as fakes
from kvconn import InvalidError
from sglang_fakes import Config, Indices, MambaPoolHost, MHATokenToKVPoolHost, MLATokenToKVPoolHost, PoolHitPolicy, PoolName, PoolTransfer
from support import TestCase, run_child

PAGE = 4
# A busy machine may need longer than the default for a question.
PATIENT = {"lookup_timeout_ms": 30_000}
_patched = mock.patch.dict(sys.modules, fakes.modules())
# Without any handler, Python prints warnings.
_silent = logging.NullHandler()


def setUpModule():
    _patched.start()
    logging.getLogger().addHandler(_silent)
    global backend, names, hits
    backend = importlib.import_module("kvconn.sglang")
    names = importlib.import_module("kvconn._sglang_names")
    hits = importlib.import_module("kvconn._sglang_hits")


def tearDownModule():
    sys.modules.pop("kvconn.sglang", None)
    logging.getLogger().removeHandler(_silent)
    _patched.stop()


def key(i):
    return hashlib.sha256(str(i).encode()).hexdigest()


def keys(count, start=0):
    return [key(i) for i in range(start, start + count)]


def indices(pages, page_size=PAGE, first=0):
    return Indices(range(first * page_size, (first + pages) * page_size))


def fill(pool, pages, seed=0):
    """Writes bytes of each page, and gives them."""
    found = []
    for page in range(pages):
        data = random.Random(f"{seed} {page}").randbytes(sum(pool.parts))
        pool.set_from_flat_data_page(page * pool.page_size, fakes.Tensor(data))
        found.append(data)
    return found


def flat(pool, pages, first=0):
    return [bytes(pool.get_data_page(page * pool.page_size)) for page in range(first, first + pages)]


class Case(TestCase):
    def setUp(self):
        self.url = f"memory://{self.id()}"
        # The memory of a name is there as long as one store of that name is open.
        self.store = kvconn.connect(self.url)
        self.addCleanup(self.store.close)

    def open(self, pool=None, sidecars=None, **config):
        options = config.pop("options", {})
        made = backend.KvconnHiCache(Config({"url": self.url, "interface_v1": 1, **PATIENT, **options}, **config), {})
        self.addCleanup(made.close)
        made.register_mem_pool_host(pool if pool is not None else MHATokenToKVPoolHost())
        for name, side in (sidecars or {}).items():
            made.register_mem_host_pool_v2(side, name)
        return made

    def stored(self):
        return sorted(self.store.list())

    def model(self, **config):
        """The model field of the names."""
        with self.subTest(**config):
            made = self.open(**config)
            made.batch_set_v1(keys(1), indices(1))
            model = self.stored()[0].split("@")[0]
            made.clear()
            self.assertEqual(self.stored(), [])
            return model


class Pages(Case):
    def test_pages_come_back_in_every_layout(self):
        for kind, layout in itertools.product((MHATokenToKVPoolHost, MLATokenToKVPoolHost), ("layer_first", "page_first", "page_first_direct")):
            with self.subTest(kind=kind.__name__, layout=layout):
                pool = kind(layout)
                made = self.open(pool, is_mla_model=kind is MLATokenToKVPoolHost)
                data = fill(pool, 3)
                self.assertEqual(made.batch_set_v1(keys(3), indices(3)), [True] * 3)
                self.assertEqual(made.batch_exists(keys(4)), 3)
                self.assertEqual(made.batch_get_v1(keys(4), indices(4, first=3)), [True] * 3 + [False])
                self.assertEqual(flat(pool, 3, first=3), data)

    def test_the_two_interfaces_share_pages(self):
        for kind, layout in itertools.product((MHATokenToKVPoolHost, MLATokenToKVPoolHost), ("layer_first", "page_first")):
            with self.subTest(kind=kind.__name__, layout=layout):
                pool = kind(layout)
                made = self.open(pool, is_mla_model=kind is MLATokenToKVPoolHost)
                data = fill(pool, 2)
                self.assertEqual(made.batch_set_v1(keys(2), indices(2)), [True] * 2)
                targets = [pool.get_dummy_flat_data_page() for _ in range(3)]
                read = made.batch_get(keys(3), targets)
                self.assertEqual([page and bytes(page) for page in read], [*data, None])
                self.assertIs(read[0], targets[0])
                self.assertEqual(bytes(made.get(key(1))), data[1])
                self.assertTrue(made.batch_set(keys(2, start=10), [fakes.Tensor(page) for page in data]))
                self.assertEqual(made.batch_get_v1(keys(2, start=10), indices(2, first=4)), [True] * 2)
                self.assertEqual(flat(pool, 2, first=4), data)
                self.assertTrue(made.set(key(20), fakes.Tensor(data[0])))
                self.assertEqual((made.exists(key(20)), made.exists(key(21))), (True, False))

    def test_objects_of_a_page(self):
        for pool, groups in [
            (MHATokenToKVPoolHost(), 2),
            (MHATokenToKVPoolHost("layer_first"), 1),
            (MLATokenToKVPoolHost(), 1),
            (fakes.HostPool([8] * 4), 4),
            (fakes.HostPool([8] * 9), 1),
            (fakes.FlatPool([16, 8]), 1),
        ]:
            with self.subTest(pool=type(pool).__name__, parts=pool.parts):
                made = self.open(pool)
                fill(pool, 1)
                made.batch_set_v1(keys(1), indices(1))
                found = [text.split("@") for text in self.stored()]
                self.assertEqual([parts[1:] for parts in found], [["00000000", f"{group:x}", key(0)] for group in range(groups)])
                self.assertRegex(found[0][0], r"^sglang\+org/model\+[0-9a-f]{32}$")
                made.clear()

    def test_only_whole_pages_count(self):
        pool = MHATokenToKVPoolHost()
        made = self.open(pool)
        fill(pool, 3)
        made.batch_set_v1(keys(3), indices(3))
        self.store.remove(next(text for text in self.stored() if text.split("@")[2:] == ["1", key(1)]))
        self.assertEqual(made.batch_exists(keys(3)), 1)
        self.assertEqual(made.batch_get_v1(keys(3), indices(3)), [True, False, True])

    def test_a_page_of_another_length_is_a_miss(self):
        pool = MHATokenToKVPoolHost()
        made = self.open(pool)
        made.batch_set_v1(keys(1), indices(1))
        self.store.put(self.stored()[0], b"short")
        self.assertEqual(made.batch_get_v1(keys(1), indices(1)), [False])

    def test_a_pool_without_addresses_is_copied(self):
        pool = fakes.FlatPool([48, 16])
        made = self.open(pool)
        data = fill(pool, 2)
        self.assertEqual(made.batch_set_v1(keys(2), indices(2)), [True] * 2)
        kept = flat(pool, 1, first=5)
        self.assertEqual(made.batch_get_v1(keys(3), indices(3, first=3)), [True, True, False])
        self.assertEqual(flat(pool, 2, first=3), data)
        self.assertEqual(flat(pool, 1, first=5), kept)

    def test_memory_of_another_size_moves_nothing(self):
        made = self.open()
        for call in (made.batch_set_v1, made.batch_get_v1):
            self.assertEqual(call(keys(2), indices(1)), [False] * 2)
            self.assertEqual(call(keys(1), None), [False])
        self.assertFalse(made.set(key(0), fakes.Tensor(b"too short")))
        self.assertIsNone(made.get(key(0), fakes.Tensor(b"too short")))
        on_a_gpu = fakes.Tensor(bytes(192))
        on_a_gpu.is_cpu = False
        self.assertFalse(made.set(key(0), on_a_gpu))
        self.assertEqual(self.stored(), [])

    def test_no_pages(self):
        made = self.open()
        self.assertEqual(made.batch_set_v1([], indices(0)), [])
        self.assertEqual(made.batch_get_v1([], indices(0)), [])
        self.assertEqual((made.batch_exists([]), made.batch_get([]), made.batch_set([], [])), (0, [], True))

    def test_keys_that_are_not_hex_are_hashed(self):
        self.assertEqual(names.hash_of("0af9"), "0af9")
        for text in ("0AF9", "0af", "", "key.mamba", "ab" * 33):
            self.assertEqual(names.hash_of(text), hashlib.sha256(text.encode()).hexdigest())
        made = self.open()
        made.batch_set_v1(["a page"], indices(1))
        self.assertTrue(made.exists("a page"))

    def test_a_pool_that_cannot_be_stored_fails_the_attach(self):
        class Unstorable(fakes.FlatPool):
            def get_data_page(self, index, flat=True):
                raise NotImplementedError("scales are elsewhere")

        with self.assertRaisesRegex(InvalidError, r"`kv` \(Unstorable, layout page_first\).*no zero-copy"):
            self.open(Unstorable([8]))
        with self.assertRaisesRegex(InvalidError, "shards"):
            self.open(MHATokenToKVPoolHost(shard_size=2))

    def test_three_threads(self):
        pool = MHATokenToKVPoolHost(pages=12)
        made = self.open(pool)
        data = fill(pool, 4)
        made.batch_set_v1(keys(4), indices(4))
        failed, ends = [], threading.Event()

        def work(call, wanted):
            while not ends.is_set():
                if call() != wanted:
                    failed.append(call)

        calls = [
            (lambda: made.batch_exists(keys(5)), 4),
            (lambda: made.batch_set_v1(keys(4, start=50), indices(4)), [True] * 4),
        ]
        threads = [threading.Thread(target=work, args=call) for call in calls]
        for thread in threads:
            thread.start()
        for _ in range(50):
            self.assertEqual(made.batch_get_v1(keys(4), indices(4, first=8)), [True] * 4)
            self.assertEqual(flat(pool, 4, first=8), data)
        ends.set()
        for thread in threads:
            thread.join()
        self.assertEqual(failed, [])


class Hybrid(Case):
    def test_pools_have_names_of_their_own(self):
        pool, state = MHATokenToKVPoolHost(), MambaPoolHost()
        made = self.open(pool, {PoolName.KV: pool, PoolName.MAMBA: state})
        data, states = fill(pool, 3), fill(state, 1, seed=1)
        transfers = [
            PoolTransfer(PoolName.MAMBA, indices(1, 1), [key(2)], PoolHitPolicy.TRAILING_PAGES),
            PoolTransfer(PoolName.KV, indices(3), keys(3)),
        ]
        self.assertEqual(made.batch_set_v2(transfers), {PoolName.MAMBA: [True], PoolName.KV: [True] * 3})
        salts = {text.split("@")[4] for text in self.stored() if text.count("@") == 4}
        self.assertEqual(len(salts), 1)
        self.assertRegex(salts.pop(), r"^mamba-[0-9a-f]{11}$")
        self.assertEqual(made.batch_get_v1(keys(3), indices(3, first=4)), [True] * 3)
        self.assertEqual(flat(pool, 3, first=4), data)
        read = made.batch_get_v2([PoolTransfer(PoolName.MAMBA, indices(1, 1, first=5), [key(2)])])
        self.assertEqual(read, {PoolName.MAMBA: [True]})
        self.assertEqual(flat(state, 1, first=5), states)

    def test_a_pool_that_was_not_registered_has_no_pages(self):
        made = self.open()
        made.batch_set_v1(keys(2), indices(2))
        transfer = PoolTransfer(PoolName.SWA, indices(2), keys(2))
        self.assertEqual(made.batch_set_v2([transfer]), {PoolName.SWA: [False] * 2})
        self.assertEqual(made.batch_get_v2([transfer]), {PoolName.SWA: [False] * 2})
        found = made.batch_exists_v2(keys(2), [transfer])
        self.assertEqual((found.kv_hit_pages, found.extra_pool_hit_pages, found.restorable_prefix_pages), (0, {PoolName.KV: 2}, []))

    def test_a_length_mismatch_is_all_false(self):
        made = self.open(sidecars={PoolName.MAMBA: MambaPoolHost()})
        transfer = PoolTransfer(PoolName.MAMBA, indices(1, 1), keys(2))
        self.assertEqual(made.batch_set_v2([transfer]), {PoolName.MAMBA: [False] * 2})
        self.assertEqual(made.batch_get_v2([replace(transfer, host_indices=None)]), {PoolName.MAMBA: [False] * 2})
        self.assertEqual(self.stored(), [])

    def test_questions_answer_as_the_policies_say(self):
        state, index = MambaPoolHost(), MLATokenToKVPoolHost()
        made = self.open(sidecars={PoolName.MAMBA: state, PoolName.INDEXER: index})
        made.batch_set_v1(keys(6), indices(6))
        for at in (1, 4):
            made.batch_set_v2([PoolTransfer(PoolName.MAMBA, indices(1, 1), [key(at)])])
        made.batch_set_v2([PoolTransfer(PoolName.INDEXER, indices(5), keys(5))])
        trailing = PoolTransfer(PoolName.MAMBA, keys=["?"], hit_policy=PoolHitPolicy.TRAILING_PAGES)
        whole = PoolTransfer(PoolName.INDEXER)
        for transfers, kv, pools, restorable in [
            (None, 6, {}, [1, 2, 3, 4, 5, 6]),
            ([trailing], 5, {PoolName.MAMBA: 5}, [2, 5]),
            ([whole], 5, {PoolName.INDEXER: 5}, [1, 2, 3, 4, 5]),
            ([trailing, whole], 5, {PoolName.MAMBA: 5, PoolName.INDEXER: 5}, [2, 5]),
            ([replace(trailing, keys=["?", "?"])], 0, {}, []),
        ]:
            found = made.batch_exists_v2(keys(8), transfers)
            self.assertEqual(found.kv_hit_pages, kv)
            self.assertEqual(found.extra_pool_hit_pages, {PoolName.KV: 6, **pools})
            self.assertEqual(found.restorable_prefix_pages, restorable)
        self.assertEqual(made.batch_exists_v2(keys(3, start=90), [trailing]).kv_hit_pages, 0)

    def test_block_groups_never_gate_the_pages(self):
        made = self.open(sidecars={PoolName.INDEXER: MLATokenToKVPoolHost()})
        made.batch_set_v1(keys(6), indices(6))
        made.batch_set_v2([PoolTransfer(PoolName.INDEXER, indices(3), keys(3, start=20))])
        blocks = PoolTransfer(PoolName.INDEXER, None, keys(6, start=20), PoolHitPolicy.BLOCK_GROUPS, block_pages=4, group_pages=2)
        found = made.batch_exists_v2(keys(6), [blocks])
        self.assertEqual((found.kv_hit_pages, found.extra_pool_hit_pages), (6, {PoolName.KV: 6, PoolName.INDEXER: 4}))

    def test_trailing_windows_as_defined(self):
        for present in itertools.product((True, False), repeat=6):
            for window in (1, 2, 3, 9):
                wanted = {end for end in range(1, 7) if all(present[max(0, end - window) : end])}
                self.assertEqual(hits.trailing_pages(present, window), wanted)
            self.assertEqual(max(hits.all_pages(present), default=0), hits.leading(present))

    def test_an_anchor_without_memory_leaves_the_answer_to_the_others(self):
        index = MLATokenToKVPoolHost()
        made = self.open(fakes.LogicalHostPool(), {PoolName.INDEXER: index}, is_mla_model=True)
        self.assertEqual(made.batch_set_v1(keys(3), indices(3)), [True] * 3)
        self.assertEqual(made.batch_get_v1(keys(3), indices(3)), [True] * 3)
        self.assertEqual((made.batch_exists(keys(3)), self.stored()), (0, []))
        made.batch_set_v2([PoolTransfer(PoolName.INDEXER, indices(2), keys(2))])
        self.assertEqual(made.batch_exists_v2(keys(3), [PoolTransfer(PoolName.INDEXER)]).kv_hit_pages, 2)


class Ranks(Case):
    def test_each_rank_has_pages_of_its_own(self):
        for sizes in [{"tp_size": 3}, {"pp_size": 3}, {"attn_cp_size": 3}]:
            (size,) = sizes
            made = [self.open(**sizes, **{size.replace("size", "rank"): rank}) for rank in range(3)]
            for rank, one in enumerate(made):
                self.assertEqual(one.batch_exists(keys(1)), 0)
                fill(one.mem_pool_host, 1, seed=rank)
                one.batch_set_v1(keys(1), indices(1))
            for rank, one in enumerate(made):
                self.assertEqual(one.batch_get_v1(keys(1), indices(1, first=3)), [True])
                self.assertEqual(flat(one.mem_pool_host, 1, first=3), flat(one.mem_pool_host, 1))
            self.assertEqual({text.split("@")[1] for text in self.stored()}, {"00000000", "00000001", "00000002"})
            made[0].clear()
            self.assertEqual(self.stored(), [])

    def test_mla_has_one_copy_and_one_writer(self):
        made = [self.open(MLATokenToKVPoolHost(), is_mla_model=True, tp_size=2, tp_rank=rank) for rank in range(2)]
        self.assertEqual(made[1].batch_set_v1(keys(1), indices(1)), [True])
        self.assertTrue(made[1].batch_set(keys(1), [made[1].mem_pool_host.get_data_page(0)]))
        self.assertEqual(self.stored(), [])
        data = fill(made[0].mem_pool_host, 1)
        made[0].batch_set_v1(keys(1), indices(1))
        self.assertEqual(made[1].batch_get_v1(keys(1), indices(1)), [True])
        self.assertEqual(flat(made[1].mem_pool_host, 1), data)
        # Any number of ranks has the same bytes.
        other = self.open(MLATokenToKVPoolHost(), is_mla_model=True, tp_size=8, tp_rank=5)
        self.assertEqual(other.batch_exists(keys(1)), 1)

    def test_states_are_of_each_rank_beside_mla(self):
        made = [
            self.open(MLATokenToKVPoolHost(), {PoolName.MAMBA: MambaPoolHost()}, is_mla_model=True, tp_size=size, tp_rank=rank)
            for size, rank in ((2, 0), (2, 1), (4, 1))
        ]
        transfer = PoolTransfer(PoolName.MAMBA, indices(1, 1), keys(1))
        self.assertEqual(made[1].batch_set_v2([transfer]), {PoolName.MAMBA: [True]})
        found = [one.batch_get_v2([transfer])[PoolName.MAMBA] for one in made]
        self.assertEqual(found, [[False], [True], [False]])

    def test_shards_of_decode_context_parallelism(self):
        shards = {"is_mla_model": True, "tp_size": 4, "dcp_size": 2, "logical_page_size": 8}
        made = [self.open(MLATokenToKVPoolHost(), tp_rank=rank, dcp_rank=rank % 2, **shards) for rank in range(4)]
        for one in made:
            one.batch_set_v1(keys(1), indices(1))
        self.assertEqual([text.split("@")[1] for text in self.stored()], ["00000000", "00000001"])
        self.assertEqual([one.batch_exists(keys(1)) for one in made], [1] * 4)

    def test_a_draft_with_heads_beside_mla_is_warned_of(self):
        with self.assertLogs("kvconn.sglang", logging.WARNING) as logs:
            self.open(MLATokenToKVPoolHost(), {PoolName.DRAFT: MHATokenToKVPoolHost()}, is_mla_model=True, tp_size=2)
        self.assertIn("first rank only", logs.output[0])


class Identity(Case):
    def test_each_fact_changes_the_names(self):
        base = self.model()
        self.assertEqual(self.model(), base)
        found = {base}
        for config in [
            {"tp_size": 2},
            {"pp_size": 2},
            {"attn_cp_size": 2},
            {"model_name": "org/other"},
            {"is_mla_model": True},
            {"options": {"revision": "a"}},
            {"options": {"revision": "b"}},
            {"options": {"namespace": "a"}},
            *(
                {"pool": MHATokenToKVPoolHost(**geometry)}
                for geometry in [
                    {"layout": "page_first_direct"},
                    {"layout": "layer_first"},
                    {"dtype": "float16"},
                    {"page_size": 8},
                    {"head_num": 4},
                    {"head_dim": 4},
                    {"v_head_dim": 4},
                    {"start_layer": 1},
                    {"storage_format_tag": "other"},
                    {"size": 48},
                    {"_buffer_infos": [types.SimpleNamespace(buffers=types.SimpleNamespace(layout="hnd"))]},
                ]
            ),
            {"pool": fakes.HostPool([96, 96])},
        ]:
            pool = config.get("pool")
            self.url = f"memory://{self.id()}"
            made = self.open(**config)
            made.batch_set_v1(keys(1), indices(1, page_size=pool.page_size if pool else PAGE))
            (model,) = {text.split("@")[0] for text in self._all(config)}
            self.assertNotIn(model, found, config)
            found.add(model)
            made._client.clear()

    def _all(self, config):
        if "namespace" in config.get("options", {}):
            with kvconn.connect(self.url, namespace=config["options"]["namespace"]) as store:
                return list(store.list())
        return self.stored()

    def test_what_sglang_publishes_changes_the_names(self):
        model = types.SimpleNamespace(model_path="org/model", revision=None, kv_cache_dtype="fp8_e4m3", quantization=None, dtype="auto")
        serving = types.SimpleNamespace(weight_version="default")

        def unpublished():
            raise ValueError("not published")

        context = types.ModuleType("sglang.srt.runtime_context")
        context.get_model, context.get_serving, context.get_spec = lambda: model, lambda: serving, unpublished
        with mock.patch.dict(sys.modules, {context.__name__: context}):
            base = self.model()
            found = {base}
            for where, name, value in [
                (model, "kv_cache_dtype", "fp8_e5m2"),
                (model, "revision", "abc"),
                (model, "quantization", "awq"),
                (model, "dtype", "float16"),
                (model, "json_model_override_args", '{"rope_theta": 1}'),
                (model, "quantization_param_path", "scales.json"),
                (model, "model_path", "org/model-2"),
                (serving, "weight_version", "step-2"),
            ]:
                before = getattr(where, name, None)
                setattr(where, name, value)
                one = self.model()
                self.assertNotIn(one, found, name)
                found.add(one)
                setattr(where, name, before)
            self.assertEqual(self.model(), base)

    def test_names_without_sglangs_configuration_are_warned_of(self):
        with mock.patch.dict(sys.modules, {"sglang.srt.runtime_context": None}), self.assertLogs("kvconn.sglang", logging.WARNING) as logs:
            self.open()
        self.assertIn("set `namespace`", logs.output[0])

    def test_another_release_has_other_names(self):
        found = []
        for release in ("0.5.23", "0.5.24.post1", "0.6.0"):
            with mock.patch.object(names, "version", return_value=release):
                found.append(self.model())
        self.assertEqual(found[0], found[1])
        self.assertNotEqual(found[0], found[2])

    def test_pages_with_a_draft_model_have_its_name(self):
        spec = types.SimpleNamespace(speculative_draft_model_path="draft-1")
        context = types.ModuleType("sglang.srt.runtime_context")
        context.get_spec = lambda: spec
        found = []
        with mock.patch.dict(sys.modules, {context.__name__: context}):
            for path in ("draft-1", "draft-2"):
                spec.speculative_draft_model_path = path
                found.append([self.model(), self.model(pool=MHATokenToKVPoolHost(target_layer_num=2))])
        (plain_1, packed_1), (plain_2, packed_2) = found
        self.assertEqual(plain_1, plain_2)
        self.assertNotEqual(packed_1, packed_2)

    def test_a_path_does_not_name_weights(self):
        with self.assertLogs("kvconn.sglang", logging.WARNING) as logs:
            self.open(model_name="/models/of this test")
        self.assertIn("`namespace` or `revision`", logs.output[0])
        with self.assertNoLogs("kvconn.sglang", logging.WARNING):
            one = self.open(model_name="/models/a/of this test", options={"namespace": "n"})
            other = self.open(model_name="/mnt/of this test", options={"namespace": "n"})
            self.open(model_name="/models/x", options={"revision": "r"})
        one.batch_set_v1(keys(1), indices(1))
        self.assertEqual(other.batch_exists(keys(1)), 1)

    def test_the_geometry_of_a_pool_is_in_its_salt(self):
        pool = MHATokenToKVPoolHost()
        one = self.open(pool, {PoolName.MAMBA: MambaPoolHost()})
        other = self.open(pool, {PoolName.MAMBA: MambaPoolHost(num_mamba_layers=3)})
        transfer = PoolTransfer(PoolName.MAMBA, indices(1, 1), keys(1))
        one.batch_set_v2([transfer])
        self.assertEqual(one.batch_get_v2([transfer]), {PoolName.MAMBA: [True]})
        self.assertEqual(other.batch_get_v2([transfer]), {PoolName.MAMBA: [False]})

    def test_file_names_are_sglangs(self):
        config = Config({}, model_name="org/model")
        mla = replace(config, is_mla_model=True, tp_rank=3, tp_size=8)
        for one, each_rank, wanted in [
            (config, True, "org-model_0_1"),
            (replace(config, tp_rank=1, tp_size=4), True, "org-model_1_4"),
            (replace(config, pp_rank=1, pp_size=2), True, "org-model_0_1_2_1"),
            (replace(config, attn_cp_rank=1, attn_cp_size=2), True, "org-model_0_1_cp1_2"),
            (mla, False, "org-model"),
            (mla, True, "org-model_3_8"),
            (replace(mla, pp_rank=0, pp_size=2), False, "org-model_2_0"),
            (replace(mla, dcp_rank=1, dcp_size=2, logical_page_size=64), False, "org-model_tp8_dcp1_2_page64"),
            (replace(config, model_name=None), True, "_0_1"),
        ]:
            self.assertEqual(names.file_suffix(one, each_rank), wanted)


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
        with self.assertLogs("kvconn", logging.WARNING) as logs:
            self.open(options={"url": "redis://:s3cret@127.0.0.1:1"})
        self.assertTrue(any("password_file" in text for text in logs.output), logs.output)
        self.assertNotIn("s3cret", "".join(logs.output))
        with mock.patch.dict(os.environ, {"KVCONN_TEST_SECRET": "s3cret"}), self.assertLogs("kvconn", logging.WARNING) as logs:
            logging.getLogger("kvconn").warning("one")
            self.open(options={"url": f"redis://:{'${KVCONN_TEST_SECRET}'}@127.0.0.1:1"})
        self.assertFalse(any("password_file" in text or "s3cret" in text for text in logs.output), logs.output)

    def test_options_reach_the_store(self):
        made = self.open(options={"url": f"memory://{self.id()}-small", "capacity": 1})
        self.assertEqual(made.batch_set_v1(keys(1), indices(1)), [False])

    def test_the_extra_config_is_not_changed(self):
        config = Config({"url": self.url, "revision": "a", "interface_v1": 1})
        before = json.dumps(config.extra_config)
        backend.KvconnHiCache(config, {})
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
        self.assert_no_pages(backend.KvconnHiCache(Config({"url": self.url}), {}))

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
                importlib.reload(backend)
            self.assertEqual(len(logs.output) - 1, warnings, logs.output)
        self.assertIn("0.6.1", logs.output[-1])


if __name__ == "__main__":
    unittest.main()
