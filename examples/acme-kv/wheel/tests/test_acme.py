"""Tests of the installed package. Run `python -m unittest` in this folder."""

import asyncio
import unittest

import acme
import kvconn

URL = "acme://localhost:0"
KEYS = [f"meta-llama/Llama-3.1-8B@1@0@{i:x}@bfloat16" for i in range(3)]


class Acme(unittest.TestCase):
    def test_a_chunk_comes_back(self):
        with kvconn.connect(URL) as store:
            self.assertIsNone(store.get(KEYS[0]))
            store.put(KEYS[0], b"hello")
            self.assertEqual(store.get(KEYS[0]), b"hello")
            self.assertEqual(store.batched_exists(KEYS), [True, False, False])
            self.assertTrue(store.remove(KEYS[0]))
            self.assertFalse(store.exists(KEYS[0]))

    def test_it_works_on_asyncio(self):
        async def main():
            async with kvconn.connect_async(URL) as store:
                await asyncio.gather(*(store.put(key, key.encode()) for key in KEYS))
                return [bytes(chunk) for chunk in await store.batched_get(KEYS)]

        self.assertEqual(asyncio.run(main()), [key.encode() for key in KEYS])

    def test_lmcaches_url_opens_it(self):
        url = "external://localhost:0/acme.kv/?connector_name=AcmeConnector"
        with kvconn.connect(url) as store, acme.library.connect(URL) as same_kind:
            self.assertEqual(store.name, "acme.kv/AcmeConnector")
            self.assertEqual(store.name, same_kind.name)

    def test_options_reach_the_connector(self):
        with kvconn.connect(URL, max_chunks=0) as store, self.assertRaises(kvconn.KvconnError) as raised:
            store.put(KEYS[0], b"hello")
        self.assertEqual(raised.exception.kind, "store_full")
        with self.assertRaisesRegex(kvconn.InvalidError, "max_chunks"):
            kvconn.connect(URL, max_chunk=1)


if __name__ == "__main__":
    unittest.main()
