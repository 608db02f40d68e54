"""`check.py` finds each fault. `tests/release/wheel` runs these tests, because they need the checkers' packages."""

import subprocess
import tempfile
import unittest
import zipfile
from pathlib import Path

import check

FOLDER = "/home/builder/kvconn"
INFORMATION = f"kvconn-{check.VERSION}.dist-info"
METADATA = f"""Metadata-Version: 2.4
Name: kvconn
Version: {check.VERSION}
Summary: A wheel of the tests
Keywords: test
Classifier: Typing :: Typed
Requires-Python: >=3.11
License-Expression: Apache-2.0
License-File: LICENSE
License-File: THIRD-PARTY-LICENSES
Provides-Extra: torch
Project-URL: Changelog, https://example.org
Project-URL: Documentation, https://example.org
Project-URL: Homepage, https://example.org
Project-URL: Issues, https://example.org
Project-URL: Repository, https://example.org
Description-Content-Type: text/markdown; charset=UTF-8; variant=GFM

"""


class Check(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def library(self, text="text", *flags):
        """A small library, compiled."""
        source, made = self.folder / "library.c", self.folder / "library.so"
        source.write_text(f'const char *text(void) {{ return "{text}"; }}\n')
        subprocess.run(["cc", "-shared", *(flags or ["-s"]), "-o", made, source], check=True)
        return made.read_bytes()

    def faults(self, tag="any", files=None):
        """The faults of a wheel that has these files in place of good ones. A file that is None is left out."""
        wheel_files = {"kvconn/_kvconn.abi3.so": self.library(), "kvconn/py.typed": b"", "kvconn/__init__.py": b""}
        for name, data in (("METADATA", METADATA), ("entry_points.txt", ""), ("licenses/LICENSE", ""), ("licenses/THIRD-PARTY-LICENSES", "")):
            wheel_files[f"{INFORMATION}/{name}"] = data
        wheel_files |= files or {}
        wheel = self.folder / f"kvconn-{check.VERSION}-cp311-abi3-{tag}.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for name, data in wheel_files.items():
                if data is not None:
                    archive.writestr(name, data)
        return "\n".join(check.of_wheel(wheel, "any", [FOLDER]))

    def test_a_good_wheel_has_no_faults(self):
        self.assertEqual(self.faults(), "")

    def test_each_fault_is_found(self):
        library, metadata = "kvconn/_kvconn.abi3.so", f"{INFORMATION}/METADATA"
        for files, fault in (
            ({library: self.library("text", "-g")}, "has the section .debug_info"),
            ({library: self.library(f"{FOLDER}/src/lib.rs")}, f"has a folder of this machine: {FOLDER}/src/lib.rs"),
            ({library: None}, "the libraries are []"),
            ({"kvconn.libs/libssl.so.3": self.library()}, "the libraries are"),
            ({"kvconn/__init__.py": f"# {FOLDER}/x"}, "kvconn/__init__.py: has a folder of this machine"),
            ({"kvconn/py.typed": None}, "has no kvconn/py.typed"),
            ({f"{INFORMATION}/licenses/THIRD-PARTY-LICENSES": None}, "has no "),
            ({metadata: METADATA.replace("License-File: THIRD-PARTY-LICENSES\n", "")}, "the licence files are ['LICENSE']"),
            ({metadata: METADATA.replace("Apache-2.0", "MIT")}, "License-Expression is 'MIT'"),
            ({metadata: METADATA.replace("Typing :: Typed", "Typing :: Untyped")}, "does not know the classifier 'Typing :: Untyped'"),
            ({metadata: METADATA.replace("Keywords: test\n", "")}, "has no Keywords"),
            ({metadata: METADATA.replace("Project-URL: Issues, https://example.org\n", "")}, "the addresses are"),
            ({"kvconn/large": bytes(check.LARGEST_WHEEL)}, f"more than {check.LARGEST_WHEEL:,}"),
        ):
            with self.subTest(fault):
                self.assertIn(fault, self.faults(files=files))
        self.assertIn("the tags are not", self.faults(tag="other"))

    def test_a_longer_name_is_another_folder(self):
        self.assertEqual(self.faults(files={"kvconn/_kvconn.abi3.so": self.library(f"{FOLDER}ed/src")}), "")


if __name__ == "__main__":
    unittest.main()
