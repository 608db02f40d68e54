"""The texts of LMCache's object keys, which are their names in the store, and the cursors of a listing."""

from __future__ import annotations

import base64

from lmcache.v1.distributed.api import ObjectKey

_CURSOR = "kvconn1."


def text_of(key: ObjectKey) -> str:
    """``model@rank@group@hash[@salt]``, as LMCache's native connectors write it (``native_connector_l2_adapter.py``)."""
    text = f"{key.model_name}@{key.kv_rank:08x}@{key.object_group_id:x}@{key.chunk_hash.hex()}"
    return f"{text}@{key.cache_salt}" if key.cache_salt else text


def key_of(text: str) -> ObjectKey:
    """The key of a text. Raises `ValueError` for another text than `text_of` writes."""
    model, rank, group, chunk_hash, *salt = text.split("@")
    key = ObjectKey(bytes.fromhex(chunk_hash), model, int(rank, 16), int(group, 16), *salt)
    if text_of(key) != text:
        raise ValueError(f"{text!r} is not a key")
    return key


def cursor_of(text: str) -> str:
    """The cursor of the page after this key."""
    return _CURSOR + base64.urlsafe_b64encode(text.encode()).decode()


def after_of(cursor: str) -> str:
    """The key that the cursor's page ended with."""
    try:
        if not cursor.startswith(_CURSOR):
            raise ValueError("it does not start as one")
        text = base64.b64decode(cursor.removeprefix(_CURSOR), altchars=b"-_", validate=True).decode()
        key_of(text)
    except (ValueError, TypeError) as e:
        raise ValueError(f"the cursor {cursor!r} is not one of list_l2_keys ({e}); pass `next_page_token` as it is") from None
    return text
