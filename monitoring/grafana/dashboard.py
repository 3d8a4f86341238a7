"""Prints the dashboard, which is committed beside this file and compared with this output by a test.

python -m monitoring.grafana.dashboard > monitoring/grafana/dashboards/softrisk.json
"""

import json
import sys
from itertools import pairwise
from typing import Final

from monitoring.grafana.panels import (
    DATASOURCE,
    SELECTED,
    WIDTH,
    Json,
    Panel,
    Query,
    bars,
    graph,
    heatmap,
    number,
    quantiles,
    table,
)

RATE: Final = "[$__rate_interval]"

REQUESTS: Final = f"softrisk_inference_requests_total{{{SELECTED}}}"
FAILED: Final = f'softrisk_inference_requests_total{{{SELECTED}, code=~"5.."}}'
REFUSED: Final = f'softrisk_inference_requests_total{{{SELECTED}, code="429"}}'
DURATION: Final = f"softrisk_request_duration_seconds_bucket{{{SELECTED}}}"


def _ratio(part: str, whole: str) -> str:
    # Without the first term the ratio would be absent, not 0, until the first failure.
    return f"(sum(rate({part}{RATE})) or vector(0)) / sum(rate({whole}{RATE}))"


def _latency(q: float) -> Panel:
    return graph(
        f"Latency by stage, p{round(100 * q)}",
        "How long a stage of a request takes. Time in the queue that grows before the others do means more load than "
        "the runtime can take.",
        Query(f"histogram_quantile({q}, sum by (stage, le) (rate({DURATION}{RATE})))", "{{stage}}"),
        unit="s",
    )


def _deciles() -> tuple[Query, ...]:
    bounds = ["0.0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1.0"]

    def below(bound: str) -> str:
        return f'sum(increase(softrisk_p_value_bucket{{{SELECTED}, le="{bound}"}}[$__range]))'

    total = f"sum(increase(softrisk_p_value_count{{{SELECTED}}}[$__range]))"
    return tuple(
        Query(
            f"({below(upper)}{'' if lower == '0.0' else ' - ' + below(lower)}) / {total}",
            f"{lower}–{upper}",
            instant=True,
        )
        for lower, upper in pairwise(bounds)
    )


