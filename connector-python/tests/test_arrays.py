"""Arrays and tensors: stored with their shape and dtype, and loaded without a copy."""

import array
import ctypes
import gc
import struct
import sys
import unittest

import kvconn
import ml_dtypes
import numpy
from support import TestCase, engine_key, object_key, resident_bytes

KEY = engine_key(1)
OTHER = engine_key(2)

#: The dtypes that LMCache's chunk header can name, and so files and redis keep.
IN_HEADERS = ["float16", "float32", "float64", "uint8", "bfloat16", "float8_e4m3fn", "float8_e5m2"]
#: The dtypes that only a store without that header keeps.
OTHERS = ["int8", "int16", "int32", "int64", "bool", "float8_e4m3fnuz", "float8_e5m2fnuz"]


def dtype_of(name):
    return numpy.dtype(getattr(ml_dtypes, name, name))


def numbers(name, shape=(2, 3, 4)):
    """An array of small numbers, which every dtype has."""
    return (numpy.arange(numpy.prod(shape, dtype=int)) % 7).astype(dtype_of(name)).reshape(shape)


class OnDevice:
    """A tensor of a library that has only DLPack, on a device of this type."""

    def __init__(self, source, kind=1, id=0):
        self.source, self.device = source, (kind, id)

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, *, stream=None, max_version=None):
        if self.device[0] == 2:
            raise AssertionError("the memory of a GPU was asked for")
        return self.source.__dlpack__(max_version=max_version)


class Older(OnDevice):
    """A tensor of a library from before DLPack's versions."""

    def __dlpack__(self, stream=None):
        return self.source.__dlpack__()


class OfJax(Older):
    """A read-only array whose capsule does not have the flag."""

    __module__ = "jaxlib._jax"


class ArrayCase(TestCase):
    def store(self, url=None, **options):
        store = kvconn.connect(url or f"memory://{self.id()}", **options)
        self.addCleanup(store.close)
        return store

    def files(self, **options):
        return self.store(f"fs://{self.directory()}", **options)

    def refused(self, why, call, *args, kind="invalid_input", hint="", **keywords):
        with self.assertRaisesRegex(kvconn.KvconnError, why) as raised:
            call(*args, **keywords)
        self.assertEqual(raised.exception.kind, kind)
        self.assertIn(hint, raised.exception.hint or "")

    def same(self, found, wanted):
        self.assertEqual((found.dtype, found.shape), (wanted.dtype, wanted.shape))
        self.assertEqual(found.tobytes(), wanted.tobytes())


