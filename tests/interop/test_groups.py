"""Tests of the tables of groups. `./tests/run` runs them. They need no engine."""

from __future__ import annotations

import re
import unittest
from pathlib import Path

from interop import groups
from interop.bench import groups as bench

HERE = Path(__file__).parent


class Groups(unittest.TestCase):
    def test_groups_go_to_their_environments(self) -> None:
        wanted = {"lmcache": ["fs", "lmcache-server"], "vllm": ["vllm:fs", "llm"], "sglang": ["sglang"]}
        self.assertEqual(groups.plan(["fs", "vllm:fs", "sglang", "llm", "lmcache-server"], smoke=False), wanted)

    def test_the_smoke_test_has_a_group_of_each_engine(self) -> None:
        self.assertEqual(set(groups.plan([], smoke=True)), {"lmcache", "vllm", "sglang"})

    def test_an_unknown_group_prints_the_list(self) -> None:
        with self.assertRaisesRegex(groups.Unknown, "unknown group 'vlm'; the groups are vectors, fs, .*, sglang"):
            groups.plan(["fs", "vlm"], smoke=False)

    def test_the_smoke_test_refuses_a_group_without_checks(self) -> None:
        with self.assertRaisesRegex(groups.Unknown, "--smoke has no check of 'wheel'; it has some of vectors, fs, .*, sglang"):
            groups.plan(["fs", "wheel"], smoke=True)

    def test_each_module_of_the_tables_exists_and_has_groups(self) -> None:
        modules = {f"{group.module}": "" for group in groups.GROUPS.values()} | {f"bench/{kind.module}": "" for kind in bench.GROUPS.values()}
        for module in modules:
            path = HERE / "interop" / module.replace(".", "/")
            file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            self.assertRegex(file.read_text(), re.compile(r"^GROUPS\b.*= ", re.MULTILINE), module)

    def test_the_environments_are_those_that_the_script_installs(self) -> None:
        script = (HERE / "environment.sh").read_text()
        for environment in {group.environment for group in groups.GROUPS.values()} | {kind.environment for kind in bench.GROUPS.values()}:
            self.assertIn(f"        {environment}) echo ", script)

    def test_the_bench_takes_an_engine_for_its_groups(self) -> None:
        self.assertEqual(bench.chosen(["vllm", "redis"]), ["vllm-fs", "vllm-redis", "redis"])
        with self.assertRaises(KeyError):
            bench.chosen(["vlm"])


if __name__ == "__main__":
    unittest.main()
