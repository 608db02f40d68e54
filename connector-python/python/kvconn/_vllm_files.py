"""vLLM's own files in kvconn's fs store (``layout=vllm``): their directories, and the ``config.json`` that describes them."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from kvconn import _libraries

_log = logging.getLogger("kvconn.vllm")


def connector(url: str, options: Mapping[str, object]) -> Any | None:
    """The `ConnectorInfo` of the connector that opens the URL, by its scheme or by the names in ``external://``. None if unknown."""
    behind = [value for value in options.values() if isinstance(value, str)]
    # A text such as ``kvconn.fs/FSConnector of connectors 0.1.0``.
    opener = _libraries.of_url(url, options)._opener_of(url, behind)
    name = opener[0].partition(" of ")[0] if opener else ""
    return next((info for info in _libraries.connectors() if f"{info.module}/{info.name}" == name), None)


def query(url: str) -> dict[str, str]:
    """The options in the URL's query, decoded. The rest of a URL may have characters that Python's parser refuses."""
    return {name: values[0] for name, values in parse_qs(url.partition("#")[0].partition("?")[2]).items()}


def folders(url: str, options: Mapping[str, object]) -> list[Path]:
    """The directories in which this store, or a store behind it, has vLLM's own files. Empty for other stores."""
    given = {**query(url), **options}
    texts = {name: _expanded(value) for name, value in given.items() if isinstance(value, str)}
    info = connector(url, options)
    found = []
    if info is not None and (info.module, info.name) == ("kvconn.fs", "FSConnector") and texts.get("layout") == "vllm":
        # The store decodes nothing in a path. The path of another scheme is not a directory.
        scheme, _, rest = url.partition("#")[0].partition("?")[0].partition("://")
        path = "".join(rest.partition("/")[1:]) if scheme == "fs" else ""
        found.append(Path(path or texts.get("base_path", ""), texts.get("namespace", "")))
    for text in texts.values():
        if "://" in text:
            found += folders(text, {})
    return found


def describe(folder: Path, directory: str, content: Mapping[str, object]) -> None:
    """Writes vLLM's ``config.json`` beside the directory of the files. If that fails, logs a warning."""
    file = folder / directory / "config.json"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x") as out:
            json.dump(content, out, indent=2, sort_keys=True)
    except FileExistsError:
        pass
    except OSError as e:
        _log.warning("cannot write `%s`: %s", file, e.strerror)


def _expanded(text: str) -> str:
    """The text of an option with its variables, ``${NAME}``, as the store reads it."""
    return re.sub(r"\$(\$\{)|\$\{(\w+)\}", lambda match: match[1] or os.environ.get(match[2], ""), text)