class Storing(ArrayCase):
    def test_dtype_and_shape_come_from_the_array(self):
        redis = self.store(f"redis://127.0.0.1:{self.redis().port}")
        for store, names in ((self.store(), IN_HEADERS + OTHERS), (self.files(), IN_HEADERS), (redis, IN_HEADERS)):
            for name in names:
                # redis refuses chunks of 0 bytes.
                for shape in ((2, 3, 4), (5,), (2, 1, 3, 1), (0,), (0, 3))[: 3 if store is redis else 5]:
                    with self.subTest(store=store.name, dtype=name, shape=shape):
                        wanted = numbers(name, shape)
                        store.put(KEY, wanted)
                        chunk = store.get(KEY)
                        self.assertEqual((chunk.dtypes, chunk.shapes, chunk.format), ([name], [shape], "UNDEFINED"))
                        self.same(chunk.numpy(), wanted)

    def test_every_kind_of_array_gives_them(self):
        store, wanted = self.store(), numbers("float32", (3, 4))
        for data in (wanted, OnDevice(wanted), OnDevice(wanted, 3), OnDevice(wanted, 11), Older(wanted)):
            with self.subTest(type(data)):
                store.put(KEY, data)
                self.assertEqual(store.get(KEY).dtypes, ["float32"])
        store.put(KEY, array.array("d", [1, 2, 3]))
        self.same(store.get(KEY).numpy(), numpy.array([1.0, 2, 3]))
        store.put(KEY, memoryview(bytes(range(24))).cast("B", shape=[4, 6]))
        self.same(store.get(KEY).numpy(), numpy.arange(24, dtype="u1").reshape(4, 6))
        store.put(KEY, ((ctypes.c_int32 * 2) * 3)((1, 2), (3, 4), (5, 6)))
        self.same(store.get(KEY).numpy(), numpy.array([[1, 2], [3, 4], [5, 6]], dtype="i4"))
        frozen = numbers("float16")
        frozen.flags.writeable = False
        store.put(KEY, frozen)
        self.same(store.get(KEY).numpy(), frozen)

    def test_plain_bytes_stay_plain(self):
        store = self.store()
        for data in (b"hello", bytearray(b"hello"), memoryview(b"hello"), array.array("B", b"hello"), ctypes.create_string_buffer(b"hell")):
            store.put(KEY, data)
            self.assertEqual((store.get(KEY).format, store.get(KEY).shapes), ("BINARY", [(5, 0, 0, 0)]))
        store.put(KEY, numpy.frombuffer(b"hello", "u1"))
        self.assertEqual((store.get(KEY).format, store.get(KEY).shapes), ("UNDEFINED", [(5,)]))

    def test_an_array_that_a_store_cannot_keep_is_stored_as_bytes_without_a_dtype(self):
        files = self.files()
        resp = self.store(f"resp://127.0.0.1:{self.redis().port}")
        record = numpy.array([(1, 2.5), (3, 4.5)], dtype=[("O", "i4"), ("b", "f8")])
        raw = [(files, KEY, numbers(name)) for name in OTHERS]
        raw += [
            (files, KEY, numbers("float32", (1, 2, 1, 3, 2))),
            (files, KEY, numbers("float32", (2, 0))),
            (files, object_key(1), numbers("float32")),
            (resp, KEY, numbers("bfloat16")),
            (self.store(), KEY, numbers("uint16")),
            (self.store(), KEY, numpy.array(5, dtype="f4")),
            (self.store(), KEY, numpy.array(5, dtype=ml_dtypes.bfloat16)),
            (self.store(), KEY, numpy.float32(5)),
            (self.store(), KEY, numpy.array([1 + 2j, 3])),
            (self.store(), KEY, record),
        ]
        for store, key, wanted in raw:
            with self.subTest(store=store.name, dtype=str(wanted.dtype), shape=wanted.shape):
                store.put(key, wanted)
                chunk = store.get(key)
                self.assertEqual((chunk.format, chunk), ("BINARY", wanted.tobytes()))
                self.refused("keeps no dtype and shape of this chunk", chunk.numpy, hint="dtype=")
                with self.assertRaisesRegex(BufferError, "keeps no dtype and shape"):
                    numpy.from_dlpack(chunk)
                self.same(chunk.numpy(wanted.dtype, wanted.shape), wanted)
                # A given dtype must be kept.
                if store is files and key == KEY and wanted.ndim <= 4 and wanted.size:
                    self.refused("header has no code", store.put, KEY, wanted, dtype=str(wanted.dtype), kind="unsupported")

    def test_a_chunk_of_another_store_keeps_its_layout(self):
        store, files = self.store(), self.files()
        for given in ({"shape": (2, 3), "dtype": "bfloat16", "format": "KV_T2D"}, {"shape": (3,), "dtype": "int32"}, {}):
            store.put(KEY, bytes(12), **given)
            chunk = store.get(KEY)
            for target, wanted in ((self.store("memory://other"), given), (files, given if given.get("dtype") != "int32" else {})):
                target.put(OTHER, chunk)
                target.batched_put({KEY: chunk})
                for found in target.batched_get([KEY, OTHER]):
                    self.assertEqual(found, chunk)
                    self.assertEqual(found.format, wanted.get("format", "UNDEFINED" if wanted else "BINARY"))
                    self.assertEqual(found.dtypes, [wanted.get("dtype", "uint8")])
                    self.assertEqual(found.shapes, [wanted.get("shape", (12, 0, 0, 0))])

    def test_a_given_shape_dtype_or_format_wins(self):
        store, data = self.store(), numbers("int16", (2, 8))
        for keywords, wanted in (
            ({"format": "KV_2LTD"}, ("int16", (2, 8), "KV_2LTD")),
            ({"shape": (4, 4)}, ("int16", (4, 4), "UNDEFINED")),
            ({"shape": (numpy.int64(16),)}, ("int16", (16,), "UNDEFINED")),
            ({"dtype": "bfloat16"}, ("bfloat16", (2, 8), "UNDEFINED")),
            ({"dtype": numpy.float16}, ("float16", (2, 8), "UNDEFINED")),
            ({"dtype": numpy.dtype("float16")}, ("float16", (2, 8), "UNDEFINED")),
            ({"dtype": ml_dtypes.bfloat16}, ("bfloat16", (2, 8), "UNDEFINED")),
            ({"dtype": "torch.float32", "shape": [2, 4]}, ("float32", (2, 4), "UNDEFINED")),
            ({"format": "BINARY"}, ("uint8", (32, 0, 0, 0), "BINARY")),
        ):
            with self.subTest(keywords):
                store.put(KEY, data, **keywords)
                chunk = store.get(KEY)
                self.assertEqual((chunk.dtypes, chunk.shapes, chunk.format), ([wanted[0]], [wanted[1]], wanted[2]))
        store.put(KEY, data.tobytes(), dtype="float16", shape=(4, 4))
        self.assertEqual((store.get(KEY).dtypes, store.get(KEY).format), (["float16"], "UNDEFINED"))
        self.refused("is 64 bytes, and the data has 32", store.put, KEY, data, dtype="float32")
        self.refused("is 30 bytes, and the data has 32", store.put, KEY, data, shape=(3, 5))
        self.refused("the data has no shape", store.put, KEY, bytes(4), dtype="float32", hint="together")
        self.refused("the data has no dtype", store.put, KEY, numbers("uint16"), shape=(24,), hint="together")
        self.refused("`uint9` is not a dtype; write one of float16", store.put, KEY, data, dtype="uint9")
        self.refused("is not a dtype", store.put, KEY, data, dtype=float)

    def test_memory_with_holes_or_on_another_device_is_refused(self):
        store, data = self.store(), numbers("float32", (4, 6))
        for wrong, why, hint in (
            (data[:, ::2], "not contiguous", "numpy.ascontiguousarray(x)"),
            (data[::-1], "not contiguous", "x.contiguous()"),
            (data.T, "not contiguous", "x.contiguous()"),
            (OnDevice(data[:, ::2]), "not contiguous", "x.contiguous()"),
            (OnDevice(data[::-1]), "not contiguous", "x.contiguous()"),
            (data.astype(">f4"), "other byte order", "newbyteorder"),
            (data.astype(">c8"), "other byte order", "newbyteorder"),
            (numpy.zeros(2, [("a", "i1"), ("b", ">i4")]), "other byte order", "newbyteorder"),
            (numpy.array(["kv"], dtype=">U2"), "other byte order", "newbyteorder"),
            (numpy.array([{}, []], dtype=object), "Python objects", "numbers"),
            (numpy.array([(1, None)], dtype=[("a", "i4"), ("b", "O")]), "Python objects", "numbers"),
            (numpy.array(["2026-01-01"], dtype="M8[D]"), "does not give its memory", ""),
            (OnDevice(data, 2, 1), r"is on another device \(CUDA, number 1\)", "x.cpu()"),
            (OnDevice(data, 8), r"is on another device \(Metal, number 0\)", "x.cpu()"),
        ):
            for call, argument in ((store.put, "data"), (store.get_into, "buffer")):
                with self.subTest(why=why, call=call):
                    self.refused(f"`{argument}` .*{why}", call, KEY, wrong, hint=hint)
        self.assertIsNone(store.get(KEY))

    def test_an_exporter_that_fails_says_why(self):
        class Unwilling(OnDevice):
            def __dlpack__(self, **_):
                raise RuntimeError("it has a gradient")

        class NotATensor(OnDevice):
            def __dlpack__(self, **_):
                return "no capsule"

        class Interrupted(OnDevice):
            def __dlpack__(self, **_):
                raise KeyboardInterrupt

        store = self.store()
        self.refused("`data` does not give its memory: it has a gradient", store.put, KEY, Unwilling(None))
        self.refused("`data` does not give its memory", store.put, KEY, NotATensor(None))
        with self.assertRaises(KeyboardInterrupt):
            store.put(KEY, Interrupted(None))

    def test_the_array_is_free_after_the_call(self):
        store, data = self.files(), numbers("float32")
        before = sys.getrefcount(data)
        for lent in (data, OnDevice(data), Older(data)):
            store.put(KEY, lent)
            store.get_into(KEY, lent)
            store.batched_put({KEY: lent})
            self.refused("header has no code", store.put, KEY, lent, dtype="int32", kind="unsupported")
            self.refused("is 48 bytes", store.put, KEY, lent, dtype="float16")
            self.refused("buffer 0 and buffer 1 overlap", store.batched_get_into, [KEY, KEY], [lent, lent])
        del lent
        self.assertEqual(sys.getrefcount(data), before)


