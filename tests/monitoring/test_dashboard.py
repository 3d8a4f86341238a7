"""The dashboard as a file: in step with its source, with the metrics of the service, and drawable."""

import json
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from softrisk_service.metrics import Metrics

Json = dict[str, Any]


@pytest.fixture(scope="module")
def exposed() -> set[str]:
    """Names of all series that the service exposes."""
    registry = CollectorRegistry()
    Metrics(registry)
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
    return {family.name + suffix for family in registry.collect() for suffix in suffixes.get(family.type, [""])}


def _names(expr: str) -> set[str]:
    """Metrics of ours, and recorded series, in a PromQL expression."""
    return set(re.findall(r"[a-z_:]*softrisk_[a-z0-9_:]+", re.sub(r'"[^"]*"', "", expr)))


def _panels(dashboard: Json) -> list[Json]:
    """All but the rows; those of a closed row are inside it."""
    inside = [panel for row in dashboard["panels"] for panel in row.get("panels", [])]
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"] + inside


def test_it_is_what_its_source_prints(dashboard: Json, repository_root: Path) -> None:
    command = [sys.executable, "-m", "monitoring.grafana.dashboard"]
    result = subprocess.run(command, cwd=repository_root, check=True, capture_output=True, timeout=60)
    assert json.loads(result.stdout) == dashboard, (
        "run: python -m monitoring.grafana.dashboard > monitoring/grafana/dashboards/softrisk.json"
    )


def test_every_metric_in_rules_and_dashboard_is_exposed(dashboard: Json, rules: list[Json], exposed: set[str]) -> None:
    recorded = {rule["record"] for rule in rules if "record" in rule}
    queries = [target["expr"] for panel in _panels(dashboard) for target in panel["targets"]]
    queries += [variable["query"]["query"] for variable in dashboard["templating"]["list"][1:]]
    queries += [rule["expr"] for rule in rules]
    used = set().union(*map(_names, queries))
    assert used, "no expression names a metric"
    assert used - exposed - recorded == set()


def test_p_value_bounds_are_buckets(dashboard: Json) -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.p_value.labels("m", "1")
    (family,) = metrics.p_value.collect()
    bounds = {sample.labels["le"] for sample in family.samples if sample.name.endswith("_bucket")}
    used = set(re.findall(r'softrisk_p_value_bucket\{[^}]*le="([^"]+)"', json.dumps(dashboard).replace('\\"', '"')))
    assert len(used) == 10
    assert used <= bounds


def test_every_panel_says_what_to_see(dashboard: Json) -> None:
    for panel in _panels(dashboard):
        assert panel["description"].endswith("."), panel["title"]
        assert panel["targets"], panel["title"]


def test_panels_have_their_own_place_and_identity(dashboard: Json) -> None:
    rows = [panel for panel in dashboard["panels"] if panel["type"] == "row"]
    identities = [panel["id"] for panel in (*rows, *_panels(dashboard))]
    assert len(set(identities)) == len(identities)
    places = [panel["gridPos"] for panel in (*rows, *_panels(dashboard))]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y, (one, other)


def test_it_opens_on_the_provisioned_data_source(dashboard: Json, monitoring: Path) -> None:
    provisioned = yaml.safe_load((monitoring / "grafana/provisioning/datasources/prometheus.yml").read_text())
    variable = dashboard["templating"]["list"][0]
    assert variable["current"]["value"] == provisioned["datasources"][0]["uid"]
    assert {panel["datasource"]["uid"] for panel in _panels(dashboard)} == {f"${{{variable['name']}}}"}
