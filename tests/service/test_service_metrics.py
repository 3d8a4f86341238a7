"""Metrics: they agree with the answers, with their document, and no client can make series."""

import asyncio
import json
import re
import shutil
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import prometheus_client
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.openmetrics import parser

from softrisk_service.metrics import Metrics
from softrisk_service.series import Histogram

# The library's parser has no annotations.
parse: Callable[[str], Iterator[Metric]] = parser.text_string_to_metric_families
Pixels = Callable[[int, int], NDArray[np.float32]]

PREDICT = "/v1/models/tiny:predict"
TINY = {"model": "tiny", "version": "2"}


async def test_metrics_agree_with_the_answers(service: Any, images: Pixels) -> None:
    array = images(200, 11)
    risks = []
    for start in range(0, 200, 40):
        response = await service.post(PREDICT, {"instances": array[start : start + 40].tolist()})
        risks += [prediction["risk"] for prediction in response.json()["predictions"]]
    decisions = [risk["decision"] for risk in risks]
    assert {"accept", "review"} <= set(decisions)
    assert service.value("softrisk_predictions_total", **TINY) == 200
    for decision in ("review", "reject"):
        counted = service.value("softrisk_flagged_total", **TINY, decision=decision)
        assert counted == decisions.count(decision)
    assert sum(risk["flagged"] for risk in risks) == 200 - decisions.count("accept")
    for bound in (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1):
        counted = service.value("softrisk_p_value_bucket", **TINY, le=str(float(bound)))
        assert counted == sum(risk["p_value"] <= bound for risk in risks)
    assert service.value("softrisk_inference_requests_total", **TINY, protocol="v1", code="200") == 5
    assert service.value("softrisk_batch_size_sum", **TINY) == 200
    assert service.value("softrisk_queue_depth", **TINY) == 0
    for stage in ("decode", "queue", "run", "encode"):
        assert service.value("softrisk_request_duration_seconds_count", **TINY, stage=stage) >= 5


async def test_what_is_served_is_told(service: Any) -> None:
    assert service.value("softrisk_calibration_size", **TINY) == 199
    assert service.value("softrisk_alpha", **TINY, level="review") == 0.05
    assert service.value("softrisk_alpha", **TINY, level="reject") == pytest.approx(0.005)
    families = {family.name: family for family in service.registry.collect()}
    infos = [
        sample.labels for sample in families["softrisk_calibration_info"].samples if sample.labels["version"] == "2"
    ]
    assert infos[0] == TINY | {"id": infos[0]["id"], "n": "199", "alpha": "0.05", "nonconformity": "−logit_gap"}
    assert re.fullmatch("[0-9a-f]{16}", infos[0]["id"])


async def test_refusals_are_counted_and_clients_make_no_series(service: Any) -> None:
    async def series() -> set[str]:
        text = (await service.client.get("/metrics")).text
        return {line.rpartition(" ")[0] for line in text.splitlines() if "_created" not in line}

    await service.post("/v1/models/someone-else:predict", {})
    await service.post(PREDICT, {})
    before = await series()
    for name in ("a", "b", "tiny%2F..", "x" * 1000):
        await service.post(f"/v1/models/{name}:predict", {})
        await service.post(f"/v2/models/tiny/versions/{name}/infer", {})
        await service.client.get(f"/{name}")
    after = await series()
    assert len(after - before) == 1  # v2, 404
    unknown = {"model": "", "version": "", "code": "404"}
    assert service.value("softrisk_inference_requests_total", **unknown, protocol="v1") == 4
    assert service.value("softrisk_inference_requests_total", **unknown, protocol="v2") == 3
    assert service.value("softrisk_inference_requests_total", **TINY, protocol="v1", code="422") == 1


async def test_both_text_formats_are_served(service: Any, images: Pixels) -> None:
    await service.post(PREDICT, {"instances": images(3, 1).tolist()})
    plain = await service.client.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    for accept in ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text;version=a.b;q=x"):
        response = await service.client.get("/metrics", headers={"accept": accept})
        assert response.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        names = {family.name for family in parse(response.text)}
        assert {"softrisk_p_value", "softrisk_flagged"} <= names