ROWS: Final[dict[str, tuple[Panel, ...]]] = {
    "Now": (
        number(
            "Requests per second",
            "All models and protocols in the selection.",
            Query(f"sum(rate({REQUESTS}{RATE}))"),
            unit="reqps",
            steps=[(None, "text")],
        ),
        number(
            "Error ratio",
            "Share of requests that the service failed to answer (5xx). A client's mistakes (4xx) do not count.",
            Query(_ratio(FAILED, REQUESTS)),
            unit="percentunit",
            steps=[(None, "green"), (0.001, "orange"), (0.01, "red")],
        ),
        number(
            "Refused ratio",
            "Share of requests refused because the queue was full (429): the load is more than this instance can take.",
            Query(_ratio(REFUSED, REQUESTS)),
            unit="percentunit",
            steps=[(None, "green"), (0.001, "orange"), (0.01, "red")],
        ),
        number(
            "Evidence against clean traffic",
            "The largest over models, levels and windows. The alert fires from 13.8 on: clean traffic shows that less "
            "than once in a million windows.",
            Query(f"max(model_version_level_window:softrisk_flagged:evidence{{{SELECTED}}})"),
            unit="none",
            steps=[(None, "green"), (6.9, "orange"), (13.8, "red")],
        ),
    ),
    "Traffic": (
        graph(
            "Requests by model",
            "Requests per second, whatever their outcome.",
            Query(f"sum by (model, version, protocol) (rate({REQUESTS}{RATE}))", "{{model}} {{version}} {{protocol}}"),
            unit="reqps",
        ),
        graph(
            "Requests by code",
            "200 is an answer; 4xx is the client's fault, 429 a full queue, 5xx the service's fault.",
            Query(f"sum by (code) (rate({REQUESTS}{RATE}))", "{{code}}"),
            unit="reqps",
            stacked=True,
        ),
        graph(
            "Errors and refusals",
            "Share of requests answered 5xx and 429. Both should be 0.",
            Query(_ratio(FAILED, REQUESTS), "5xx"),
            Query(_ratio(REFUSED, REQUESTS), "429"),
            unit="percentunit",
        ),
    ),
    "Latency": tuple(_latency(q) for q in (0.5, 0.95, 0.99)),
    "Batches": (
        graph(
            "Batch size",
            "Inputs per run of the model. Batches that stay at 1 under load mean that requests come one after the "
            "other; batches at the configured maximum mean that the queue is never empty.",
            Query(
                f"sum(rate(softrisk_batch_size_sum{{{SELECTED}}}{RATE}))"
                f" / sum(rate(softrisk_batch_size_count{{{SELECTED}}}{RATE}))",
                "mean",
            ),
            Query(
                f"histogram_quantile(0.95, sum by (le) (rate(softrisk_batch_size_bucket{{{SELECTED}}}{RATE})))", "p95"
            ),
            unit="none",
            width=WIDTH // 2,
        ),
        graph(
            "Queue depth",
            "Inputs that wait for a run. Between bursts it is 0 again; where it is not, requests will be refused.",
            Query(f"sum by (model, version) (softrisk_queue_depth{{{SELECTED}}})", "{{model}} {{version}}"),
            unit="none",
            width=WIDTH // 2,
        ),
    ),
    "Risk": (
        graph(
            "Share of p ≤ α, over one hour",
            "On traffic like the calibration data each share stays near its α (dashed). Well above: attacks, or inputs "
            "unlike the calibration data. Well below: inputs easier than the calibration data.",
            Query(
                f'model_version_level_window:softrisk_flagged:ratio{{{SELECTED}, window="1h"}}',
                "{{model}} {{version}} {{level}}",
            ),
            Query(f"model_version_level:softrisk_alpha:max{{{SELECTED}}}", "α of {{model}} {{version}} {{level}}"),
            unit="percentunit",
            dashed="^α.*",
        ),
        graph(
            "Evidence against clean traffic",
            "How badly chance explains the share of p ≤ α: at x, clean traffic has a probability below exp(−x) to show "
            "it. The alert fires above the dashed line, one in a million.",
            Query(
                f"model_version_level_window:softrisk_flagged:evidence{{{SELECTED}}}",
                "{{model}} {{version}} {{level}} in {{window}}",
            ),
            Query("vector(13.8)", "alert"),
            unit="none",
            dashed="^alert$",
        ),
        bars(
            "p-values by tenths",
            "Share of predictions in each tenth of [0, 1], over the time shown. Clean traffic fills every tenth with "
            "10 %. A tall first bar: strange inputs. A slope to the right: inputs easier than the calibration data.",
            *_deciles(),
            unit="percentunit",
            width=8,
            maximum=0.3,
        ),
        graph(
            "Flags by model and decision",
            "Predictions per second that were not accepted. The table of decision levels says which α they reach.",
            Query(
                f"sum by (model, version, decision) (rate(softrisk_flagged_total{{{SELECTED}}}{RATE}))",
                "{{model}} {{version}} {{decision}}",
            ),
            unit="ops",
            stacked=True,
        ),
        graph(
            "Predictions by model",
            "Answered inputs per second: more than requests where these carry several.",
            Query(
                f"sum by (model, version) (rate(softrisk_predictions_total{{{SELECTED}}}{RATE}))",
                "{{model}} {{version}}",
            ),
            unit="ops",
        ),
        heatmap(
            "p-values over time",
            "Under clean traffic rows of equal width are equally dark, and the narrow ones at the bottom nearly empty. "
            "A dark band at the bottom is a wave of strange inputs.",
            "softrisk_p_value",
        ),
    ),
    "Diagnostics": (
        quantiles(
            "Probability gap",
            "top2_gap: probability of the first class minus that of the second. A falling p5 is a growing share of "
            "undecided predictions.",
            "softrisk_top2_gap",
            unit="none",
        ),
        quantiles(
            "Logit gap",
            "logit_gap: the same on logits, where confident predictions still differ. By default low is strange.",
            "softrisk_logit_gap",
            unit="none",
        ),
        quantiles(
            "Dispersion",
            "Standard deviation of the logits of all other classes, which DRSL trains to be small: high is strange.",
            "softrisk_dispersion",
            unit="none",
        ),
        heatmap("Probability gap", "All predictions, by bucket of top2_gap.", "softrisk_top2_gap"),
        heatmap("Logit gap", "All predictions, by bucket of logit_gap.", "softrisk_logit_gap"),
        heatmap("Dispersion", "All predictions, by bucket of dispersion.", "softrisk_dispersion"),
    ),
    "Models": (
        table(
            "Models",
            "What is served, by which instance and on which provider.",
            Query(f"softrisk_model_info{{{SELECTED}}}", instant=True, format="table"),
            hidden=("Time", "Value", "__name__", "job"),
        ),
        table(
            "Calibrations",
            "What the p-values compare with: the scores of n held-out clean rows. alpha is the default of the bundle.",
            Query(f"softrisk_calibration_info{{{SELECTED}}}", instant=True, format="table"),
            hidden=("Time", "Value", "__name__", "job"),
        ),
        table(
            "Decision levels",
            "The α of each decision, as the operator or the bundle sets it.",
            Query(f"softrisk_alpha{{{SELECTED}}}", instant=True, format="table"),
            hidden=("Time", "__name__", "job"),
        ),
    ),
    "Inputs and radius": (
        graph(
            "Missing inputs",
            "Share of instances without an input that may be left out. Each set of inputs has a calibration of its "
            "own, so that the share does not move the flags; one that jumps to 1 is a source that is silent.",
            Query(
                f'sum by (model, version, input) (rate(softrisk_inputs_total{{{SELECTED}, presence="missing"}}{RATE}))'
                f" / sum by (model, version, input) (rate(softrisk_inputs_total{{{SELECTED}}}{RATE}))",
                "{{model}} {{version}} {{input}}",
            ),
            unit="percentunit",
            maximum=1,
        ),
        quantiles(
            "Certified radius",
            "Distance within which the label is proved to stay, in the norm and the spaces of the bundle. A falling p5 "
            "is a growing share of labels that a small change can turn. It says nothing about flags.",
            "softrisk_certified_radius",
            unit="none",
        ),
        heatmap("Certified radius", "All predictions, by bucket of the radius.", "softrisk_certified_radius"),
    ),
}