class Loading(ArrayCase):
    def chunk(self, wanted, store=None, **keywords):
        store = store or self.store()
        store.put(KEY, wanted, **keywords)
        return store.get(KEY)

    def test_an_array_is_the_chunks_own_memory_read_only(self):
        for name in IN_HEADERS + OTHERS:
            wanted = numbers(name)
            chunk = self.chunk(wanted)
            bytes_of = numpy.frombuffer(chunk, "u1")
            arrays = [chunk.numpy()]
            if name not in dir(ml_dtypes):
                arrays.append(numpy.from_dlpack(chunk))
            for found in arrays:
                self.same(found, wanted)
                self.assertEqual(found.ctypes.data, bytes_of.ctypes.data)
                self.assertFalse(found.flags.writeable)
                self.assertTrue(found.flags.aligned and found.flags.c_contiguous)

    def test_a_given_dtype_or_shape_replaces_the_stored_one(self):
        wanted = numbers("float32", (4, 6))
        chunk = self.chunk(wanted)
        self.same(chunk.numpy(shape=(6, 4)), wanted.reshape(6, 4))
        self.same(chunk.numpy(shape=(2, -1)), wanted.reshape(2, 12))
        self.same(chunk.numpy("int32"), wanted.view("i4"))
        self.same(chunk.numpy(numpy.uint8), wanted.view("u1").reshape(-1))
        self.same(chunk.numpy("bfloat16", (4, 12)), wanted.view(ml_dtypes.bfloat16))
        self.same(chunk.numpy(ml_dtypes.bfloat16), wanted.view(ml_dtypes.bfloat16).reshape(-1))
        self.refused(r"\(5, 5\) has 25 elements, and the chunk has 24", chunk.numpy, shape=(5, 5))
        # numpy would follow the stored bytes as addresses.
        for objects in (object, [("a", "i4"), ("b", "O"), ("c", "i4")]):
            self.refused("no Python objects", chunk.numpy, objects)
        self.refused("5 bytes are not a whole number", self.chunk(b"hello").numpy, "float16")
        self.same(self.chunk(b"hello").numpy("uint8"), numpy.frombuffer(b"hello", "u1"))

    def test_each_group_of_layers_is_an_array(self):
        server = self.redis()
        store, first, second = self.store(f"redis://127.0.0.1:{server.port}"), numbers("float16", (2, 3)), numbers("uint8", (5,))
        header = struct.pack("<12i", 17, 1, 2, 2, 3, 0, 0, 6, 5, 0, 0, 0)
        for name, value in ((f"{KEY}metadata", header), (f"{KEY}kv_bytes", first.tobytes() + second.tobytes())):
            escaped = "".join(f"\\x{byte:02x}" for byte in value)
            self.assertEqual(server.ask(f'SET {name} "{escaped}"'), b"+OK\r\n")
        chunk = store.get(KEY)
        self.assertEqual(chunk.shapes, [(2, 3), (5,)])
        self.same(chunk.numpy(group=0), first)
        self.same(chunk.numpy(group=1), second)
        self.refused("the chunk has 2 groups of layers", chunk.numpy, hint="chunk.numpy(group=0)")
        self.refused("no group 2", chunk.numpy, group=2)
        store.put(OTHER, chunk)
        self.assertEqual((store.get(OTHER).shapes, store.get(OTHER).format), (chunk.shapes, chunk.format))
        with self.assertRaisesRegex(BufferError, "2 groups of layers"):
            numpy.from_dlpack(chunk)

    def test_the_protocol_of_dlpack(self):
        wanted = numbers("float32")
        chunk = self.chunk(wanted)
        self.assertEqual(chunk.__dlpack_device__(), (1, 0))
        self.assertIn('"dltensor"', repr(chunk.__dlpack__()))
        self.assertIn('"dltensor"', repr(chunk.__dlpack__(max_version=(0, 8))))
        for version in ((1, 0), (1, 3), (2, 0)):
            self.assertIn('"dltensor_versioned"', repr(chunk.__dlpack__(max_version=version)))
        for keywords in ({"stream": 1}, {"dl_device": (2, 0)}):
            with self.assertRaises(BufferError):
                chunk.__dlpack__(**keywords)
        copy = numpy.from_dlpack(chunk, copy=True)
        self.same(copy, wanted)
        copy[:] = 0
        self.same(chunk.numpy(), wanted)

    def test_memory_lives_as_long_as_its_arrays_and_not_longer(self):
        wanted = numbers("float32", (1 << 18,))
        makers = [
            lambda chunk: chunk,
            lambda chunk: chunk.numpy()[5:],
            lambda chunk: numpy.from_dlpack(chunk),
            lambda chunk: chunk.__dlpack__(),
            lambda chunk: chunk.__dlpack__(max_version=(1, 0)),
        ]
        for i, make in enumerate(makers):
            with self.subTest(i):
                # The pool has room for one chunk.
                store = self.files(pool_bytes=3 << 19)
                store.put(KEY, wanted)
                made = make(store.get(KEY))
                with self.assertRaises(kvconn.KvconnError) as raised:
                    store.get(KEY)
                self.assertEqual(raised.exception.kind, "pool_full")
                del made
                made = make(store.get(KEY))
                store.close()
                del store
                gc.collect()
                if isinstance(made, numpy.ndarray):
                    self.assertEqual(made[-1], wanted[-1])

    def test_nothing_leaks(self):
        chunk = self.chunk(numbers("float32", (1 << 18,)))
        before = resident_bytes()
        for _ in range(300):
            numpy.from_dlpack(chunk, copy=True)
            chunk.__dlpack__(copy=True)
            chunk.__dlpack__(copy=True, max_version=(1, 0))
        # Each copy has one megabyte.
        self.assertLess(resident_bytes() - before, 50 << 20)


