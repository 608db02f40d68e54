"""The base of the tests of `kvconn.sglang`, on the fakes of SGLang's interface."""

import hashlib
import importlib
import logging
import random
import sys
from unittest import mock

import kvconn
import sglang_fakes as fakes
from kvconn import _sglang_hits as hits  # noqa: F401: for the tests
from kvconn import _sglang_names as names  # noqa: F401: for the tests
from sglang_fakes import Config, Indices, MHATokenToKVPoolHost
from support import TestCase

PAGE = 4
# A busy machine may need longer than the default for a question.
PATIENT = {"lookup_timeout_ms": 30_000}
_patched = mock.patch.dict(sys.modules, fakes.modules())
# Without any handler, Python prints warnings.
_silent = logging.NullHandler()


def start():
    """Puts the fakes in SGLang's place, and imports `kvconn.sglang`. For `setUpModule`."""
    _patched.start()
    logging.getLogger().addHandler(_silent)
    global backend
    backend = importlib.import_module("kvconn.sglang")


def stop():
    """Takes the fakes away. For `tearDownModule`."""
    logging.getLogger().removeHandler(_silent)
    _patched.stop()


def key(i):
    return hashlib.sha256(str(i).encode()).hexdigest()


def keys(count, start=0):
    return [key(i) for i in range(start, start + count)]


def indices(pages, page_size=PAGE, first=0):
    return Indices(range(first * page_size, (first + pages) * page_size))


def fill(pool, pages, seed=0):
    """Writes bytes of each page, and gives them."""
    found = []
    for page in range(pages):
        data = random.Random(f"{seed} {page}").randbytes(sum(pool.parts))
        pool.set_from_flat_data_page(page * pool.page_size, fakes.Tensor(data))
        found.append(data)
    return found


def flat(pool, pages, first=0):
    return [bytes(pool.get_data_page(page * pool.page_size)) for page in range(first, first + pages)]


class Case(TestCase):
    def setUp(self):
        self.url = f"memory://{self.id()}"
        # The memory of a name is there as long as one store of that name is open.
        self.store = kvconn.connect(self.url)
        self.addCleanup(self.store.close)

    def open(self, pool=None, sidecars=None, **config):
        options = config.pop("options", {})
        made = backend.KvconnHiCache(Config({"url": self.url, "interface_v1": 1, **PATIENT, **options}, **config), {})
        self.addCleanup(made.close)
        made.register_mem_pool_host(pool if pool is not None else MHATokenToKVPoolHost())
        for name, side in (sidecars or {}).items():
            made.register_mem_host_pool_v2(side, name)
        return made

    def stored(self):
        return sorted(self.store.list())

    def model(self, **config):
        """The model field of the names."""
        with self.subTest(**config):
            made = self.open(**config)
            made.batch_set_v1(keys(1), indices(1))
            model = self.stored()[0].split("@")[0]
            made.clear()
            self.assertEqual(self.stored(), [])
            return model
