"""The kvconn command in the wheel."""

import os
import signal
import subprocess
import sys

from support import DEADLINE, TestCase, engine_key, wait_until


class Command(TestCase):
    def kvconn(self, *args, **more):
        return subprocess.run(
            [sys.executable, "-m", "kvconn", *args], capture_output=True, timeout=DEADLINE, env=self.env(), **more
        )

    def env(self):
        return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def test_it_puts_lists_and_gets(self):
        url = f"fs://{self.directory()}"
        self.assertEqual(self.kvconn("put", url, engine_key(1), "-", input=b"hello").returncode, 0)
        self.assertEqual(self.kvconn("ls", url).stdout.decode().split(), [engine_key(1)])
        self.assertEqual(self.kvconn("get", url, engine_key(1)).stdout, b"hello")
        self.assertEqual(self.kvconn("exists", url, engine_key(2)).returncode, 1)

    def test_it_lists_the_connectors_of_the_wheel(self):
        self.assertIn(b"kvconn.redis", self.kvconn("list").stdout)

    def test_wrong_usage_has_its_exit_code_and_shows_no_password(self):
        wrong = self.kvconn("get", "redis://user:secret@h:1", "no key")
        self.assertEqual(wrong.returncode, 2, wrong)
        wrong = self.kvconn("gett", "redis://user:secret@h:1")
        self.assertEqual(wrong.returncode, 2, wrong)
        self.assertNotIn(b"secret", wrong.stdout + wrong.stderr)
        unreachable = self.kvconn("ping", "resp://user:secret@127.0.0.1:1")
        self.assertEqual(unreachable.returncode, 3, unreachable)
        self.assertNotIn(b"secret", unreachable.stdout + unreachable.stderr)

    def test_ctrl_c_ends_it(self):
        server = self.redis()
        server.stop_answering()
        child = subprocess.Popen(
            [sys.executable, "-m", "kvconn", "ping", f"resp://127.0.0.1:{server.port}"],
            stderr=subprocess.DEVNULL,
            env=self.env(),
        )
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)

        def waits():
            # With its threads started, the command is past Python's part.
            return len(os.listdir(f"/proc/{child.pid}/task")) > 1

        wait_until(waits, "the command waits for the server")
        child.send_signal(signal.SIGINT)
        self.assertNotEqual(child.wait(DEADLINE), 0)
