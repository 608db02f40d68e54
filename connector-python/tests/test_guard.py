"""NativeClient touches no memory beside a buffer, and no buffer after its completion.

Each buffer lies between protected pages, in a child process. A read or write of such a page ends the process, and a system call
on it fails. A pattern shows late writes into memory that is in use again.
"""

import ctypes
import mmap
import os
import signal
import subprocess
import sys
import unittest

from kvconn import NativeClient
from support import TestCase, completions, object_key, run_child

PAGE = mmap.PAGESIZE
NO_ACCESS, READ, READ_WRITE = 0, mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE
PATTERN = 0xA5
LENGTHS = [1, 100, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE, 64 << 10, (1 << 20) - 3, 1 << 20]


class Guard(TestCase):
    def urls(self):
        yield f"fs://{self.directory()}"
        yield f"fs://{self.directory()}?save_chunk_meta=false&use_odirect=true"
        yield "memory://guarded"
        yield f"tiered://?front=memory://near&back=fs://{self.directory()}"
        yield f"resp://127.0.0.1:{self.redis().port}"
        yield f"redis://127.0.0.1:{self.redis().port}"

    def test_a_protected_page_ends_the_process(self):
        for touch in ["before", "after", "released"]:
            with self.subTest(touch=touch):
                done = subprocess.run(child("touch", touch), capture_output=True, check=False, timeout=60)
                self.assertEqual(done.returncode, -signal.SIGSEGV, done.stderr)

    def test_gets_and_puts_stay_within_their_buffers_to_the_byte(self):
        for url in self.urls():
            with self.subTest(url=url):
                self.assertEqual(run_child(*child("exact", url)[4:]), f"{2 * len(LENGTHS)} chunks\n")

    def test_a_buffer_is_untouched_after_its_completion(self):
        for url in self.urls():
            # With a short timeout, calls end while their reads and writes go on.
            for milliseconds in [1, 20000]:
                with self.subTest(url=url, milliseconds=milliseconds):
                    said = run_child(*child("released", url, str(milliseconds))[4:])
                    self.assertEqual(said, "60 batches, 0 bytes changed\n")


def child(name, *args):
    """The command of a Python process that calls a function of this file."""
    here = os.path.dirname(os.path.abspath(__file__))
    code = f"import sys; sys.path.insert(0, {here!r}); import test_guard; test_guard.{name}(*sys.argv[1:])"
    return [sys.executable, "-X", "faulthandler", "-c", code, *args]


class Memory:
    """A buffer of `size` bytes that no Python object owns, between two protected pages."""

    def __init__(self, size, at_end=True):
        self.size = size
        self.pages = -(-size // PAGE) * PAGE
        self.start = libc.mmap(None, self.pages + 2 * PAGE, NO_ACCESS, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
        assert self.start != MAP_FAILED
        self.start += PAGE
        self.protect(READ_WRITE)
        ctypes.memset(self.start, PATTERN, self.pages)
        self.address = self.start + (self.pages - size if at_end else 0)

    def view(self):
        return memoryview((ctypes.c_ubyte * self.size).from_address(self.address)).cast("B")

    def protect(self, how):
        assert libc.mprotect(self.start, self.pages, how) == 0

    def beside(self):
        """The bytes of its pages outside the buffer."""
        before = self.address - self.start
        return ctypes.string_at(self.start, before) + ctypes.string_at(
            self.address + self.size, self.pages - before - self.size
        )

    def free(self):
        assert libc.munmap(self.start - PAGE, self.pages + 2 * PAGE) == 0


def content(i, size):
    return bytes((i + n) % 251 for n in range(min(size, 4096))).ljust(size, bytes([i + 1]))


def touch(where):
    memory = Memory(PAGE)
    if where == "released":
        memory.protect(NO_ACCESS)
    ctypes.string_at({"before": memory.address - 1, "after": memory.address + PAGE, "released": memory.address}[where], 1)


def exact(url):
    client = NativeClient(url)
    keys = [object_key(i) for i in range(2 * len(LENGTHS))]
    cases = [(size, at_end) for size in LENGTHS for at_end in (True, False)]
    stored = [Memory(size, at_end) for size, at_end in cases]
    for i, memory in enumerate(stored):
        memory.view()[:] = content(i, memory.size)
        # A put must not write to the buffer.
        memory.protect(READ)
    client.submit_batch_set(keys, [memory.view() for memory in stored])
    assert completions(client)[0][1:3] == (True, "")
    into = [Memory(size, at_end) for size, at_end in cases]
    client.submit_batch_get(keys, [memory.view() for memory in into])
    assert completions(client)[0][1:] == (True, "", [True] * len(keys))
    for i, memory in enumerate(into):
        assert bytes(memory.view()) == content(i, memory.size), f"chunk {i}"
        assert memory.beside() == bytes([PATTERN]) * (memory.pages - memory.size), f"beside chunk {i}"
    # The same for a chunk that is longer or shorter than its buffer.
    for other in (-1, 1):
        wrong = [Memory(size + other, at_end) for size, at_end in cases if size + other]
        asked = [key for key, (size, _) in zip(keys, cases, strict=True) if size + other]
        client.submit_batch_get(asked, [memory.view() for memory in wrong])
        assert completions(client)[0][3] == [False] * len(asked)
        for i, memory in enumerate(wrong):
            assert memory.beside() == bytes([PATTERN]) * (memory.pages - memory.size), f"beside buffer {i}"
    client.close()
    print(len(keys), "chunks")


def released(url, milliseconds):
    size, keys = 256 << 10, [object_key(i) for i in range(8)]
    patient = NativeClient(url)
    patient.submit_batch_set(keys, [content(i, size) for i in range(8)])
    assert completions(patient)[0][1]
    client = NativeClient(url, batch_timeout_ms=int(milliseconds))
    reused, batches = [], 0
    for _ in range(10):
        asked = {}
        for kind in ("get", "set", "get", "set", "get", "set"):
            memories = [Memory(size) for _ in keys]
            for i, memory in enumerate(memories):
                if kind == "set":
                    memory.view()[:] = content(i, size)
            submit = client.submit_batch_get if kind == "get" else client.submit_batch_set
            asked[submit(keys, [memory.view() for memory in memories])] = memories
        for id, _, _, loaded in completions(client, len(asked)):
            batches += 1
            for i, memory in enumerate(asked.pop(id)):
                if loaded and loaded[i]:
                    assert memory.view() == content(i, size), f"chunk {i}"
                # In turn: unmapped, protected, in use again.
                if i % 3 == 0:
                    memory.free()
                elif i % 3 == 1:
                    memory.protect(NO_ACCESS)
                else:
                    ctypes.memset(memory.address, PATTERN, size)
                    reused.append(memory)
    # After this, no read or write of an earlier call goes on.
    client.close()
    changed = sum(size - ctypes.string_at(memory.address, size).count(PATTERN) for memory in reused)
    print(f"{batches} batches, {changed} bytes changed")


libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
MAP_FAILED = ctypes.c_void_p(-1).value


if __name__ == "__main__":
    unittest.main()
