"""Tests of the benchmarks in docs/. `./tests/run` runs them. They need no LMCache."""

import unittest

import publish
from interop.bench.figures import Figure, Table
from interop.bench.tables import HEADLINE, batches, calls, headline, scales, singles


class Published(unittest.TestCase):
    def test_chart_and_tables_match_the_results(self) -> None:
        charts, pages = publish.read()
        for name, text in (charts | pages).items():
            self.assertEqual(text, (publish.DOCS / name).read_text(), "run tests/interop/publish.py")

    def test_a_ratio_is_the_median_of_the_ratios_of_each_round(self) -> None:
        rounds = {"slow": [1, 2, 4], "fast": [2, 2, 16]}
        table = Table.of("group", "title", "1MiB", {name: [{"get": Figure(r, 0.1)} for r in of] for name, of in rounds.items()})
        slow, fast = table.clients["slow"]["get"], table.clients["fast"]["get"]
        self.assertEqual((slow.rate, slow.low, slow.high, slow.ratio), (2, 1, 4, None))
        self.assertEqual((fast.rate, fast.ratio), (2, 2))

    def test_the_headline_has_the_ratios_of_its_stores(self) -> None:
        where, group, size, client = HEADLINE[0]
        operations = lambda rate, cpu: {op: Figure(rate, cpu) for op in ("get", "put", "exists")}  # noqa: E731
        rounds = {"theirs": [operations(1, 0.2)], client: [operations(2, 0.1)]}
        shown = headline([Table.of(group, "title", size, rounds)])
        self.assertIn(f"| {where} | {size} | theirs | **2.00** | **2.00** | **2.00** | 0.50 | 0.50 |", shown)
        self.assertEqual(len(shown.splitlines()), 3)

    def test_single_calls_are_shown_as_times(self) -> None:
        rate = {"LMCache": 2_000, "kvconn": 10_000}
        rounds = {name: [dict.fromkeys(("lookup", "contains", "contains_loop", "loop"), Figure(r, 0.1))] for name, r in rate.items()}
        self.assertIn("| 1MiB | kvconn | 100 | 0.20 |", singles([Table.of("group", "title", "1MiB", rounds)]))

    def test_lookups_are_shown_with_their_reads(self) -> None:
        figures = {"present": Figure(1_000, 0.1, reads=1.0), "absent": Figure(2_000, 0.1, reads=2.0), "longest": Figure(4_000, 0.0)}
        shown = calls([Table.of("vllm-redis", "title", "1MiB", {"kvconn": [figures]})])
        self.assertIn("| vllm-redis | 1MiB | kvconn | 1,000 | 500 | 250 | 1 and 2 |", shown)

    def test_the_first_client_may_lack_an_operation(self) -> None:
        rounds = {"bare": [{"list": Figure(1_000, 0.1)}], "kvconn": [{"list": Figure(500, 0.1, peak=12.0), "cp": Figure(0.5, 0.1)}]}
        table = Table.of("scale-fs", "title", "1KiB", rounds)
        self.assertIn("| scale-fs | kvconn | 2 (12 MiB) | 2,000 |", scales([table]))
        self.assertEqual(batches([table]), "")
        self.assertIsNone(table.clients["kvconn"]["cp"].ratio)


if __name__ == "__main__":
    unittest.main()
