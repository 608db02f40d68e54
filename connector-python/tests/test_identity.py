"""The model field of engines' keys."""

import logging
import re
import tempfile
from pathlib import Path

import kvconn
from kvconn._identity import is_local_path, store_model, warn_once
from support import TestCase

FIELDS = {"dtype": "bfloat16", "bytes_per_row": 2 << 20, "groups": [{"layers": ["a", "b"], "tokens": 16}], "scale": 1.0, "rope": None}


class Models(TestCase):
    def test_equal_fields_give_one_model_in_any_order(self):
        model = store_model("vllm", "meta-llama/Llama-3.1-8B", FIELDS)
        self.assertRegex(model, r"^vllm\+meta-llama/Llama-3\.1-8B\+[0-9a-f]{32}$")
        self.assertEqual(model, store_model("vllm", "meta-llama/Llama-3.1-8B", dict(reversed(FIELDS.items()))))
        # The digest of `{"engine":"vllm","fields":{},"model":"m"}`, by sha256sum. Another release must find the same chunks.
        self.assertEqual(store_model("vllm", "m", {}), "vllm+m+7949d5baab88d7f2deab8a8e46fd3b7d")

    def test_every_difference_gives_another_digest(self):
        others = [("sglang", "m", FIELDS), ("vllm", "n", FIELDS), ("vllm", "m@", FIELDS), ("vllm", "m_", FIELDS)]
        others += [("vllm", "m", FIELDS | {name: "other"}) for name in FIELDS]
        others += [("vllm", "m", FIELDS | {"more": None}), ("vllm", "m", {k: v for k, v in FIELDS.items() if k != "rope"})]
        others += [("vllm", "m", FIELDS | {"scale": value}) for value in (1, "1.0", True, 1.0000000000000002)]
        digests = {store_model(*other).rsplit("+", 1)[1] for other in [("vllm", "m", FIELDS), *others]}
        self.assertEqual(len(digests), 1 + len(others))

    def test_every_model_is_a_key_of_every_store(self):
        with tempfile.TemporaryDirectory() as folder, kvconn.connect(f"fs://{folder}") as store:
            for model in ("", "a@b", "a\nb\0c", "ü" * 300, "/" * 300, "o/" + "x" * 300, "a-SEP-b", "x-SEP/y", "a b", "SSEPEP"):
                for engine in ("vllm", "sglang", "lmcache"):
                    key = f"{store_model(engine, model, FIELDS)}@ffffffff@ffffffff@{'ab' * 32}@{'s' * 40}"
                    store.put(key, b"1")
                    self.assertEqual(bytes(store.get(key)), b"1")
            self.assertLessEqual(max(len(path.name) for path in Path(folder).rglob("*.data")), 255)

    def test_a_long_model_keeps_its_end_and_the_digest(self):
        model = store_model("vllm", "/data/" + "x" * 300 + "/llama", FIELDS)
        self.assertRegex(model, r"^vllm\+x+/llama\+[0-9a-f]{32}$")
        self.assertNotEqual(model, store_model("vllm", "/date/" + "x" * 300 + "/llama", FIELDS))

    def test_values_without_an_exact_text_are_refused_with_their_place(self):
        class Text(str):
            pass

        for value in ({1}, b"1", float("nan"), float("inf"), object(), Text("a"), {1: 2}):
            with self.assertRaisesRegex(TypeError, re.escape("fields.groups[1].scale")):
                store_model("vllm", "m", {"groups": [1, {"scale": value}]})


class Warnings(TestCase):
    def test_paths_are_told_from_names(self):
        with tempfile.TemporaryDirectory() as folder:
            for path in (folder, "/nowhere/model", "./m", "../m", "~/m", ".", ".."):
                self.assertTrue(is_local_path(path), path)
        for name in ("meta-llama/Llama-3.1-8B", "gpt2", "org/.m"):
            self.assertFalse(is_local_path(name), name)

    def test_a_warning_comes_once_per_logger(self):
        one, other = logging.getLogger("kvconn.test.one"), logging.getLogger("kvconn.test.other")
        with self.assertLogs("kvconn.test", "WARNING") as logged:
            for logger in (one, one, other):
                warn_once(logger, "100 % sure")
        self.assertEqual([(record.name, record.getMessage()) for record in logged.records], [(one.name, "100 % sure"), (other.name, "100 % sure")])
