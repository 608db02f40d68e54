"""docs/operate/metrics.md, the dashboard and the alert rules name only metrics and labels that kvconn has."""

import json
import re
import unittest
from pathlib import Path

import yaml

import kvconn
from fake_vllm import installed
from kvconn import _metrics

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "operate" / "metrics.md").read_text()
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "kvconn.json").read_text())
RULES = yaml.safe_load((ROOT / "deploy" / "prometheus" / "kvconn-alerts.yml").read_text())
#: kvconn's own. Another test may record one of an author's wheel.
FAMILIES = {family.name: family for family in _metrics.families() if family.name.startswith("kvconn_")}
#: The labels that Prometheus adds to every sample. `instance` is not among them: Prometheus may rename kvconn's.
ADDED = {"job"}
#: Words of PromQL before a list of labels.
_BY = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")
_SELECTOR = re.compile(r"\b(kvconn_\w+)(?:\{([^}]*)\})?")


def wrong(expression):
    """The faults of the names in a PromQL expression."""
    found = []
    labels = set(ADDED)
    for name, matchers in _SELECTOR.findall(expression):
        family = family_of(name)
        if family is None:
            found.append(f"{name} is not a metric")
            continue
        labels |= set(family.labels) | ({"le"} if name.endswith("_bucket") else set())
        for matcher in filter(None, matchers.split(",")):
            label = re.match(r"\s*(\w+)\s*(?:=~|!~|!=|=)", matcher)
            if label is None or label[1] not in {*family.labels, *ADDED} - {"instance"}:
                found.append(f"{name} has no label {matcher}")
        if family.kind == "counter" and not re.search(rf"(?:rate|increase)\({name}\b", expression):
            found.append(f"{name} is a counter without a rate")
    for group in _BY.findall(expression):
        for label in group.split(","):
            if label.strip() not in labels - {"instance"}:
                found.append(f"no metric here has the label {label}")
    if not _SELECTOR.search(expression):
        found.append(f"no metric in {expression}")
    return found


def family_of(name):
    if name in FAMILIES:
        return FAMILIES[name] if FAMILIES[name].kind != "histogram" else None
    base, _, suffix = name.rpartition("_")
    family = FAMILIES.get(base)
    return family if family is not None and family.kind == "histogram" and suffix in ("bucket", "sum", "count") else None


def row(family):
    """The line of docs/operate/metrics.md about a metric."""
    labels = ", ".join(f"`{label}`" for label in family.labels)
    return f"| `{family.name}` | {family.kind} | {labels} | {family.help} |".replace("|  |", "| |")


class Documents(unittest.TestCase):
    def test_the_page_has_each_metric_and_no_other(self):
        self.assertGreater(len(FAMILIES), 15)
        missing = [row(family) for family in FAMILIES.values() if row(family) not in DOCUMENT]
        self.assertEqual(missing, [], "docs/operate/metrics.md lacks these lines:\n" + "\n".join(missing))
        named = re.findall(r"^\| `(kvconn_\w+)`", DOCUMENT, re.MULTILINE)
        self.assertEqual(sorted(named), sorted(FAMILIES))

    def test_the_page_has_each_kind_of_error_and_each_bound(self):
        kinds = re.findall(r'^    \w+ = "(\w+)",$', (ROOT / "connector-core/src/error/kind.rs").read_text(), re.MULTILINE)
        self.assertGreater(len(kinds), 15)
        section = DOCUMENT.partition("## Kinds of errors")[2].partition("\n## ")[0]
        self.assertEqual(sorted(re.findall(r"^\| `(\w+)`", section, re.MULTILINE)), sorted(kinds))
        text = re.search(r"The buckets of a histogram end at (.*?) milliseconds, and at (.*?)\s*seconds\.", DOCUMENT.replace("\n", " "))
        bounds = [float(n) / scale for words, scale in zip(text.groups(), (1000, 1)) for n in re.findall(r"[\d.]+", words)]
        self.assertEqual(bounds, [*_metrics.BOUNDS])

    def test_the_page_has_each_alert(self):
        section = DOCUMENT.partition("## What to alert on")[2]
        alerts = [rule["alert"] for group in RULES["groups"] for rule in group["rules"]]
        self.assertEqual(re.findall(r"^\| `(\w+)`", section, re.MULTILINE), alerts)

    def test_the_page_of_vllm_has_each_metric_of_its_tier(self):
        with installed(0, 32) as vllm:
            own = {*vllm.tier._COUNTERS, *vllm.tier._GAUGES}
        section = (ROOT / "docs" / "engines" / "vllm.md").read_text().partition("## Metrics")[2].partition("\n## ")[0]
        rows = re.findall(r"^\| (`.*?`) \|", section, re.MULTILINE)
        self.assertEqual(sorted(re.findall(r"`(\w+)`", " ".join(rows))), sorted(own))

    def test_the_package_has_what_the_page_calls(self):
        for name in re.findall(r"kvconn\.(\w+)\(", DOCUMENT):
            self.assertTrue(callable(getattr(kvconn, name)), name)


