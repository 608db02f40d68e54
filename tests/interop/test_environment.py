"""Tests of `environment.sh`: when it installs an environment, and where. A fake Python installs nothing."""

from __future__ import annotations

import os
import subprocess
import tempfile
import unittest
from pathlib import Path

HERE = Path(__file__).parent

PROGRAM = """
set -euo pipefail
source "$1/environment.sh"
python3.11() {
    [ "$1" = -m ] || return 0
    mkdir -p "$3/bin" "$3/lib/python3.11/site-packages"
    printf '#!/bin/sh\\necho "pip $*"\\n' | tee "$3/bin/pip" >"$3/bin/python"
    chmod +x "$3/bin/pip" "$3/bin/python"
}
environment vllm
echo "in $venv"
"""


class Environments(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="kvconn-interop-")
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name).resolve()
        self.vllm = self.root / "engines" / "vllm-0.32.0"
        self.torch = self.vllm / "lib/python3.11/site-packages/lmcache.pth"

    def run_it(self, home: str = "engines") -> list[str]:
        """The lines that say what was installed."""
        program = ["bash", "-c", PROGRAM, "test", str(HERE)]
        environment = {**os.environ, "KVCONN_INTEROP_HOME": home}
        done = subprocess.run(program, cwd=self.root, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True)
        lines = done.stdout.splitlines()
        self.assertEqual(lines[-1], f"in {self.vllm}")
        return [line.split()[2] for line in lines if line.startswith("== installing")]

    def test_a_relative_folder_is_below_the_callers(self) -> None:
        self.assertEqual(self.run_it(), ["lmcache", "vllm"])
        self.assertEqual(self.torch.read_text(), f"{self.root}/engines/lmcache-0.5.6/lib/python3.11/site-packages\n")
        self.assertEqual(self.run_it(str(self.root / "engines")), [])

    def test_an_environment_is_installed_again_without_its_python_or_torch(self) -> None:
        self.run_it()
        python = self.vllm / "bin/python"
        python.unlink()
        python.symlink_to("/nonexistent/python3.11")
        self.assertEqual(self.run_it(), ["vllm"])
        self.torch.write_text("/nonexistent/lmcache-0.5.5\n")
        self.assertEqual(self.run_it(), ["vllm"])
        self.assertEqual(self.run_it(), [])

    def test_an_interrupted_install_starts_again(self) -> None:
        self.run_it()
        (self.vllm / "complete").unlink()
        (self.vllm / "half").touch()
        self.assertEqual(self.run_it(), ["vllm"])
        self.assertFalse((self.vllm / "half").exists())


if __name__ == "__main__":
    unittest.main()
