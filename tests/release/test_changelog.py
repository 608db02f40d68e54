"""Tests of `notes` and `check-tag`, which decide whether a tag becomes a release."""

import subprocess
import sys
import unittest
from pathlib import Path

import changelog
from changelog import Wrong, check_tag, section_of

HERE = Path(__file__).resolve().parent
TEXT = """# Changelog

## [Unreleased]

## [0.2.0] - not released yet

- new

## [0.1.0] - 2026-12-01

### Added

- all
"""
VERSIONS = {"kvconn": "0.1.0", "connectors": "0.1.0"}


class Notes(unittest.TestCase):
    def test_the_notes_are_the_section_of_the_version(self):
        self.assertEqual(section_of("0.1.0", TEXT).text, "### Added\n\n- all")
        self.assertEqual(section_of("0.2.0", TEXT).text, "- new")

    def test_a_version_without_a_section_or_text_is_refused(self):
        with self.assertRaisesRegex(Wrong, r"no section \[0.3.0\]; it has Unreleased, 0.2.0, 0.1.0"):
            section_of("0.3.0", TEXT)
        with self.assertRaisesRegex(Wrong, r"nothing below \[Unreleased\]"):
            section_of("Unreleased", TEXT)

    def test_two_sections_of_a_version_are_refused(self):
        with self.assertRaisesRegex(Wrong, r"two sections \[0.1.0\]"):
            section_of("0.1.0", TEXT + "\n## [0.1.0] - 2026-12-02\n\n- more\n")

    def test_the_program_prints_the_notes_and_says_what_is_wrong(self):
        done = subprocess.run([sys.executable, HERE / "notes", "9.9.9"], capture_output=True, text=True, check=False)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("tests/release/notes: CHANGELOG.md has no section [9.9.9]", done.stderr)


class Tag(unittest.TestCase):
    def test_a_tag_of_the_packages_with_a_dated_section_is_its_version(self):
        self.assertEqual(check_tag("v0.1.0", VERSIONS, TEXT), "0.1.0")

    def test_a_tag_that_is_not_v_and_a_version_is_refused(self):
        with self.assertRaisesRegex(Wrong, "write 'v0.1.0'"):
            check_tag("0.1.0", VERSIONS, TEXT)
        with self.assertRaisesRegex(Wrong, "is not 'v' and a version"):
            check_tag("release", VERSIONS, TEXT)

    def test_a_package_of_another_version_is_named(self):
        with self.assertRaisesRegex(Wrong, "Cargo.toml has connectors 0.0.9;"):
            check_tag("v0.1.0", {**VERSIONS, "connectors": "0.0.9"}, TEXT)

    def test_a_section_without_the_day_of_the_release_is_refused(self):
        with self.assertRaisesRegex(Wrong, r"'not released yet' beside \[0.2.0\]"):
            check_tag("v0.2.0", {"kvconn": "0.2.0"}, TEXT)

    def test_the_packages_of_this_checkout_have_one_version(self):
        versions = changelog.package_versions()
        self.assertLessEqual({"connector-core", "connector-macros", "connectors", "kvconn", "connector-python"}, versions.keys())
        self.assertEqual(len(set(versions.values())), 1, versions)


if __name__ == "__main__":
    unittest.main()
