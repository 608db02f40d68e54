"""The `adapter_params` of LMCache's server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from kvconn._errors import of_open

_LARGEST = 1e15


class Params(NamedTuple):
    """The adapter's own keys of ``adapter_params``. Each has its unit in its name."""

    max_capacity_gb: float = 0.0
    usage_interval_min: float = 30.0
    quota_grace_s: float = 60.0


def read(params: Mapping[str, Any]) -> tuple[Params, str, dict[str, Any]]:
    """The adapter's own parameters, the URL, and the options of the store."""
    options = dict(params)
    url = options.pop("url", None)
    if not isinstance(url, str) or not url:
        raise of_open(
            "invalid_option", "`adapter_params` has no `url`", 'set `"adapter_params": {"url": "resp://127.0.0.1:6379"}`'
        )
    own = {}
    for name, default in Params._field_defaults.items():
        value = options.pop(name, None)
        value = default if value is None else value
        # Larger numbers have no use, and some do not convert to a float or to a time.
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _LARGEST:
            raise of_open(
                "invalid_option", f"`{name}` in `adapter_params` is {value!r}", f"give a number from 0 to {_LARGEST:.0e}, such as {default:g}"
            )
        own[name] = float(value)
    return Params(**own), url, options
