"""Keys with fields, and the keys of a prompt: as LMCache writes them."""

import array
import copy
import json
import pathlib
import pickle
import unittest
from textwrap import dedent

import numpy

import kvconn
from kvconn import Key, ObjectKey, prefix_keys, prefix_object_keys
from support import TestCase, run_child

VECTORS = pathlib.Path(__file__).parents[2] / "tests" / "vectors"
FIELDS = {"model": "facebook/opt-125m", "world_size": 2, "worker_id": 1, "chunk_hash": "1f2e3d", "dtype": "bfloat16"}
MODEL = {"model": "facebook/opt-125m", "dtype": "bfloat16"}


def vectors(name):
    return json.loads((VECTORS / f"{name}.json").read_text())


class EngineKeys(TestCase):
    def test_fields_make_lmcaches_text_and_the_text_gives_the_fields(self):
        rows = vectors("cache_keys")["format"]
        self.assertGreater(len(rows), 20)
        for row in rows:
            key = Key(
                model=row["model_name"],
                world_size=row["world_size"],
                worker_id=row["worker_id"],
                chunk_hash=row["chunk_hash_hex"],
                dtype=row["dtype"],
                tags=dict(map(tuple, row["tags"])),
                layer_id=row.get("layer_id"),
            )
            self.assertEqual(key, row["text"])
            parsed = Key.parse(row["text"])
            self.assertEqual((parsed, parsed._fields), (key, key._fields))
            self.assertEqual((key.model, key.world_size, key.worker_id), (row["model_name"], row["world_size"], row["worker_id"]))
            self.assertEqual((key.chunk_hash, key.layer_id), (row["chunk_hash_hex"], row.get("layer_id")))
            self.assertEqual(list(map(list, key.tags)), row["tags"])

    def test_a_key_is_its_text(self):
        key = Key(**FIELDS, tags={"user": "ann"})
        text = "facebook/opt-125m@2@1@1f2e3d@bfloat16@user%ann"
        self.assertEqual((str(key), f"{key}", {key: 1}[text], json.dumps([key])), (text, text, 1, f'["{text}"]'))
        self.assertEqual(repr(key), (
            "kvconn.Key(model='facebook/opt-125m', world_size=2, worker_id=1, chunk_hash='1f2e3d', dtype='bfloat16', "
            "tags=(('user', 'ann'),))"
        ))
        for again in (eval(repr(key)), copy.copy(key), copy.deepcopy(key), pickle.loads(pickle.dumps(key))):
            self.assertIs(type(again), Key)
            self.assertEqual((again, again._fields), (key, key._fields))
        self.assertLess(Key(**FIELDS), key)
        with self.assertRaises(AttributeError):
            key.model = "other"
        with self.assertRaises(AttributeError):
            key.other = 1

    def test_a_store_takes_keys_and_gives_their_texts(self):
        key, layer = Key(**FIELDS), Key(**FIELDS).with_layer(3)
        self.assertEqual((layer, layer.layer_id), (f"{key}@3", 3))
        other = ObjectKey(model="m", kv_rank=0x01000100, chunk_hash=b"\x1f\x2e")
        with kvconn.connect("memory://") as store:
            store.batched_put([(key, b"k"), (layer, b"l"), (other, b"o")])
            self.assertEqual({*store.list()}, {key, layer, other})
            self.assertEqual(store.get(str(layer)), b"l")
            self.assertEqual(store.batched_get([other, key]), [b"o", b"k"])

    def test_numbers_hashes_and_dtypes_of_other_types(self):
        class Type:
            def __str__(self):
                return "torch.bfloat16"

        for changed in (
            {"world_size": numpy.int64(2), "worker_id": numpy.uint8(1)},
            {"chunk_hash": 0x1F2E3D},
            {"chunk_hash": numpy.int64(0x1F2E3D)},
            {"chunk_hash": b"\x1f\x2e\x3d"},
            {"dtype": Type()},
        ):
            self.assertEqual(Key(**{**FIELDS, **changed}), Key(**FIELDS), changed)
        self.assertEqual(Key(**{**FIELDS, "dtype": numpy.dtype("float16")}).dtype, "float16")
        self.assertEqual(Key(**{**FIELDS, "dtype": numpy.float16}).dtype, "float16")
        self.assertTrue(Key(**{**FIELDS, "chunk_hash": -0x1F, "dtype": "half"}).endswith("@-1f@half"))
        self.assertEqual(Key(**{**FIELDS, "chunk_hash": 2**256 - 1}).chunk_hash, "f" * 64)

    def test_a_wrong_field_is_named(self):
        for changed, error, why in (
            ({"model": ""}, ValueError, "field 1 (model)"),
            ({"model": 7}, TypeError, "the field `model` is a int"),
            ({"world_size": -1}, ValueError, "the field `world_size` is -1; it is a whole number from 0 to 4294967295"),
            ({"world_size": "2"}, TypeError, "the field `world_size` is a str"),
            ({"worker_id": 1.0}, TypeError, "the field `worker_id` is a float"),
            ({"chunk_hash": "FF"}, ValueError, "write `ff`"),
            ({"chunk_hash": b"\x1f"}, ValueError, "the field `chunk_hash` has 1 bytes"),
            ({"chunk_hash": 2**256}, ValueError, "at most 64 hex digits"),
            ({"chunk_hash": None}, TypeError, "the field `chunk_hash` is a NoneType"),
            ({"dtype": "bfloat17"}, ValueError, "bfloat17"),
            ({"tags": {"a%b": "c"}}, ValueError, "a tag's name"),
            ({"tags": {"a": 1}}, TypeError, "tag 0 is ('a', 1)"),
            ({"tags": 5}, TypeError, "the field `tags` is a int"),
            ({"layer_id": -1}, ValueError, "the field `layer_id` is -1"),
            ({"model": "\ud800"}, ValueError, "the field `model` is '\\ud800', which has an unpaired surrogate"),
            ({"chunk_hash": "\ud800"}, ValueError, "the field `chunk_hash` is"),
            ({"dtype": "\ud800"}, ValueError, "the field `dtype` is"),
            ({"tags": {"a": "\ud800"}}, ValueError, "the field `tags` is"),
        ):
            with self.subTest(changed=changed), self.assertRaises(error) as raised:
                Key(**{**FIELDS, **changed})
            self.assertIsInstance(raised.exception, kvconn.InvalidError)
            self.assertIn(why, str(raised.exception))

    def test_a_text_that_is_not_such_a_key_is_refused(self):
        for text, why in (
            ("m@01000100@0@1f2e", "in an object key"),
            ("m@1@0@ff@half@t%x@1@0@ee@half", "several readings"),
            ("redis://u:hunter2@h", "is a URL, not a key"),
            ("m@01@0@ff@half", "field 2 (world size) is `01`; write `1`"),
        ):
            with self.subTest(text=text), self.assertRaises(kvconn.InvalidError) as raised:
                Key.parse(text)
            self.assertIn(why, str(raised.exception))
            self.assertNotIn("hunter2", str(raised.exception))
        with self.assertRaises(TypeError):
            Key.parse(b"m@1@0@ff@half")


