"""A real Prometheus scrapes the real service: every query of the dashboard and every rule is run against it."""

import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

Json = dict[str, Any]
T = TypeVar("T")

SOFTRISK = Path(sys.executable).with_name("softrisk")
VARIABLES = {"$model": ".*", "$version": ".*", "$__rate_interval": "30s", "$__range": "1h"}


def _until(what: str, look: Callable[[], T | None], seconds: float = 30) -> T:
    """What `look` finds, asked again until it finds something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if found := look():
                return found
        except httpx2.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds:.0f} s: {what}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _running(command: list[str], log: Path) -> Iterator[None]:
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT) as process:
        try:
            yield
        except AssertionError:
            sys.stderr.write(log.read_text(errors="replace")[-5000:])
            raise
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def _digits() -> tuple[np.ndarray[Any, np.dtype[np.float32]], np.ndarray[Any, np.dtype[np.int64]]]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return (images / 16).astype(np.float32).reshape(-1, 1, 8, 8), labels.astype(np.int64)


def _nearest_mean(path: Path) -> None:
    """Somebody's classifier, as an ONNX file: logits x·m − |m|²/2 for each class mean m."""
    images, labels = _digits()
    means = np.stack([images[labels == label].mean(axis=0).ravel() for label in range(10)])
    scale = np.float32(4)
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("Gemm", ["flat", "w", "b"], ["logits"])],
        "nearest mean",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [
            numpy_helper.from_array(scale * means.T, "w"),
            numpy_helper.from_array(-scale * (means**2).sum(axis=1) / 2, "b"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


@dataclass(frozen=True)
class Prometheus:
    """The API of a running server."""

    url: str

    def query(self, expr: str) -> list[Json]:
        """The result of an expression, with the dashboard's variables filled in."""
        for name, value in VARIABLES.items():
            expr = expr.replace(name, value)
        answer = httpx2.post(f"{self.url}/api/v1/query", data={"query": expr}).json()
        assert answer["status"] == "success", f"{expr}: {answer}"
        result: list[Json] = answer["data"]["result"]
        return result

    def value(self, expr: str) -> float | None:
        """The single value of an expression, if it has one."""
        result = self.query(expr)
        return float(result[0]["value"][1]) if result else None


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, make_senses: Any) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("service")
    _nearest_mean(folder / "digits.onnx")
    models = str(folder / "models")
    export = [str(SOFTRISK), "export", str(folder / "digits.onnx"), "--calibration", "digits", "--out", models]
    subprocess.run([*export, "--alpha", "0.05"], check=True, capture_output=True, timeout=120)
    make_senses(folder / "models")
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    with _running([str(SOFTRISK), "serve", models, "--port", str(port)], folder / "log"):
        _until("the service is ready", lambda: httpx2.get(f"{url}/readyz").is_success)
        yield url


@pytest.fixture(scope="module")
def binary(program: Callable[[str, str], str]) -> str:
    return program("prometheus", "apt-get install prometheus")


@pytest.fixture(scope="module")
def prometheus(
    binary: str, service: str, monitoring: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """Scrapes the service every second, with the committed configuration otherwise."""
    folder = tmp_path_factory.mktemp("prometheus")
    configuration = yaml.safe_load((monitoring / "prometheus/prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    configuration["scrape_configs"][0]["static_configs"][0]["targets"] = [service.removeprefix("http://")]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    (folder / "rules").mkdir()
    for file in (monitoring / "prometheus/rules").glob("*.yml"):
        rules = yaml.safe_load(file.read_text())
        for group in rules["groups"]:
            group.pop("interval", None)
        (folder / "rules" / file.name).write_text(yaml.safe_dump(rules))
    port = _free_port()
    server = Prometheus(f"http://127.0.0.1:{port}")
    command = [binary, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with _running([*command, f"--web.listen-address=127.0.0.1:{port}"], folder / "log"):
        _until("Prometheus is ready", lambda: httpx2.get(f"{server.url}/-/ready").is_success)
        _until("Prometheus has scraped the service", partial(server.query, "softrisk_predictions_total"))
        yield server


@pytest.fixture(scope="module")
def traffic(prometheus: Prometheus, service: str) -> int:
    """Clean digits and noise, in several requests that Prometheus has seen; how many were not accepted."""
    images, _ = _digits()
    noise = np.random.default_rng(0).uniform(size=images.shape).astype(np.float32)
    predict = f"{service}/v1/models/digits:predict"
    flagged = sent = 0
    for batch in (images[:40], noise[:20], images[40:80]):
        predictions = httpx2.post(predict, json={"instances": batch.tolist()}).raise_for_status().json()["predictions"]
        flagged += sum(prediction["risk"]["decision"] != "accept" for prediction in predictions)
        sent += len(batch)
        _until(
            "the request is counted",
            partial(prometheus.query, f'sum(softrisk_predictions_total{{model="digits"}}) == {sent}'),
        )
    seen = {"instances": [{"image": image.tolist()} for image in images[:20]]}
    httpx2.post(f"{service}/v1/models/senses:predict", json=seen).raise_for_status()
    _until("the request is counted", partial(prometheus.query, 'softrisk_inputs_total{presence="missing"} == 20'))
    assert httpx2.post(predict, content=b"{", headers={"content-type": "application/json"}).status_code == 400
    return flagged


@pytest.mark.usefixtures("traffic")
def test_every_panel_has_data(dashboard: Json, prometheus: Prometheus) -> None:
    inside = [panel for row in dashboard["panels"] for panel in row.get("panels", [])]
    for panel in [*dashboard["panels"], *inside]:
        for target in panel.get("targets", []):
            found = _until(panel["title"], partial(prometheus.query, target["expr"]))
            for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                assert all(label in series["metric"] for series in found), f"{panel['title']}: no label {label}"


@pytest.mark.usefixtures("traffic")
def test_template_variables_have_values(dashboard: Json, prometheus: Prometheus) -> None:
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            assert match, variable["name"]
            assert all(series["metric"][match[2]] for series in prometheus.query(match[1])), variable["name"]


def test_recorded_share_is_that_of_the_answers(traffic: int, prometheus: Prometheus) -> None:
    assert traffic > 0, "noise was not flagged"
    assert prometheus.value('sum(softrisk_flagged_total{model="digits"})') == traffic
    share = 'model_version_level_window:softrisk_flagged:ratio{model="digits", level="review", window="1h"}'
    # increase() extrapolates both counters alike, so their ratio is exact but for rounding. The first recorded values
    # are from before the last request.
    _until("the share is recorded", partial(prometheus.query, f"abs({share} / {traffic / 100} - 1) < 0.05"))


@pytest.mark.usefixtures("traffic")
def test_every_rule_is_evaluated_without_error(rules: list[Json], prometheus: Prometheus) -> None:
    def evaluated() -> list[Json] | None:
        groups = httpx2.get(f"{prometheus.url}/api/v1/rules").json()["data"]["groups"]
        found = [rule for group in groups for rule in group["rules"]]
        return None if any(rule["health"] == "unknown" for rule in found) else found

    states = _until("all rules are evaluated", evaluated)
    assert len(states) == len(rules)
    assert {rule["name"]: rule.get("lastError") for rule in states if rule["health"] != "ok"} == {}
    for rule in rules:
        prometheus.query(rule["expr"])
        if "record" in rule:
            _until(rule["record"], partial(prometheus.query, rule["record"]))


@pytest.mark.usefixtures("traffic")
def test_a_healthy_service_raises_no_alert_about_itself(prometheus: Prometheus) -> None:
    assert prometheus.query('ALERTS{alertname!="SoftriskStrangeTraffic"}') == []
