"""`kvconn.sglang` moves and finds the pages of SGLang's pools."""

import hashlib
import itertools
import threading
import unittest
from dataclasses import replace

import sglang_case
import sglang_fakes as fakes
from kvconn import InvalidError
from sglang_case import Case, fill, flat, indices, key, keys
from sglang_fakes import MambaPoolHost, MHATokenToKVPoolHost, MLATokenToKVPoolHost, PoolHitPolicy, PoolName, PoolTransfer


def setUpModule():
    sglang_case.start()


def tearDownModule():
    sglang_case.stop()


class Pages(Case):
    def test_a_wrong_class_name_is_answered_with_the_right_one(self):
        with self.assertRaisesRegex(AttributeError, "'KvconnHicache'; it has KvconnHiCache"):
            sglang_case.backend.KvconnHicache

    def test_pages_come_back_in_every_layout(self):
        kinds, layouts = (MHATokenToKVPoolHost, MLATokenToKVPoolHost), ("layer_first", "page_first", "page_first_direct")
        for kind, layout in itertools.product(kinds, layouts):
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
        self.assertEqual(sglang_case.names.hash_of("0af9"), "0af9")
        for text in ("0AF9", "0af", "", "key.mamba", "ab" * 33):
            self.assertEqual(sglang_case.names.hash_of(text), hashlib.sha256(text.encode()).hexdigest())
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
                self.assertEqual(sglang_case.hits.trailing_pages(present, window), wanted)
            self.assertEqual(max(sglang_case.hits.all_pages(present), default=0), sglang_case.hits.leading(present))

    def test_an_anchor_without_memory_leaves_the_answer_to_the_others(self):
        index = MLATokenToKVPoolHost()
        made = self.open(fakes.LogicalHostPool(), {PoolName.INDEXER: index}, is_mla_model=True)
        self.assertEqual(made.batch_set_v1(keys(3), indices(3)), [True] * 3)
        self.assertEqual(made.batch_get_v1(keys(3), indices(3)), [True] * 3)
        self.assertEqual((made.batch_exists(keys(3)), self.stored()), (0, []))
        made.batch_set_v2([PoolTransfer(PoolName.INDEXER, indices(2), keys(2))])
        self.assertEqual(made.batch_exists_v2(keys(3), [PoolTransfer(PoolName.INDEXER)]).kv_hit_pages, 2)


if __name__ == "__main__":
    unittest.main()