class Deployed(unittest.TestCase):
    def test_each_panel_shows_metrics_that_exist(self):
        panels = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
        expressions = [target["expr"] for panel in panels for target in panel["targets"]]
        self.assertGreater(len(expressions), 15)
        self.assertEqual([problem for expression in expressions for problem in wrong(expression)], [])
        self.assertEqual(len({panel["id"] for panel in DASHBOARD["panels"]}), len(DASHBOARD["panels"]))

    def test_the_variables_are_labels(self):
        for variable in DASHBOARD["templating"]["list"]:
            if variable["type"] == "query":
                metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"]).groups()
                self.assertIn(label, {*FAMILIES[metric].labels, *ADDED})
        used = set(re.findall(r"\$(\w+)", json.dumps([panel.get("targets") for panel in DASHBOARD["panels"]])))
        self.assertEqual(used - {"__rate_interval"}, {variable["name"] for variable in DASHBOARD["templating"]["list"]} - {"datasource"})

    def test_every_metric_is_on_the_dashboard(self):
        text = json.dumps(DASHBOARD)
        self.assertEqual([name for name in FAMILIES if name not in text], [])

    def test_each_legend_names_labels_of_its_expression(self):
        for panel in DASHBOARD["panels"]:
            for target in panel.get("targets", []):
                grouped = {label.strip() for group in _BY.findall(target["expr"]) for label in group.split(",")}
                self.assertLessEqual(set(re.findall(r"{{(\w+)}}", target["legendFormat"])), grouped, target)

    def test_each_alert_names_metrics_and_labels_that_exist(self):
        rules = [rule for group in RULES["groups"] for rule in group["rules"]]
        self.assertGreater(len(rules), 3)
        for rule in rules:
            self.assertEqual(wrong(rule["expr"]), [], rule["alert"])
            # On the page of several processes, a gauge is their sum.
            self.assertNotIn("==", rule["expr"], rule["alert"])
            self.assertEqual({*rule}, {"alert", "expr", "for", "labels", "annotations"})
            self.assertIn(rule["labels"]["severity"], ("critical", "warning"))
            names = {label for name, _ in _SELECTOR.findall(rule["expr"]) for label in family_of(name).labels}
            for label in re.findall(r"\$labels\.(\w+)", "".join(rule["annotations"].values())):
                self.assertIn(label, names | ADDED)

    def test_a_wrong_name_is_found(self):
        for expression in (
            "kvconn_hits", "rate(kvconn_call_seconds[1m])", "kvconn_breaker_open{operation='get'}", "sum by (operation) (kvconn_breaker_open)",
            "kvconn_hits_total", "sum by (instance) (kvconn_breaker_open)", "up",
        ):  # fmt: skip
            self.assertNotEqual(wrong(expression), [], expression)


if __name__ == "__main__":
    unittest.main()
