#!/usr/bin/env python3
"""Writes configuration.json: how LMCache 0.5.6 reads odd configuration files and variables.

Run it with the Python of tests/interop/environment.sh, in which LMCache is installed.
"""

import json
import math
import os
import pathlib
import tempfile

import lmcache.v1.config
import lmcache.v1.config_base
from lmcache.v1.config import LMCacheEngineConfig

KEYS = [
    "chunk_size", "max_local_cpu_size", "remote_url", "remote_serde", "use_layerwise", "save_unfull_chunk",
    "blocking_timeout_secs", "audit_actual_remote_url", "remote_storage_plugins", "extra_config",
]

NUMBERS = [
    "256", "1_024", "256.0", "256.9", "1e3", "1.0e3", "1.0e+3", "0x100", "0o400", "0400", "0b100", "1:30", "+256", "-256", "0",
    "'256'", "' 256 '", "'1_024'", "'1__024'", "'_1024'", "'256.0'", "'0400'", "'0x100'", "'1e3'", '"256"', "true", "false",
    "yes", "null", "~", "", "'null'", "many", "[256]", "{a: 1}", "256 # tokens", "99999999999999999999", "!!int '256'",
    "!!str 256", "!!float 256", "2001-01-01",
]
SIZES = [
    "5", "0.5", ".5", "5.", "1_0.5", "'1_0.5'", "5e-1", "5.0e-1", "'5e-1'", "'0.5 '", "'inf'", ".inf", ".nan", "-1", "true",
    "null", "5GB", "0x10", "'0x10'", "1e400",
]
FLAGS = [
    "true", "True", "TRUE", "tRUE", "yes", "Yes", "on", "ON", "y", "1", "1.0", "2", "'1'", "'true'", "' True '", "'yes'", "'on'",
    "false", "no", "off", "0", "'0'", "'false'", "''", "null", "perhaps", "[true]", "{a: true}", "!!bool yes", "!!str true",
]
TEXTS = [
    "redis://h:1/0", "'redis://h:1/0'", '"redis://h:1/\\u0030"', "null", "'null'", "''", "5", "1.5", "true", "0x10", "~", "redis://h:1 # comment",
    "redis://h:1#fragment", ">-\n  redis://h:1", "|\n  redis://h:1", "&url redis://h:1",
]
LISTS = ["a", "a,b", "' a , ,b '", "[a, b]", "[]", "''", "null", "[a, 'b,c']", "\n- a\n- b", "[fs.a]"]
MAPS = [
    "{a: 1}", "'{\"a\": 1}'", "''", "'null'", "null", "{}", "[]", "0", "false", "\n  a: 1\n  b: {c: [1, 2, null]}",
    "{a: yes, b: 'yes', c: 1_0, d: 010, e: ~, f: 1e3, g: 1.5, h: text}", "{save_chunk_meta: off}", "{? a : 1}", "{a: 1, a: 2}",
    "{'a': {'a': 1}}", "not json", "[1]", "5",
]
FILES = [
    "", "# a comment\n", "---\n", "---\nchunk_size: 16\n", "chunk_size: 16\n...\n", "\ufeffchunk_size: 16\n", "chunk_size: 16\r\nuse_layerwise: true\r\n",
    "{chunk_size: 16, use_layerwise: true}", "chunk_size: 16\nchunk_size: 32\n", "chunk_size: 16\nchunk_size: null\n",
    "a_later_key: 1\nchunk_size: 16\n", "chunk_sise: 1\nremote_ulr: redis://h:1\n", "CHUNK_SIZE: 16\n", "1: a\ntrue: b\nnull: c\nchunk_size: 16\n",
    "base: &b {chunk_size: 16, use_layerwise: true}\n<<: *b\nuse_layerwise: false\n", "a: &a {chunk_size: 16}\nb: &b {use_layerwise: true}\n<<: [*a, *b]\n",
    "%YAML 1.1\n---\nchunk_size: 16\n", "[]", "{}", "0", "''", "false", "null", "- a", "text", "5", "a: b: c", "chunk_size:\t16\n", "\tchunk_size: 16\n",
    "chunk_size: 16\n\tuse_layerwise: true\n", "chunk_size: 16\n---\nchunk_size: 32\n", "chunk_size: !unknown 16\n",
    "external_backends: a\nplugin_locations: b\n", "nixl_buffer_size: 5\n", "enable_blending: true\n", "enable_blending: 'false'\n",
    "extra_config: {a: &x [1, 2], b: *x}\n", "\"chunk_size\": 16\n", "? chunk_size\n: 16\n", "chunk_size : 16\n", "chunk_size:16\n",
]
VARIABLES = [
    {"LMCACHE_CHUNK_SIZE": "32"}, {"LMCACHE_CHUNK_SIZE": " 32 "}, {"LMCACHE_CHUNK_SIZE": "'32'"}, {"LMCACHE_CHUNK_SIZE": "1_024"}, {"LMCACHE_CHUNK_SIZE": "256.0"},
    {"LMCACHE_CHUNK_SIZE": ""}, {"LMCACHE_CHUNK_SIZE": "many"}, {"LMCACHE_CHUNK_SIZE": "0x10"}, {"LMCACHE_CHUNK_SIZE": "true"}, {"LMCACHE_MAX_LOCAL_CPU_SIZE": "1e-1"},
    {"LMCACHE_USE_LAYERWISE": "true"}, {"LMCACHE_USE_LAYERWISE": "TRUE"}, {"LMCACHE_USE_LAYERWISE": "yes"}, {"LMCACHE_USE_LAYERWISE": "on"}, {"LMCACHE_USE_LAYERWISE": "1"},
    {"LMCACHE_USE_LAYERWISE": ""}, {"LMCACHE_USE_LAYERWISE": "'True'"}, {"LMCACHE_REMOTE_URL": ""}, {"LMCACHE_REMOTE_URL": "\"redis://h:1\""}, {"LMCACHE_REMOTE_URL": "null"},
    {"LMCACHE_EXTRA_CONFIG": ""}, {"LMCACHE_EXTRA_CONFIG": "''"}, {"LMCACHE_EXTRA_CONFIG": "null"}, {"LMCACHE_EXTRA_CONFIG": "{}"}, {"LMCACHE_EXTRA_CONFIG": "{\"a\": 1}"},
    {"LMCACHE_EXTRA_CONFIG": "'{\"a\": 1}'"}, {"LMCACHE_EXTRA_CONFIG": "\"{\\\"a\\\": 1}\""}, {"LMCACHE_EXTRA_CONFIG": "'\"{\\\\\"a\\\\\": 1}\"'"},
    {"LMCACHE_EXTRA_CONFIG": "'{\"a\": \"x\\\\ny\"}'"}, {"LMCACHE_EXTRA_CONFIG": "{a: 1}"}, {"LMCACHE_EXTRA_CONFIG": "[]"}, {"LMCACHE_EXTRA_CONFIG": "[1]"},
    {"LMCACHE_EXTRA_CONFIG": "{\"a\": 1, \"a\": 2}"}, {"LMCACHE_REMOTE_STORAGE_PLUGINS": "a, b"}, {"LMCACHE_REMOTE_STORAGE_PLUGINS": ""}, {"LMCACHE_REMOTE_STORAGE_PLUGINS": "[a]"},
    {"lmcache_chunk_size": "32"}, {"LMCACHE_LATER_KEY": "1"}, {"LMCACHE_BLOCKING_TIMEOUT_SECS": "3"},
]
BASE = "chunk_size: 16\nuse_layerwise: true\nremote_url: redis://file:1\nextra_config: {of: file}\n"