class Filling(ArrayCase):
    def test_a_tensor_is_filled(self):
        store = self.files()
        for name in IN_HEADERS:
            wanted = numbers(name)
            store.put(KEY, wanted)
            targets = [numpy.zeros_like(wanted), numpy.zeros(24, wanted.dtype), numpy.zeros(wanted.nbytes, "u1"), bytearray(wanted.nbytes)]
            for target in targets:
                self.assertEqual(store.get_into(KEY, target), wanted.nbytes)
                self.assertEqual(bytes(memoryview(target.view("u1") if hasattr(target, "view") else target)), wanted.tobytes())
        pinned = numpy.zeros((2, 3, 4), "f4")
        store.put(KEY, numbers("float32"))
        for lent in (OnDevice(pinned, 3), Older(pinned)):
            pinned[:] = 0
            store.get_into(KEY, lent)
            self.same(pinned, numbers("float32"))

    def test_a_tensor_of_another_dtype_or_shape_is_an_error(self):
        store = self.files()
        store.put(KEY, numbers("bfloat16", (2, 6)))
        for target in (
            numpy.zeros((2, 6), "f2"),
            numpy.zeros(12, "f2"),
            numpy.zeros(6, "f4"),
            numpy.zeros((2, 6), "i2"),
            numpy.zeros((6, 2), ml_dtypes.bfloat16),
            numpy.zeros((3, 6), ml_dtypes.bfloat16),
        ):
            for call in (lambda: store.get_into(KEY, target), lambda: store.batched_get_into([KEY], [target])):
                self.refused("the chunk is `UNDEFINED bfloat16", call, kind="size_mismatch", hint="its own dtype and shape")
        good, bad = numpy.zeros((2, 6), ml_dtypes.bfloat16), numpy.zeros((2, 6), "f2")
        filled, refused, missed = store.batched_get_into([KEY, KEY, OTHER], [good, bad, bad.copy()], return_exceptions=True)
        self.assertEqual((filled, refused.kind, refused.key, missed), (24, "size_mismatch", KEY, None))
        self.same(good, numbers("bfloat16", (2, 6)))

    def test_memory_that_must_not_change_is_refused(self):
        store, data = self.store(), numbers("float32")
        store.put(KEY, numpy.zeros_like(data))
        frozen = data.copy()
        frozen.flags.writeable = False
        for target in (frozen, OnDevice(frozen), OfJax(data), store.get(KEY), bytes(96)):
            self.refused("`buffer` is read-only", store.get_into, KEY, target)
        self.same(data, numbers("float32"))
        store.put(KEY, OfJax(data))
        self.same(store.get(KEY).numpy(), data)

    def test_a_chunk_without_a_dtype_fills_any_tensor(self):
        store = self.files()
        store.put(KEY, numbers("float32").tobytes())
        target = numpy.zeros((2, 3, 4), "f4")
        self.assertEqual(store.get_into(KEY, target), 96)
        self.same(target, numbers("float32"))


