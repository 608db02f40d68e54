"""Tensors of other libraries that DLPack's rules forbid: an error, and no access to memory that is not theirs."""

import ctypes
import unittest

import kvconn
from support import TestCase, engine_key

KEY = engine_key(1)

new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype = ctypes.py_object
new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)


class Managed(ctypes.Structure):
    """`DLManagedTensorVersioned`, without the parts that kvconn does not read."""

    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
    ]


class Tensor:
    """A float32 tensor of two rows of three, but for the fields that are given."""

    def __init__(self, lengths=(2, 3), **fields):
        self.memory = (ctypes.c_float * 6)(*range(6))
        self.lengths = (ctypes.c_int64 * len(lengths))(*lengths)
        usual = {
            "major": 1,
            "data": ctypes.addressof(self.memory),
            "device_type": 1,
            "ndim": len(lengths),
            "code": 2,
            "bits": 32,
            "lanes": 1,
            "shape": ctypes.addressof(self.lengths),
        }
        self.managed = Managed(**usual | fields)

    def __dlpack_device__(self):
        return (1, 0)

    def __dlpack__(self, **_):
        return new_capsule(ctypes.addressof(self.managed), b"dltensor_versioned", None)


class Odd(TestCase):
    def setUp(self):
        self.store = kvconn.connect(f"memory://{self.id()}")
        self.addCleanup(self.store.close)

    def test_a_tensor_that_breaks_the_rules_is_refused(self):
        self.store.put(KEY, Tensor())
        self.assertEqual(self.store.get(KEY).numpy().tolist(), [[0, 1, 2], [3, 4, 5]])
        for why, tensor in (
            ("the shape [-2, -3], with a negative length", Tensor((-2, -3))),
            ("the shape [2, -3], with a negative length", Tensor((2, -3))),
            ("has -1 dimensions", Tensor(ndim=-1)),
            ("has 2147483647 dimensions", Tensor(ndim=2**31 - 1)),
            ("has 2 dimensions and no shape", Tensor(shape=None)),
            ("has no memory", Tensor(data=None)),
            ("has no memory", Tensor((2**62, 2**62))),
            ("has no memory", Tensor(byte_offset=2**64 - 1)),
            ("has no memory", Tensor(byte_offset=2**64 - 2**40)),
            ("elements of 1 x 0 bits", Tensor(bits=0)),
            ("elements of 1 x 4 bits", Tensor(bits=4)),
            ("elements of 0 x 32 bits", Tensor(lanes=0)),
            ("elements of 2 x 32 bits", Tensor(lanes=2)),
            ("holds handles", Tensor(code=3, bits=64)),
            ("version 2 of DLPack", Tensor(major=2)),
            ("on a device of type 2", Tensor(device_type=2)),
        ):
            for call in (self.store.put, self.store.get_into):
                with self.subTest(why=why, call=call), self.assertRaises(kvconn.InvalidError) as raised:
                    call(KEY, tensor)
                self.assertIn(why, str(raised.exception))
        self.assertEqual(self.store.get(KEY).numpy().tolist(), [[0, 1, 2], [3, 4, 5]])

    def test_an_array_that_gives_itself_as_its_integers_is_refused(self):
        class Same:
            class dtype:
                itemsize = 2

                def __str__(self):
                    return "bfloat16"

            dtype = dtype()

            def __dlpack_device__(self):
                return (1, 0)

            def __dlpack__(self, **_):
                raise RuntimeError("no export")

            def view(self, _):
                return self

        with self.assertRaisesRegex(kvconn.InvalidError, "`data` does not give its memory: no export"):
            self.store.put(KEY, Same())
        Same.dtype = "bfloat16"
        with self.assertRaisesRegex(kvconn.InvalidError, "`data` does not give its memory: .*itemsize"):
            self.store.put(KEY, Same())

    def test_ctrl_c_in_an_exporter_ends_a_batch(self):
        class Interrupted(Tensor):
            def __dlpack__(self, **_):
                raise KeyboardInterrupt

        memory = bytearray(24)
        items = [(KEY, memory), (engine_key(2), Interrupted())]
        with self.assertRaises(KeyboardInterrupt):
            self.store.batched_put(items, return_exceptions=True)
        with self.assertRaises(KeyboardInterrupt):
            self.store.batched_get_into(*zip(*items), return_exceptions=True)
        # Nothing holds the other items.
        memory.append(1)
        self.assertIsNone(self.store.get(KEY))


if __name__ == "__main__":
    unittest.main()
