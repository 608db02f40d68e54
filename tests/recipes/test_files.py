"""The files of the recipes: schemas, references, versions, limits, secrets. Nothing starts."""

import json
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path
from urllib.parse import urlsplit

import kubernetes_validate
import recipes
from recipes import COMPOSE, CUSTOM, DEPLOY, KUBERNETES, ROOT

#: The oldest Kubernetes that still gets fixes, and the newest whose schemas are here.
VERSIONS = ("1.34", "1.37")
#: Secrets and ConfigMaps that the user makes. docs/recipes.md has the commands.
BY_USER = {"kvconn-store", "kvconn-s3", "kvconn-ca", "huggingface"}
SECRET_NAME = re.compile(r"password|secret|token|access_?key", re.IGNORECASE)
#: What may stand where a secret would: a path, a variable of compose's, a name of a Secret's key.
REFERENCE = re.compile(r"^(/run/secrets/[\w./]+|\$\{\w+:-\})$")


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def pairs(value):
    """Each name and text in nested dicts and lists; also of an environment in Kubernetes' form."""
    if isinstance(value, dict):
        if isinstance(value.get("value"), str) and isinstance(value.get("name"), str):
            yield value["name"], value["value"]
        for name, inner in value.items():
            if isinstance(inner, str):
                yield name, inner
            yield from pairs(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from pairs(inner)


def written_secrets(value):
    """The places of a value that hold a secret as text."""
    found = []
    for name, text in pairs(value):
        refers = REFERENCE.match(text) or name in ("secretName", "secret", "key") or name.startswith("/")
        if SECRET_NAME.search(name) and not refers:
            found.append(f"{name}: {text}")
        if text.lstrip().startswith("{") and '"' in text:
            found += written_secrets(json.loads(text))
        for url in re.findall(r"\w+://[^\s\"']+", text):
            if urlsplit(url.split("?")[0]).password or re.search(r"(password|secret\w*|key)=(?!\$)", url):
                found.append(url)
    return found


class Compose(unittest.TestCase):
    def test_each_file_fits_the_schema(self):
        files = sorted((DEPLOY / "compose").rglob("*.yaml"))
        files = [path for path in files if "grafana" not in path.parts]
        self.assertGreater(len(files), len(COMPOSE))
        run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", *files)

    def test_each_mounted_file_is_in_the_checkout(self):
        for name in COMPOSE:
            for service, content in recipes.compose(name).items():
                for path in recipes.sources(content):
                    self.assertTrue(path.is_file(), f"{name}: {service} mounts {path}")
                if "build" in content:
                    self.assertTrue((Path(content["build"]["context"]) / "Dockerfile").is_file(), name)

    def test_each_secret_and_volume_is_declared_and_made(self):
        with tempfile.TemporaryDirectory() as folder:
            run(DEPLOY / "make-secrets", folder)
            made = {path.name for path in Path(folder).iterdir()}
            texts = [path.read_text() for path in Path(folder).iterdir()]
            # A second run keeps them.
            run(DEPLOY / "make-secrets", folder)
            self.assertEqual([path.read_text() for path in Path(folder).iterdir()], texts)
        for name in COMPOSE:
            whole = recipes.read(DEPLOY / "compose" / name / "compose.yaml")
            used = {secret for service in recipes.compose(name).values() for secret in service.get("secrets", [])}
            self.assertEqual(used, set(whole["secrets"]), name)
            self.assertLessEqual(used, made)
            for secret, content in whole["secrets"].items():
                self.assertEqual(content, {"file": f"../../secrets/{secret}"})
            mounted = {volume.split(":")[0] for service in recipes.compose(name).values() for volume in service.get("volumes", [])}
            self.assertEqual({volume for volume in mounted if not volume.startswith("/")}, set(whole["volumes"]), name)

    def test_each_service_is_bounded_watched_and_closed(self):
        for name in COMPOSE:
            for service, content in recipes.compose(name).items():
                with self.subTest(recipe=name, service=service):
                    self.assertIn("mem_limit", content)
                    self.assertIn("no-new-privileges:true", content["security_opt"])
                    if service == "bucket":
                        # It runs once.
                        self.assertNotIn("restart", content)
                    else:
                        self.assertIn("healthcheck", content)
                        self.assertEqual(content["restart"], "unless-stopped")
                    for port in content.get("ports", []):
                        self.assertTrue(port.startswith("127.0.0.1:"), port)
                    for other, how in content.get("depends_on", {}).items():
                        once = "service_completed_successfully" if other == "bucket" else "service_healthy"
                        self.assertEqual(how, {"condition": once})
                        self.assertIn(other, recipes.compose(name))

    def test_prometheus_reads_each_configuration_and_scrapes_an_engine(self):
        for name in COMPOSE:
            path = DEPLOY / "compose" / name / "prometheus.yml"
            run("promtool", "check", "config", "--syntax-only", path)
            whole = recipes.read(path)
            ((target,),) = [group["targets"] for job in whole["scrape_configs"] for group in job["static_configs"]]
            service, port = target.split(":")
            content = recipes.compose(name)[service]
            self.assertIn(f":{port}/", " ".join(content["healthcheck"]["test"]))
            mounts = [volume.split(":")[1] for volume in recipes.compose(name)["prometheus"]["volumes"]]
            for rules in whole["rule_files"]:
                self.assertIn(rules, mounts)

    def test_grafana_finds_the_dashboard(self):
        providers = recipes.read(DEPLOY / "compose/grafana/dashboards.yaml")["providers"]
        (source,) = recipes.read(DEPLOY / "compose/grafana/datasource.yaml")["datasources"]
        self.assertTrue(source["isDefault"])
        for name in COMPOSE:
            mounts = dict(volume.split(":")[:2] for volume in recipes.compose(name)["grafana"]["volumes"] if volume.startswith("/"))
            (dashboard,) = [place for path, place in mounts.items() if path.endswith("deploy/grafana/kvconn.json")]
            self.assertEqual([provider["options"]["path"] for provider in providers], [str(Path(dashboard).parent)])
            environment = recipes.compose(name)["grafana"]["environment"]
            self.assertEqual(environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"], dashboard)
            self.assertIn(urlsplit(source["url"]).hostname, recipes.compose(name))


class Kubernetes(unittest.TestCase):
    def test_each_object_fits_the_schemas(self):
        for name in KUBERNETES:
            self.assertEqual({each["kind"] for each in recipes.kubernetes(name)} & CUSTOM, CUSTOM)
            for each in recipes.kubernetes(name):
                if each["kind"] not in CUSTOM:
                    for version in VERSIONS:
                        with self.subTest(recipe=name, kind=each["kind"], name=each["metadata"]["name"], version=version):
                            kubernetes_validate.validate(each, version, strict=True)

    def test_a_misspelt_field_does_not_fit(self):
        (redis,) = [each for each in recipes.workloads("vllm-redis") if each["metadata"]["name"] == "redis"]
        wrong = json.loads(json.dumps(redis).replace("readinessProbe", "readynessProbe"))
        with self.assertRaises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)

    def test_each_reference_has_its_object(self):
        for name in KUBERNETES:
            objects = recipes.kubernetes(name)
            maps = {each["metadata"]["name"]: each["data"] for each in objects if each["kind"] == "ConfigMap"}
            accounts = {each["metadata"]["name"] for each in objects if each["kind"] == "ServiceAccount"}
            for each in recipes.workloads(name):
                pod = each["spec"]["template"]["spec"]
                volumes = {volume["name"]: volume for volume in pod["volumes"]} if "volumes" in pod else {}
                claims = {claim["metadata"]["name"] for claim in each["spec"].get("volumeClaimTemplates", [])}
                for volume in volumes.values():
                    named = volume.get("configMap", {}).get("name") or volume.get("secret", {}).get("secretName")
                    self.assertTrue(named is None or named in {*maps, *BY_USER}, f"{name}: {volume}")
                self.assertIn(pod.get("serviceAccountName"), {None, *accounts})
                for container in pod["containers"]:
                    mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
                    self.assertLessEqual(mounted, {*volumes, *claims}, name)
                    for variable in container.get("env", []):
                        source = variable.get("valueFrom", {})
                        if "configMapKeyRef" in source:
                            self.assertIn(source["configMapKeyRef"]["key"], maps[source["configMapKeyRef"]["name"]])
                        if "secretKeyRef" in source:
                            self.assertIn(source["secretKeyRef"]["name"], BY_USER)
                    words = [*container.get("command", []), *container.get("args", [])]
                    used = set(re.findall(r"\$\((\w+)\)", " ".join(words)))
                    self.assertLessEqual(used, {variable["name"] for variable in container.get("env", [])})

    def test_each_service_policy_and_monitor_selects_pods_that_have_its_ports(self):
        for name in KUBERNETES:
            pods = [each["spec"]["template"] for each in recipes.workloads(name)]
            for each in recipes.kubernetes(name):
                spec = each.get("spec", {})
                if each["kind"] == "Service":
                    labels, ports = spec["selector"], [port["targetPort"] for port in spec["ports"]]
                elif each["kind"] == "NetworkPolicy":
                    labels = spec["podSelector"]["matchLabels"]
                    ports = [port["port"] for rule in spec["ingress"] for port in rule["ports"]]
                elif each["kind"] == "PodDisruptionBudget":
                    labels, ports = spec["selector"]["matchLabels"], []
                else:
                    continue
                chosen = [pod for pod in pods if labels.items() <= pod["metadata"]["labels"].items()]
                self.assertEqual(len(chosen), 1, each["metadata"])
                names = {port["name"] for container in chosen[0]["spec"]["containers"] for port in container["ports"]}
                self.assertLessEqual(set(ports), names, each["metadata"])

    def test_each_pod_with_a_port_has_a_policy(self):
        for name in KUBERNETES:
            policies = [each["spec"] for each in recipes.kubernetes(name) if each["kind"] == "NetworkPolicy"]
            for each in recipes.workloads(name):
                pod = each["spec"]["template"]
                if any("ports" in container for container in pod["spec"]["containers"]):
                    labels = pod["metadata"]["labels"].items()
                    self.assertTrue(any(one["podSelector"]["matchLabels"].items() <= labels for one in policies), each["metadata"])

    def test_each_container_is_bounded_watched_and_closed(self):
        for name in KUBERNETES:
            for each in recipes.workloads(name):
                pod = each["spec"]["template"]["spec"]
                self.assertEqual(pod["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
                self.assertIs(pod["enableServiceLinks"], False)
                for container in [*pod.get("initContainers", []), *pod["containers"]]:
                    with self.subTest(recipe=name, container=container["name"]):
                        self.assertIn("memory", container["resources"]["limits"])
                        self.assertIn("cpu", container["resources"]["requests"])
                        self.assertIs(container["securityContext"]["allowPrivilegeEscalation"], False)
                        self.assertEqual(container["securityContext"]["capabilities"], {"drop": ["ALL"]})
                        self.assertIn("readinessProbe", container)
                        # Stores need nothing of the host.
                        if container["name"] in ("redis", "valkey", "join"):
                            self.assertIs(pod["securityContext"]["runAsNonRoot"], True)
                            self.assertIs(container["securityContext"]["readOnlyRootFilesystem"], True)

    def test_the_component_that_installs_kvconn_fits(self):
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "deploy"
            shutil.copytree(DEPLOY, copy, ignore=shutil.ignore_patterns("secrets"))
            recipe = copy / "kubernetes/recipes/vllm-redis/kustomization.yaml"
            # As the component's first lines say.
            whole = recipes.read(recipe)
            whole["components"] = ["../../pip-install"]
            whole["images"] = [{"name": "kvconn-vllm", "newName": "vllm/vllm-openai", "newTag": "v0.32.0"}]
            recipe.write_text(recipes.yaml.safe_dump(whole))
            made = run("kubectl", "kustomize", recipe.parent)
        (vllm,) = [each for each in recipes.yaml.safe_load_all(made) if each["kind"] == "Deployment" and each["metadata"]["name"] == "vllm"]
        kubernetes_validate.validate(vllm, VERSIONS[-1], strict=True)
        pod = vllm["spec"]["template"]["spec"]
        (install,) = pod["initContainers"]
        self.assertEqual({install["image"], pod["containers"][0]["image"]}, {"vllm/vllm-openai:v0.32.0"})
        target = [word.split("=")[1] for word in install["command"] if word.startswith("--target=")]
        self.assertIn({"name": "PYTHONPATH", "value": target[0]}, pod["containers"][0]["env"])
        self.assertGreater(len(pod["containers"][0]["env"]), 1)

    def test_the_operators_rules_are_those_of_prometheus(self):
        rules = DEPLOY / "prometheus/kvconn-alerts.yml"
        run("promtool", "check", "rules", rules)
        for name in KUBERNETES:
            (copy,) = [each for each in recipes.kubernetes(name) if each["kind"] == "PrometheusRule"]
            self.assertEqual(copy["spec"], recipes.read(rules), "copy the rules to deploy/kubernetes/monitoring/rules.yaml")
            (dashboard,) = [each for each in recipes.kubernetes(name) if each["metadata"]["name"] == "kvconn-dashboard"]
            self.assertEqual(json.loads(dashboard["data"]["kvconn.json"]), json.loads((DEPLOY / "grafana/kvconn.json").read_text()))


class Both(unittest.TestCase):
    def images(self):
        for name in COMPOSE:
            for service in recipes.compose(name).values():
                yield service.get("build", {}).get("args", {}).get("ENGINE_IMAGE", service["image"])
        for name in KUBERNETES:
            yield from (container["image"] for container in recipes.containers(name).values())
        yield re.search(r"^ARG ENGINE_IMAGE=(.*)$", (DEPLOY / "compose/image/Dockerfile").read_text(), re.MULTILINE)[1]

    def test_each_image_has_a_version(self):
        for image in self.images():
            self.assertRegex(image, r":v?(RELEASE\.)?\d[\w.-]*$")

    def test_the_engines_are_those_of_the_tests(self):
        tested = dict(re.findall(r"^(\w+)_VERSION=(.*)$", (ROOT / "tests/interop/environment.sh").read_text(), re.MULTILINE))
        wanted = {
            "vllm/vllm-openai": tested["VLLM"], "lmsysorg/sglang": tested["SGLANG"], "lmcache/vllm-openai": tested["LMCACHE"],
            "kvconn-vllm": tested["VLLM"], "kvconn-sglang": tested["SGLANG"], "kvconn-lmcache": tested["LMCACHE"],
        }  # fmt: skip
        found = set()
        for image in self.images():
            name, version = image.rsplit(":", 1)
            name = name.removeprefix("registry.example.com/")
            if name in wanted:
                self.assertEqual(version.removeprefix("v").split("-")[0], wanted[name])
                found.add(name)
        self.assertEqual(found, set(wanted))

    def test_kvconns_version_is_the_workspaces(self):
        version = re.search(r'^version = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
        texts = [path.read_text() for path in DEPLOY.rglob("*") if path.is_file() and path.suffix in ("", ".yaml")]
        said = [found for text in texts for found in re.findall(r"kvconn==([\w.]+)|kvconn-\w+, newTag: [\d.]+-([\w.]+)}", text)]
        self.assertGreater(len(said), 3)
        self.assertEqual({one or other for one, other in said}, {version})

    def test_no_secret_is_written(self):
        for place, name in recipes.every():
            whole = recipes.compose(name) if place == "compose" else recipes.kubernetes(name)
            if place == "kubernetes":
                self.assertNotIn("Secret", {each["kind"] for each in whole})
                # Texts about metrics.
                whole = [each for each in whole if each["metadata"]["name"] != "kvconn-dashboard" and each["kind"] not in CUSTOM]
                whole = [each for each in whole if not each["metadata"]["name"].startswith("valkey-join-")]
            self.assertEqual(written_secrets(whole), [], (place, name))

    def test_a_written_secret_is_found(self):
        for wrong in (
            {"REDIS_PASSWORD": "hunter2"}, [{"name": "S3_SECRET", "value": "hunter2"}], {"x": '{"password": "hunter2"}'},
            {"url": "redis://kv:hunter2@redis"}, {"url": "s3://b?secret_access_key=hunter2"},
        ):  # fmt: skip
            self.assertNotEqual(written_secrets(wrong), [], wrong)

    def test_both_places_give_a_store_the_same_command(self):
        def plain(words):
            return [re.sub(r"^/run/secrets/(kvconn/)?", "", word) for word in words]

        redis = plain(recipes.compose("vllm-redis")["redis"]["command"])
        self.assertEqual(redis, plain(recipes.compose("sglang-redis")["redis"]["command"]))
        for name in ("vllm-redis", "sglang-redis"):
            self.assertEqual(redis, plain(recipes.containers(name)["redis"]["command"]))
        nodes = [recipes.compose("vllm-valkey-cluster")[f"valkey-{i}"]["command"] for i in (1, 2, 3)]
        nodes.append(recipes.containers("vllm-valkey-cluster")["valkey"]["command"])
        self.assertEqual([plain(node) for node in nodes], [plain(nodes[0])] * 4)

    def test_memory_suffices(self):
        sizes = {"g": 30, "gb": 30, "Gi": 30, "m": 20, "mb": 20, "Mi": 20}

        def size(text):
            number, unit = re.fullmatch(r"(\d+)([A-Za-z]+)", text).groups()
            return int(number) << sizes[unit]

        def store(command, limit):
            self.assertLess(size(command[command.index("--maxmemory") + 1]), size(limit))
            self.assertEqual(command[command.index("--maxmemory-policy") + 1], "allkeys-lru")

        def engine(text, shared, limit):
            primary = json.loads(text)["kv_connector_extra_config"]["cpu_bytes_to_use"]
            self.assertLess(primary, size(shared))
            self.assertLess(2 * primary, size(limit))

        seen = 0
        for place, name in recipes.every():
            parts = recipes.compose(name) if place == "compose" else recipes.containers(name)
            for part in parts.values():
                command = part.get("command", [])
                if "--maxmemory" in command:
                    store(command, part["mem_limit"] if place == "compose" else part["resources"]["limits"]["memory"])
                    seen += 1
            text, which = recipes.engine(place, name)
            if which == "vllm":
                if place == "compose":
                    engine(text, parts["vllm"]["shm_size"], parts["vllm"]["mem_limit"])
                else:
                    (pod,) = [each["spec"]["template"]["spec"] for each in recipes.workloads(name) if each["metadata"]["name"] == "vllm"]
                    (shared,) = [volume["emptyDir"]["sizeLimit"] for volume in pod["volumes"] if volume["name"] == "shm"]
                    engine(text, shared, parts["vllm"]["resources"]["limits"]["memory"])
                seen += 1
        self.assertEqual(seen, 2 + 3 + 2 + 1 + 2 + 3)

    def test_each_host_of_a_url_is_a_service(self):
        for place, name in recipes.every():
            text, which = recipes.engine(place, name)
            url = recipes.options(text, which)["url"]
            inner = re.findall(r"endpoint=\w+://([\w.-]+)", url)
            hosts = inner or [host.split(":")[0] for host in urlsplit(url).netloc.rpartition("@")[2].split(",")]
            if which == "lmcache" and not inner or name == "vllm-managed-redis":
                # Amazon's service, and a service of a cloud.
                continue
            for host in hosts:
                if place == "compose":
                    self.assertIn(host, recipes.compose(name))
                else:
                    services = {each["metadata"]["name"] for each in recipes.kubernetes(name) if each["kind"] == "Service"}
                    self.assertIn(host.split(".")[-1], services)

    def test_the_page_names_each_recipe_and_each_secret(self):
        page = (ROOT / "docs/recipes.md").read_text()
        for place, name in recipes.every():
            (row,) = [row for row in re.findall(r"^\| .*$", page, re.MULTILINE) if row.startswith(f"| `{name}` | ") and row.count("|") == 5]
            self.assertEqual(row.split("|")[3 if place == "compose" else 4].strip(), "yes", row)
        for secret in BY_USER:
            self.assertIn(secret, page)

    def test_the_scripts_are_shell(self):
        run("bash", "-n", DEPLOY / "make-secrets")
        for script in DEPLOY.rglob("*.sh"):
            run("sh", "-n", script)


if __name__ == "__main__":
    unittest.main()