class Batches(ArrayCase):
    def test_a_batch_takes_any_iterable(self):
        store, wanted = self.store(), [numbers("bfloat16", (2, i + 1)) for i in range(3)]
        keys = [engine_key(i) for i in range(3)]
        pairs = list(zip(keys, wanted))
        for items in (pairs, tuple(pairs), dict(pairs), iter(pairs), (pair for pair in pairs), dict(pairs).items(), [list(pair) for pair in pairs]):
            with self.subTest(type(items)):
                store.batched_remove(keys)
                self.assertEqual(store.batched_put(items), [None] * 3)
                for chunk, array in zip(store.batched_get(key for key in keys), wanted):
                    self.same(chunk.numpy(), array)
        targets = [numpy.zeros_like(array) for array in wanted]
        self.assertEqual(store.batched_get_into(iter(keys), iter(targets)), [array.nbytes for array in wanted])
        for target, array in zip(targets, wanted):
            self.same(target, array)
        self.assertEqual(store.batched_exists(dict(pairs)), [True] * 3)
        self.assertEqual(store.batched_contains(iter(keys)), 3)
        self.assertEqual(len(store.get_prefix(iter(keys))), 3)
        self.assertEqual(store.batched_remove(set(keys)), [True] * 3)

    def test_one_layout_for_a_batch_of_bytes(self):
        store = self.store()
        store.batched_put({KEY: bytes(12), OTHER: bytes(12)}, shape=(2, 3), dtype="float16", format="KV_T2D")
        for chunk in store.batched_get([KEY, OTHER]):
            self.assertEqual((chunk.shapes, chunk.dtypes, chunk.format), ([(2, 3)], ["float16"], "KV_T2D"))
        good, bad = store.batched_put({KEY: bytes(12), OTHER: bytes(13)}, shape=(2, 3), dtype="float16", return_exceptions=True)
        self.assertEqual((good, bad.kind), (None, "invalid_input"))

    def test_other_objects_than_batches_are_refused(self):
        store = self.store()
        for items, why in (({KEY}, "item 0 is not a pair"), ([(KEY, b"1"), (KEY,)], "item 1 is not a pair"), (KEY, "not one str"), (5, "iterable")):
            with self.assertRaises(TypeError):
                store.batched_put(items)
            self.refused(why, store.batched_put, items)

        def broken():
            yield KEY, b"1"
            raise LookupError("the program's own")

        with self.assertRaisesRegex(LookupError, "the program's own"):
            store.batched_put(broken())
        self.assertIsNone(store.get(KEY))


class Asyncio(ArrayCase, unittest.IsolatedAsyncioTestCase):
    async def test_tensors_on_asyncio(self):
        store, wanted = self.files().aio, numbers("float16")
        data = OnDevice(wanted.copy())
        before = sys.getrefcount(data.source)
        await store.put(KEY, data)
        chunk = await store.get(KEY)
        self.same(chunk.numpy(), wanted)
        target = numpy.zeros_like(wanted)
        self.assertEqual(await store.get_into(KEY, OnDevice(target)), wanted.nbytes)
        self.same(target, wanted)
        await store.batched_put({OTHER: data})
        with self.assertRaises(kvconn.KvconnError):
            await store.get_into(KEY, numpy.zeros((4, 6), "f2"))
        self.assertEqual(sys.getrefcount(data.source), before)


if __name__ == "__main__":
    unittest.main()
