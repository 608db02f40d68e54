"""The names of SGLang's pages: which ranks and configurations share them."""

import logging
import os
import sys
import types
import unittest
from dataclasses import replace
from unittest import mock

import kvconn
import sglang_case
import sglang_fakes as fakes
from sglang_case import PAGE, Case, fill, flat, indices, key, keys
from sglang_fakes import Config, MambaPoolHost, MHATokenToKVPoolHost, MLATokenToKVPoolHost, PoolName, PoolTransfer


def setUpModule():
    sglang_case.start()


def tearDownModule():
    sglang_case.stop()


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

    def test_a_rank_never_loads_another_ranks_heads_of_a_draft_from_files(self):
        folder = self.directory()
        self.url = f"fs://{folder}?layout=sglang"
        for ranks, found in ((1, [True]), (2, [True, False])):
            drafts = [MHATokenToKVPoolHost() for _ in range(ranks)]
            made = [
                self.open(MLATokenToKVPoolHost(), {PoolName.DRAFT: draft}, is_mla_model=True, tp_size=ranks, tp_rank=rank)
                for rank, draft in enumerate(drafts)
            ]
            transfer = PoolTransfer(PoolName.DRAFT, indices(1), keys(1))
            made[0].batch_set_v2([transfer])
            self.assertEqual([one.batch_get_v2([transfer])[PoolName.DRAFT] for one in made], [[hit] for hit in found])
        # The names of SGLang's file backend, except for the draft of several ranks.
        self.assertEqual(sorted(os.listdir(folder)), [f"{key(0)}.draft_org-model.bin", f"{key(0)}.draft_org-model_0_2.bin"])


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
                    {"device_pool": types.SimpleNamespace(dtype="torch.float8_e4m3fn")},
                    {"device_pool": types.SimpleNamespace(dtype="torch.float8_e4m3fnuz")},
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
                (model, "load_format", "dummy"),
                (serving, "weight_version", "step-2"),
            ]:
                before = getattr(where, name, None)
                setattr(where, name, value)
                one = self.model()
                self.assertNotIn(one, found, name)
                found.add(one)
                setattr(where, name, before)
            self.assertEqual(self.model(), base)
            # The weights are the same.
            model.load_format = "safetensors"
            self.assertEqual(self.model(), base)

    def test_names_without_sglangs_configuration_are_warned_of(self):
        with mock.patch.dict(sys.modules, {"sglang.srt.runtime_context": None}), self.assertLogs("kvconn.sglang", logging.WARNING) as logs:
            self.open()
        self.assertIn("set `namespace`", logs.output[0])

    def test_another_release_has_other_names(self):
        found = []
        for release in ("0.5.23", "0.5.24.post1", "0.6.0"):
            with mock.patch.object(sglang_case.names, "version", return_value=release):
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
            self.assertEqual(sglang_case.names.file_suffix(one, each_rank), wanted)


if __name__ == "__main__":
    unittest.main()
