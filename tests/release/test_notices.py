"""Tests of `notices`: python3 -m unittest test_notices"""

import importlib.machinery
import importlib.util
import sys
import unittest
from pathlib import Path

LOADER = importlib.machinery.SourceFileLoader("notices", str(Path(__file__).with_name("notices")))
notices = importlib.util.module_from_spec(importlib.util.spec_from_loader("notices", LOADER))
sys.modules["notices"] = notices
LOADER.exec_module(notices)


class Licences(unittest.TestCase):
    def test_an_expression_is_allowed_if_the_allowed_licences_satisfy_it(self) -> None:
        allowed = {"MIT", "ISC", "Apache-2.0 WITH LLVM-exception"}
        for expression in (
            "MIT",
            "MIT/Apache-2.0",
            "GPL-3.0 OR MIT",
            "(GPL-3.0 OR MIT) AND ISC",
            "Apache-2.0 WITH LLVM-exception",
        ):
            self.assertTrue(notices.is_allowed(expression, allowed), expression)
        for expression in ("", "unknown", "GPL-3.0", "GPL-3.0 AND MIT", "Apache-2.0", "GPL-2.0 WITH x", "MIT MIT", "(MIT"):
            self.assertFalse(notices.is_allowed(expression, allowed), expression)

    def test_a_package_without_a_text_or_with_a_licence_that_is_not_allowed_is_a_problem(self) -> None:
        good = notices.Package("good 1.0.0", "MIT", "", ("text",))
        silent = notices.Package("silent 1.0.0", "MIT", "", ())
        strange = notices.Package("strange 1.0.0", "Strange-1.0", "", ("text",))
        self.assertEqual(
            notices.problems([good, silent, strange]),
            [
                "silent 1.0.0: the package has no licence text",
                "strange 1.0.0: deny.toml does not allow the licence `Strange-1.0`",
            ],
        )

    def test_packages_with_one_text_share_it(self) -> None:
        a = notices.Package("a 1.0.0", "MIT", "", ("The text\r\nof MIT",))
        b = notices.Package("b 1.0.0", "MIT", "", ("  The text\n  of MIT\n",))
        text = notices.document([a, b])
        self.assertEqual(text.count("of MIT"), 1)
        self.assertIn("a 1.0.0\nb 1.0.0\n=", text)


if __name__ == "__main__":
    unittest.main()
