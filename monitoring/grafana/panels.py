"""The kinds of panels that the dashboard is made of, as Grafana's classic JSON (schema 42)."""

from dataclasses import dataclass, field
from typing import Any, Final

Json = dict[str, Any]

DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
SELECTED: Final = 'model=~"$model", version=~"$version"'

WIDTH: Final = 24


@dataclass(frozen=True)
class Query:
    """One PromQL expression and how its series are called.

    Attributes:
        expr: May use the template variables `$model` and `$version`.
        legend: Grafana's legend format.
        instant: The value now, instead of its course.
        format: `time_series`, `heatmap` (cumulative buckets become cells) or `table`.
    """

    expr: str
    legend: str = ""
    instant: bool = False
    format: str = "time_series"


@dataclass(frozen=True)
class Panel:
    """A panel without its place; see the functions below for the kinds in use.

    Attributes:
        type: Grafana's name of the visualization.
        title: What is shown.
        description: What to look for.
        queries: Their results are drawn together.
        width: In columns, of `WIDTH`.
        height: In Grafana's grid units, of 30 pixels.
        field_config: Grafana's `fieldConfig`.
        options: Grafana's options of this type of panel.
        transformations: Applied to the results before they are drawn.
    """

    type: str
    title: str
    description: str
    queries: tuple[Query, ...]
    width: int
    field_config: Json
    options: Json
    height: int = 8
    transformations: list[Json] = field(default_factory=list)

    def to_json(self, identity: int, x: int, y: int) -> Json:
        """The panel at a place of the grid."""
        targets = [
            {
                "refId": chr(ord("A") + index),
                "datasource": DATASOURCE,
                "expr": query.expr,
                "legendFormat": query.legend,
                "instant": query.instant,
                "range": not query.instant,
                "format": query.format,
            }
            for index, query in enumerate(self.queries)
        ]
        return {
            "id": identity,
            "type": self.type,
            "title": self.title,
            "description": self.description,
            "datasource": DATASOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "fieldConfig": self.field_config,
            "options": self.options,
            "transformations": self.transformations,
            "targets": targets,
        }


def graph(
    title: str,
    description: str,
    *queries: Query,
    unit: str,
    width: int = 8,
    stacked: bool = False,
    dashed: str = "",
    maximum: float | None = None,
) -> Panel:
    """Curves over time; the names that match the regular expression `dashed` are reference lines."""
    defaults: Json = {
        "unit": unit,
        "min": 0,
        "custom": {
            "fillOpacity": 30 if stacked else 0,
            "lineWidth": 1 if stacked else 2,
            "showPoints": "never",
            "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        },
    }
    if maximum is not None:
        defaults["max"] = maximum
    overrides = [
        {
            "matcher": {"id": "byRegexp", "options": dashed},
            "properties": [
                {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [8, 8]}},
                {"id": "color", "value": {"mode": "fixed", "fixedColor": "text"}},
            ],
        }
    ]
    return Panel(
        type="timeseries",
        title=title,
        description=description,
        queries=queries,
        width=width,
        field_config={"defaults": defaults, "overrides": overrides if dashed else []},
        options={
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    )


def number(title: str, description: str, query: Query, *, unit: str, steps: list[tuple[float | None, str]]) -> Panel:
    """A single figure; `steps` are colours from a value upwards, the first from None."""
    thresholds = {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in steps]}
    return Panel(
        type="stat",
        title=title,
        description=description,
        queries=(query,),
        width=6,
        height=4,
        field_config={"defaults": {"unit": unit, "noValue": "–", "thresholds": thresholds}, "overrides": []},
        options={
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "value",
            "graphMode": "area",
            "justifyMode": "auto",
            "orientation": "auto",
            "percentChangeColorMode": "standard",
            "showPercentChange": False,
            "textMode": "auto",
            "wideLayout": True,
        },
    )


def bars(title: str, description: str, *queries: Query, unit: str, width: int, maximum: float) -> Panel:
    """One bar a query."""
    return Panel(
        type="bargauge",
        title=title,
        description=description,
        queries=queries,
        width=width,
        field_config={
            "defaults": {"unit": unit, "min": 0, "max": maximum, "color": {"mode": "fixed", "fixedColor": "blue"}},
            "overrides": [],
        },
        options={
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "orientation": "vertical",
            "displayMode": "basic",
            "valueMode": "color",
            "namePlacement": "auto",
            "showUnfilled": False,
            "sizing": "auto",
            "minVizWidth": 8,
            "minVizHeight": 16,
            "maxVizHeight": 300,
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False, "calcs": []},
        },
    )


def heatmap(title: str, description: str, metric: str, *, width: int = 8) -> Panel:
    """The buckets of a histogram over time."""
    expr = f"sum by (le) (increase({metric}_bucket{{{SELECTED}}}[$__rate_interval]))"
    return Panel(
        type="heatmap",
        title=title,
        description=description,
        queries=(Query(expr, "{{le}}", format="heatmap"),),
        width=width,
        field_config={"defaults": {}, "overrides": []},
        options={
            "calculate": False,
            "cellGap": 1,
            "color": {
                "mode": "scheme",
                "scheme": "Oranges",
                "fill": "dark-orange",
                "scale": "exponential",
                "exponent": 0.5,
                "reverse": False,
                "steps": 64,
            },
            "exemplars": {"color": "rgba(255,0,255,0.7)"},
            "filterValues": {"le": 1e-9},
            "legend": {"show": True},
            "rowsFrame": {"layout": "auto"},
            "showValue": "never",
            "tooltip": {"mode": "single", "showColorScale": False, "yHistogram": True},
            "yAxis": {"axisPlacement": "left", "reverse": False},
        },
    )


def quantiles(title: str, description: str, metric: str, *, unit: str, width: int = 8) -> Panel:
    """Median and both tails of a histogram over time, by model and version."""
    queries = (
        Query(
            f"histogram_quantile({q}, sum by (model, version, le)"
            f" (rate({metric}_bucket{{{SELECTED}}}[$__rate_interval])))",
            f"{{{{model}}}} {{{{version}}}} p{round(100 * q)}",
        )
        for q in (0.05, 0.5, 0.95)
    )
    return graph(title, description, *queries, unit=unit, width=width)


def table(title: str, description: str, query: Query, *, hidden: tuple[str, ...]) -> Panel:
    """The labels and the value of each series of a metric."""
    return Panel(
        type="table",
        title=title,
        description=description,
        queries=(query,),
        width=8,
        field_config={"defaults": {"custom": {"align": "auto"}}, "overrides": []},
        options={"showHeader": True, "cellHeight": "sm", "frameIndex": 0},
        transformations=[{"id": "organize", "options": {"excludeByName": dict.fromkeys(hidden, True)}}],
    )