class ObjectKeys(TestCase):
    def test_fields_make_lmcaches_text_and_the_text_gives_the_fields(self):
        rows = vectors("object_keys")["keys"]
        self.assertGreater(len(rows), 10)
        for row in rows:
            fields = {
                "model": row["model_name"],
                "kv_rank": row["kv_rank"],
                "object_group": row["object_group_id"],
                "chunk_hash": bytes.fromhex(row["chunk_hash_hex"]),
                "salt": row["cache_salt"],
            }
            key = ObjectKey(**fields)
            self.assertEqual(key, row["text"])
            for again in (ObjectKey.parse(row["text"]), eval(repr(key)), pickle.loads(pickle.dumps(key))):
                self.assertEqual((again, again._fields), (key, key._fields))
            self.assertEqual((key.kv_rank, key.object_group, key.salt), (row["kv_rank"], row["object_group_id"], row["cache_salt"]))

    def test_a_wrong_field_is_named(self):
        fields = {"model": "m", "kv_rank": 1, "chunk_hash": b"\xff"}
        for changed, error, why in (
            ({"model": "a@b"}, ValueError, "a model's name contains no `@`"),
            ({"kv_rank": 2**32}, ValueError, "the field `kv_rank` is 4294967296"),
            ({"chunk_hash": b""}, ValueError, "field 4 (chunk hash)"),
            ({"chunk_hash": "fff"}, ValueError, "the field `chunk_hash` is not the hex text"),
            ({"chunk_hash": 255}, TypeError, "the field `chunk_hash` is a int"),
            ({"salt": "a/b"}, ValueError, "a salt must not contain '/'"),
            ({"object_group": 0.5}, TypeError, "the field `object_group` is a float"),
        ):
            with self.subTest(changed=changed), self.assertRaises(error) as raised:
                ObjectKey(**{**fields, **changed})
            self.assertIn(why, str(raised.exception))
        with self.assertRaises(kvconn.InvalidError):
            ObjectKey.parse("m@1@0@ff@half")