async def test_the_document_lists_every_metric_with_its_type_and_labels(
    tmp_path: Path, make_senses: Any, serve: Any, repository_root: Path
) -> None:
    make_senses(tmp_path)  # with inputs that may be missing, and a radius
    async with serve(tmp_path) as service:
        await service.post("/v1/models/senses:predict", {"instances": [{"audio": [0.5] * 80}]})
        families = list(service.registry.collect())
    exposed = {}
    for family in families:
        if family.name.startswith("softrisk_"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            exposed[name] = (family.type, labels)
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \| ", (repository_root / "docs/metrics.md").read_text(), re.M)
    assert {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows} == exposed


async def test_names_follow_prometheus_conventions(service: Any, images: Pixels) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    await service.post(PREDICT, {"instances": images(1, 1).tolist()})
    text = "".join(
        f"{line}\n" for line in (await service.client.get("/metrics")).text.splitlines() if "_created" not in line
    )
    process = await asyncio.create_subprocess_exec(promtool, "check", "metrics", stdin=PIPE, stdout=PIPE, stderr=STDOUT)
    complaints, _ = await process.communicate(text.encode())
    assert (process.returncode, complaints) == (0, b"")


async def test_the_queries_of_the_document_give_shares(repository_root: Path, tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    queries = re.findall(r"^```promql\n(.+?)```$", (repository_root / "docs/metrics.md").read_text(), re.M | re.S)
    series = [
        {
            "series": f'softrisk_{metric}{{job="softrisk", instance="{instance}", model="m", version="1"{label}}}',
            "values": f"0+{step}x20",
        }
        for metric, label, step in (
            ("flagged_total", ', decision="review"', 3),
            ("flagged_total", ', decision="reject"', 2),
            ("predictions_total", "", 100),
            ("p_value_bucket", ', le="0.01"', 5),
            ("p_value_bucket", ', le="+Inf"', 100),
            ("p_value_count", "", 100),
        )
        for instance in ("a", "b")
    ]
    expected = [{"labels": '{model="m", version="1"}', "value": 50}]
    # Rounded: Prometheus adds the instances in any order.
    checks = [{"expr": f"round(1000 * ({q}))", "eval_time": "15m", "exp_samples": expected} for q in queries]
    assert len(checks) == 2
    file = tmp_path / "queries.yml"
    file.write_text(json.dumps({"tests": [{"interval": "1m", "input_series": series, "promql_expr_test": checks}]}))
    process = await asyncio.create_subprocess_exec(promtool, "test", "rules", str(file), stdout=PIPE, stderr=STDOUT)
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from([0.0, 0.1, 0.11, 0.5, 0.7, 1.0, 2.0]), max_size=60), max_size=4))
def test_a_histogram_counts_like_the_library_s_own(batches: list[list[float]]) -> None:
    registry, reference = CollectorRegistry(), CollectorRegistry()
    bounds = (0.1, 0.5, 1)
    series = Histogram("softrisk_x", "Text.", bounds, ["model"], registry).labels("m")
    theirs = prometheus_client.Histogram("softrisk_x", "Text.", ["model"], registry=reference, buckets=bounds)
    for batch in batches:
        series.observe_all(np.array(batch, np.float64))
        for value in batch:
            theirs.labels("m").observe(value)
    series.observe(0.3)
    theirs.labels("m").observe(0.3)
    for sample in ("bucket", "count", "sum"):
        for bound in ("0.1", "0.5", "1.0", "+Inf") if sample == "bucket" else (None,):
            labels = {"model": "m"} | ({} if bound is None else {"le": bound})
            ours = registry.get_sample_value(f"softrisk_x_{sample}", labels)
            assert ours == pytest.approx(reference.get_sample_value(f"softrisk_x_{sample}", labels))


def test_a_histogram_has_its_name_for_itself() -> None:
    registry = CollectorRegistry()
    histogram = Histogram("softrisk_x", "Text.", (1,), ["model"], registry)
    assert histogram.labels("m") is histogram.labels("m")
    with pytest.raises(ValueError, match="Duplicated"):
        Histogram("softrisk_x", "Text.", (1,), ["model"], registry)


def test_a_request_without_a_status_is_counted() -> None:
    registry = CollectorRegistry()
    Metrics(registry).count_request("", "", "v1", 0)
    labels = {"model": "", "version": "", "protocol": "v1", "code": "0"}
    assert registry.get_sample_value("softrisk_inference_requests_total", labels) == 1
