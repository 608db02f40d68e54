"""The servers of a store, as Python programs see them."""

import asyncio
import unittest

import kvconn
from support import TestCase


class Servers(TestCase):
    def test_a_store_names_its_servers(self):
        server = self.redis()
        with kvconn.connect(f"redis://127.0.0.1:{server.port}") as store:
            (found,) = store.servers()
            self.assertEqual((found["address"], found["role"]), (f"127.0.0.1:{server.port}", "master"))
            self.assertTrue(found["details"]["version"].startswith("redis "), found)
            self.assertIsNone(found["error"])
            server.kill()
            (found,) = store.servers()
            self.assertIsInstance(found["error"], kvconn.UnavailableError)

    def test_a_store_without_servers_has_none(self):
        async def servers():
            async with await kvconn.connect_async(f"memory://{self.id()}") as store:
                return await store.servers()

        self.assertEqual(asyncio.run(servers()), [])


if __name__ == "__main__":
    unittest.main()
