"""Every kind of buffer that a store reads from or writes to."""

import array
import ctypes
import mmap
import unittest

import kvconn
import numpy
from support import TestCase, completions, engine_key, object_key

KEY = engine_key(1)
DATA = bytes(range(64))


class Rows(ctypes.Structure):
    _fields_ = [("first", ctypes.c_uint32 * 4), ("second", ctypes.c_double * 6)]


def buffers():
    """A writable buffer of 64 bytes of each kind, by name."""
    anonymous = mmap.mmap(-1, 64)
    made = {
        "bytearray": bytearray(64),
        "memoryview": memoryview(bytearray(128))[32:96],
        "two dimensions": memoryview(bytearray(64)).cast("B", shape=[4, 16]),
        "array.array": array.array("d", bytes(64)),
        "mmap": anonymous,
        "ctypes array": (ctypes.c_uint8 * 64)(),
        "ctypes array of numbers": (ctypes.c_int32 * 16)(),
        "ctypes array of arrays": ((ctypes.c_float * 4) * 4)(),
        "ctypes array of structures": (Rows * 1)(),
        "ctypes string": ctypes.create_string_buffer(64),
        "numpy": numpy.zeros((4, 16), dtype=numpy.uint8),
        "ctypes memory of another owner": (ctypes.c_uint8 * 64).from_buffer(bytearray(64)),
    }
    return made


def bytes_of(buffer):
    return memoryview(buffer).tobytes()


class Buffers(TestCase):
    def store(self):
        store = kvconn.connect(f"memory://{self.id()}")
        self.addCleanup(store.close)
        return store

    def test_a_store_reads_from_and_writes_to_every_contiguous_buffer(self):
        store = self.store()
        store.put(KEY, DATA)
        for name, buffer in buffers().items():
            with self.subTest(name):
                self.assertEqual(store.get_into(KEY, buffer), 64)
                self.assertEqual(bytes_of(buffer), DATA)
                self.assertEqual(store.get(KEY) == buffer, memoryview(buffer).itemsize == 1)
                store.put(engine_key(2), buffer)
                self.assertEqual(store.get(engine_key(2)), DATA)
                store.batched_put([(engine_key(3), buffer)])
                self.assertEqual(store.get(engine_key(3)), DATA)
                store.put(engine_key(4), DATA[::-1])
                self.assertEqual(store.batched_get_into([engine_key(4)], [buffer]), [64])
                self.assertEqual(bytes_of(buffer), DATA[::-1])

    def test_a_native_client_takes_them_too(self):
        client = kvconn.NativeClient(f"memory://{self.id()}")
        self.addCleanup(client.close)
        made = list(buffers().values())
        keys = [object_key(i) for i in range(len(made))]
        client.submit_batch_set(keys, [DATA] * len(keys))
        self.assertTrue(completions(client)[0][1])
        client.submit_batch_get(keys, made)
        self.assertEqual(completions(client)[0][3], [True] * len(keys))
        for buffer in made:
            self.assertEqual(bytes_of(buffer), DATA)

    def test_a_read_only_buffer_is_not_written(self):
        store = self.store()
        store.put(KEY, DATA)
        for buffer in [bytes(64), memoryview(bytearray(64)).toreadonly()]:
            with self.assertRaisesRegex(kvconn.InvalidError, "`buffer` is read-only"):
                store.get_into(KEY, buffer)

    def test_a_buffer_with_holes_and_an_object_without_a_buffer_are_refused(self):
        store = self.store()
        wrong = [memoryview(bytearray(128))[::2]]
        wrong += [numpy.zeros((8, 16), dtype=numpy.uint8)[:, ::2], numpy.zeros((4, 16), order="F")]
        for buffer in wrong:
            with self.assertRaisesRegex(kvconn.InvalidError, "`data` is not contiguous"):
                store.put(KEY, buffer)
            with self.assertRaisesRegex(kvconn.InvalidError, "`buffer` is not contiguous"):
                store.get_into(KEY, buffer)
        for data, why in ((64, "`data` is of the type int; give bytes, an array"), ("a", "type str; give `text.encode\\(\\)`")):
            with self.assertRaisesRegex(kvconn.InvalidTypeError, why):
                store.put(KEY, data)

    def test_the_export_ends_with_the_call(self):
        store = self.store()
        for grown in [bytearray(DATA), array.array("B", DATA)]:
            store.put(KEY, grown)
            grown.append(1)
        owner = bytearray(64)
        view = (ctypes.c_uint8 * 64).from_buffer(owner)
        store.get_into(KEY, view)
        del view
        owner.append(1)


if __name__ == "__main__":
    unittest.main()