CLOSED: Final = frozenset({"Inputs and radius"})
"""Rows that are opened by hand, since few models fill them: Grafana can't hide a row by what its panels find."""


def _variable(name: str, label: str, query: str) -> Json:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panels() -> list[Json]:
    panels: list[Json] = []
    identity, y = 1, 0
    for title, row in ROWS.items():
        heading = {"id": identity, "type": "row", "title": title, "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1}}
        y += 1
        x = 0
        placed = []
        for panel in row:
            if x + panel.width > WIDTH:
                x, y = 0, y + panel.height
            identity += 1
            placed.append(panel.to_json(identity, x, y))
            x += panel.width
        closed = title in CLOSED
        panels += [{**heading, "collapsed": closed, "panels": placed if closed else []}, *([] if closed else placed)]
        identity += 1
        y += 0 if closed else row[-1].height
    return panels


def dashboard() -> Json:
    """The dashboard, as Grafana's file provisioning reads it."""
    return {
        "uid": "softrisk",
        "title": "softrisk",
        "description": "Traffic, latency and risk of the models that softrisk serves.",
        "tags": ["softrisk"],
        "schemaVersion": 42,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "label": "Data source",
                    "type": "datasource",
                    "query": "prometheus",
                    "current": {"text": "Prometheus", "value": "softrisk-prometheus"},
                },
                _variable("model", "Model", "label_values(softrisk_model_info, model)"),
                _variable("version", "Version", 'label_values(softrisk_model_info{model=~"$model"}, version)'),
            ]
        },
        "annotations": {
            "list": [
                {
                    "name": "Alerts",
                    "datasource": DATASOURCE,
                    "enable": True,
                    "iconColor": "red",
                    "target": {"refId": "Anno", "expr": 'ALERTS{alertname=~"Softrisk.*", alertstate="firing"}'},
                    "titleFormat": "{{alertname}}",
                    "textFormat": "{{model}} {{version}}",
                }
            ]
        },
        "links": [],
        "panels": _panels(),
    }


if __name__ == "__main__":
    json.dump(dashboard(), sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")