class Prefixes(TestCase):
    def test_hashes_are_lmcaches(self):
        golden, counts = vectors("prefix_hashes"), {}
        for row in golden["rows"]:
            tokens, size, algorithm = row["tokens"], row["chunk_size"], row["algorithm"]
            if row["where"] == "server":
                keys = prefix_object_keys(tokens, model="m", kv_rank=1, chunk_size=size, hash=algorithm, seed=golden["seed"])
                hashes = [key.chunk_hash.hex() for key in keys]
            elif algorithm == "sha256_cbor":
                keys = prefix_keys(tokens, **MODEL, chunk_size=size, partial=True, seed=golden["seed"])
                hashes = [key.chunk_hash for key in keys]
            else:
                continue
            self.assertEqual(hashes, row["hashes"])
            counts[row["where"], algorithm] = counts.get((row["where"], algorithm), 0) + len(hashes)
        self.assertEqual({*counts}, {("server", "blake3"), ("server", "sha256_cbor"), ("engine", "sha256_cbor")})
        self.assertGreater(min(counts.values()), 5)

    def test_the_builtin_hash_is_lmcaches_in_a_process_with_the_same_seed(self):
        golden = vectors("prefix_hashes")
        rows = [row for row in golden["rows"] if (row["where"], row["algorithm"]) == ("engine", "builtin")]
        self.assertGreater(sum(len(row["hashes"]) for row in rows), 5)
        program = f"""
            import json, kvconn
            for row in json.loads({json.dumps(json.dumps(rows))}):
                keys = kvconn.prefix_keys(row["tokens"], model="m", dtype="half", chunk_size=row["chunk_size"], partial=True, hash="builtin")
                assert [key.chunk_hash for key in keys] == row["hashes"], (keys, row)
        """
        run_child(dedent(program), PYTHONHASHSEED=golden["seed"])

    def test_the_builtin_hash_needs_a_fixed_seed(self):
        program = """
            import kvconn
            for seed in (None, "0"):
                try:
                    kvconn.prefix_keys([1], model="m", dtype="half", hash="builtin", seed=seed)
                except kvconn.InvalidError as e:
                    assert "PYTHONHASHSEED=random" in str(e) and "none_hash" in str(e), e
                else:
                    raise AssertionError("a random seed gave keys")
            assert len(kvconn.prefix_keys([1], model="m", dtype="half", hash="builtin", none_hash=0, partial=True)) == 1
        """
        run_child(dedent(program), PYTHONHASHSEED=None)

    def test_tokens_of_any_kind_give_the_same_keys(self):
        tokens = [n * 7919 % 151_936 for n in range(600)]
        keys = prefix_keys(tokens, **MODEL, seed="0")
        self.assertEqual(len(keys), 2)
        self.assertEqual(len(prefix_keys(tokens, **MODEL, seed="0", partial=True)), 3)
        for same in (
            tuple(tokens),
            iter(tokens),
            array.array("I", tokens),
            memoryview(array.array("q", tokens)),
            numpy.array(tokens),
            [*numpy.array(tokens, "uint32")],
        ):
            self.assertEqual(prefix_keys(same, **MODEL, seed="0"), keys)

    def test_prompts_that_start_alike_share_their_first_keys(self):
        first, second = list(range(1024)), [*range(600), *range(5000, 5424)]
        mine, others = prefix_keys(first, **MODEL, seed="0"), prefix_keys(second, **MODEL, seed="0")
        self.assertEqual((mine[:2], len({*mine} & {*others})), (others[:2], 2))
        with kvconn.connect("memory://") as store:
            store.batched_put([(key, bytes([n])) for n, key in enumerate(mine)])
            self.assertEqual(store.get_prefix(others), [b"\0", b"\1"])

    def test_wrong_tokens_and_arguments_are_refused(self):
        for tokens, arguments, error, why in (
            ("text", {}, TypeError, "the tokens are a str"),
            ([1, -2], {}, ValueError, "token 1 is -2"),
            ([2**32], {}, ValueError, "token 0 is 4294967296"),
            ([1.5], {}, TypeError, "whole numbers"),
            (numpy.zeros((2, 2), "int64"), {}, TypeError, "one dimension"),
            (7, {}, TypeError, "a list, an array or a tensor"),
            ([1], {"chunk_size": 0}, ValueError, "the field `chunk_size` is 0"),
            ([1], {"hash": "md5"}, ValueError, "'sha256_cbor' and 'builtin'"),
            ([1], {"none_hash": -1}, ValueError, "the field `none_hash` is -1"),
            ([1], {"none_hash": "1", "hash": "builtin"}, TypeError, "the field `none_hash` is a str"),
            ([1], {"seed": "\ud800"}, ValueError, "the field `seed` is"),
        ):
            with self.subTest(tokens=tokens, arguments=arguments), self.assertRaises(error) as raised:
                prefix_keys(tokens, **MODEL, **arguments)
            self.assertIsInstance(raised.exception, kvconn.InvalidError)
            self.assertIn(why, str(raised.exception))


if __name__ == "__main__":
    unittest.main()
