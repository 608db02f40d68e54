"""No password is printed: not by an exception, its arguments or its traceback, a `repr`, a warning, a pickle, or a log line."""

import gc
import logging
import pickle
import traceback
import unittest
import warnings

import kvconn
from kvconn import NativeClient, _kvconn, _libraries
from support import TestCase, completions, engine_key, free_port, object_key, wait_until

SECRET = "s3cr3tPassw0rd"
URLS = [
    "redis://:{}@127.0.0.1:{port}",
    "redis://user:{}@127.0.0.1:{port}?no_such_option=1",
    "redis://127.0.0.1:{port}?password={}&no_such_option=1",
    "redis://127.0.0.1:{port}/0#password={}",
    "redis://127.0.0.1:{port}?passwrod={}",
    "127.0.0.1:{port}?password={}",
    "redis:u:{}@127.0.0.1:{port}?password={}",
    "redis:///u:{}@127.0.0.1:{port}",
    "redis://u:12/{}@127.0.0.1:{port}",
    "redis://u:{}/@127.0.0.1:{port}",
    "redis://u:{}\ud800@127.0.0.1:{port}",
    "rediss://u:{}@127.0.0.1:{port}",
    "tiered://?front=memory://x&back=redis://u:{}@127.0.0.1:{port}&no_such_option=1",
    "tiered://?front=memory://x&back=redis://u:12/{}@127.0.0.1:{port}",
    "audit://?actual_remote_url=redis%3A%2F%2Fu%3A{}%40127.0.0.1%3A{port}",
    "external://u:{}@127.0.0.1:{port}/kvconn.rediss/?connector_name=RedisConnector",
    "external://u:{}@127.0.0.1:{port}/kvconn.redis/?connector_name=RedisConnectr&password={}",
    "plugin://u:{}@x",
]
OPENERS = {
    "connect": kvconn.connect,
    "_kvconn.connect": _kvconn.connect,
    "NativeClient": NativeClient,
    "LMCacheRemote": lambda url: _kvconn.LMCacheRemote(url, None, [], None, None),
    "_entry_of": _kvconn._entry_of,
    "_opener_of": lambda url: _kvconn._opener_of(url, [url]),
    "of_url": _libraries.of_url,
}


def everything(e):
    """All that a program may print of an exception and of those before it."""
    said = []
    while e is not None:
        said += [str(e), repr(e), repr(e.args), repr(vars(e)), repr(getattr(e, "__notes__", None))]
        # Without the lines of this file and without local variables.
        said += traceback.format_exception_only(e)
        if isinstance(e, kvconn.KvconnError):
            said.append(repr(pickle.dumps(e)))
        else:
            said += [repr(getattr(e, name, None)) for name in ("object", "reason", "filename", "name", "obj")]
        e = e.__cause__ or e.__context__
    return "\n".join(said)


class Secrets(TestCase):
    def setUp(self):
        self.said = []
        handler = logging.Handler()
        handler.emit = lambda record: self.said.append(f"{record.getMessage()} {record.args!r} {record.name}")
        logger = logging.getLogger("kvconn")
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(1)
        self.addCleanup(logger.removeHandler, handler)
        self.addCleanup(logger.setLevel, level)

    def check(self, *more):
        for said in [*self.said, *more]:
            self.assertNotIn(SECRET, said)
            self.assertNotIn(SECRET.lower(), said.lower())

    def test_a_url_that_is_wrong_or_whose_server_is_away(self):
        for url in URLS:
            for name, opener in OPENERS.items():
                with self.subTest(url=ascii(url), opener=name):
                    try:
                        opened = opener(url.replace("{}", SECRET).replace("{port}", str(free_port())))
                        self.said.append(repr(opened))
                        del opened
                    except BaseException as e:
                        self.check(everything(e))
                    self.check()

    def test_a_password_beside_the_url(self):
        for options in ({"password": SECRET}, {"password": SECRET, "no_such_option": 1}, {"passwrod": SECRET}, {"timeout_ms": [SECRET]}):
            for opener in (kvconn.connect, NativeClient):
                with self.subTest(options=[*options]):
                    try:
                        self.said.append(repr(opener(f"redis://127.0.0.1:{free_port()}", **options)))
                    except BaseException as e:
                        self.check(everything(e))
                    self.check()

    def test_a_password_that_the_server_refuses(self):
        server = self.redis()
        server.ask("CONFIG SET requirepass other")
        for opener in (kvconn.connect, NativeClient, OPENERS["LMCacheRemote"]):
            with self.assertRaises(kvconn.KvconnError) as raised:
                opener(f"redis://user:{SECRET}@127.0.0.1:{server.port}")
            self.check(everything(raised.exception))

    def test_an_open_store(self):
        server = self.redis()
        server.ask(f"CONFIG SET requirepass {SECRET}")
        url = f"redis://:{SECRET}@127.0.0.1:{server.port}"
        store, client, remote = kvconn.connect(url), NativeClient(url), OPENERS["LMCacheRemote"](url)
        store.put(engine_key(0), b"1")
        for one in (store, store.aio, store.list(), store.aio.list(), store.get(engine_key(0)), client, remote):
            self.check(repr(one), str(one), repr(getattr(one, "name", "")), getattr(one, "url", ""))
            if one is store:
                # A pickle opens the store again, so it has the URL.
                continue
            with self.assertRaises(TypeError) as raised:
                pickle.dumps(one)
            self.check(everything(raised.exception))
        server.kill()
        with self.assertRaises(kvconn.KvconnError) as raised:
            store.get(engine_key(0))
        again = pickle.loads(pickle.dumps(raised.exception))
        self.check(everything(raised.exception), everything(again))
        client.submit_batch_get([object_key(1)], [bytearray(1)])
        self.check(repr(completions(client)))
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            del store, client, remote, one
            gc.collect()
        self.assertTrue(warned)
        self.check(*(str(warning.message) for warning in warned))
        wait_until(lambda: self.said, "log lines")
        self.check()


if __name__ == "__main__":
    unittest.main()
