"""The files in deploy/, read as docker compose and kustomize read them."""

import functools
import json
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = sorted(path.parent.name for path in (DEPLOY / "compose").glob("*/compose.yaml"))
KUBERNETES = sorted(path.parent.name for path in (DEPLOY / "kubernetes/recipes").glob("*/kustomization.yaml"))
#: Kinds that the Prometheus Operator adds to Kubernetes, so that Kubernetes' schemas do not have them.
CUSTOM = {"PodMonitor", "PrometheusRule"}


def read(path):
    return yaml.safe_load(Path(path).read_text())


@functools.cache
def compose(name):
    """The services of a recipe by name, with those that they extend."""
    path = DEPLOY / "compose" / name / "compose.yaml"
    return {service: _extended(path, service) for service in read(path)["services"]}


def _extended(path, name):
    """Lists of both files are joined, as docker compose does. Paths become absolute."""
    service = dict(read(path)["services"][name])
    service["volumes"] = [_absolute(path.parent, volume) for volume in service.get("volumes", [])]
    if "build" in service:
        service["build"] = {**service["build"], "context": str((path.parent / service["build"]["context"]).resolve())}
    base = service.pop("extends", None)
    if base is None:
        return service
    merged = _extended((path.parent / base["file"]).resolve(), base["service"])
    for key, value in service.items():
        merged[key] = merged[key] + value if isinstance(value, list) and key in merged else value
    return merged


def _absolute(folder, volume):
    return str((folder / volume).resolve()) if volume.startswith(".") else volume


def sources(service):
    """The files of the checkout that a service mounts."""
    return [Path(volume.split(":")[0]) for volume in service.get("volumes", []) if volume.startswith("/")]


@functools.cache
def kubernetes(name):
    """The objects that `kubectl apply -k` would send."""
    folder = DEPLOY / "kubernetes/recipes" / name
    made = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise AssertionError(f"kubectl kustomize {folder}: {made.stderr}")
    return list(yaml.safe_load_all(made.stdout))


def workloads(name):
    """The objects of a recipe that have pods."""
    return [each for each in kubernetes(name) if "template" in each.get("spec", {})]


def containers(name):
    """The containers of a recipe by name."""
    return {one["name"]: one for each in workloads(name) for one in each["spec"]["template"]["spec"]["containers"]}


def config(name, prefix, key):
    """The text of a ConfigMap's key. The name of the ConfigMap ends with a hash."""
    (found,) = [
        each["data"][key] for each in kubernetes(name) if each["kind"] == "ConfigMap" and each["metadata"]["name"].startswith(f"{prefix}-")
    ]
    return found


def engine(place, name):
    """The JSON text that has kvconn's URL, and the name of kvconn's class for it: `vllm`, `sglang` or `lmcache`."""
    if place == "compose":
        services = compose(name)
        if "sglang" in services:
            (path,) = [path for path in sources(services["sglang"]) if path.name == "kvconn.json"]
            return path.read_text(), "sglang"
        which = "lmcache" if "lmcache" in services else "vllm"
        (text,) = [word for word in services[which]["command"] if word.startswith("{")]
        return text, which
    if "sglang" in containers(name):
        return config(name, "engine", "kvconn.json"), "sglang"
    if "lmcache" in containers(name):
        return config(name, "lmcache", "l2-adapter.json"), "lmcache"
    return config(name, "engine", "kv.json"), "vllm"


def options(text, which):
    """kvconn's part of an engine's JSON."""
    whole = json.loads(text)
    if which == "vllm":
        (tier,) = whole["kv_connector_extra_config"]["secondary_tiers"]
        return tier
    return whole["adapter_params"] if which == "lmcache" else whole


def every():
    """Each recipe: `compose` or `kubernetes`, and its name."""
    return [("compose", name) for name in COMPOSE] + [("kubernetes", name) for name in KUBERNETES]