DEFAULTS = {key: getattr(LMCacheEngineConfig.from_defaults(), key) for key in KEYS}


def plain(value):
    """JSON has no infinity and no dates, so these are texts."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


warnings = []


def warn(message, *values):
    warnings.append(message % values)


for module in (lmcache.v1.config, lmcache.v1.config_base):
    module.logger.warning = warn


def load(file, variables):
    """As LMCache's `load_engine_config_with_overrides`. `failed` says that LMCache goes on without a value."""
    warnings.clear()
    for name in [name for name in os.environ if name.upper().startswith("LMCACHE_")]:
        del os.environ[name]
    os.environ.update(variables)
    try:
        if file is None:
            config = LMCacheEngineConfig.from_env()
            config.validate()
        else:
            with tempfile.TemporaryDirectory() as folder:
                path = pathlib.Path(folder, "lmcache.yaml")
                path.write_bytes(file.encode())
                config = LMCacheEngineConfig.from_file(str(path))
            config.update_config_from_env()
    except Exception as e:
        return {"ok": False, "python_error": type(e).__name__}
    values = {key: getattr(config, key) for key in KEYS}
    failed = any(warning.startswith("Failed") for warning in warnings)
    values = {key: plain(value) for key, value in values.items() if value != DEFAULTS[key]}
    return {"ok": True, "failed": failed, "values": values}


def main():
    files = [f"chunk_size: {text}\n" for text in NUMBERS]
    files += [f"max_local_cpu_size: {text}\n" for text in SIZES]
    files += [f"use_layerwise: {text}\n" for text in FLAGS]
    files += [f"remote_url: {text}\n" for text in TEXTS]
    files += [f"remote_storage_plugins: {text}\n" for text in LISTS]
    files += [f"extra_config: {text}\n" for text in MAPS]
    rows = [{"file": file, "variables": {}} for file in files + FILES]
    rows += [{"file": file, "variables": variables} for variables in VARIABLES for file in (None, BASE)]
    rows = [json.dumps(row | load(row["file"], row["variables"]), ensure_ascii=False) for row in rows]
    note = "How LMCache reads files and variables. `values` has the values that differ from the default. Written by configuration.py."
    path = pathlib.Path(__file__).with_suffix(".json")
    head = f'{{"note": "{note}",\n"source": "lmcache 0.5.6",\n"rows": [\n'
    path.write_text(head + ",\n".join(rows) + "\n]}\n")
    print(len(rows), "rows")


main()
