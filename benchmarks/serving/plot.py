"""The picture for the README: how many requests a second each server answers."""

from pathlib import Path
from typing import Final

import matplotlib as mpl
from benchmarks.serving.servers import SERVERS
from benchmarks.serving.summary import Row, Summary, is_ours
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_CONNECTIONS: Final = 64
_PANELS: Final = (
    ("S", "json", "small CNN, JSON"),
    ("S", "binary", "small CNN, binary"),
    ("R", "json", "ResNet-18, JSON"),
)
_OURS: Final = "#1f6f8b"
_PEERS: Final = "0.72"
_PROJECTS: Final[dict[str, str]] = {server.name: server.project for server in SERVERS}


def draw(summary: Summary, folder: Path) -> list[str]:
    """Write the picture as PNG and SVG.

    Returns:
        File names; none if nothing of it was measured.
    """
    panels = [(title, model, _bars(summary, model, format_)) for model, format_, title in _PANELS]
    panels = [(title, model, rows) for title, model, rows in panels if rows]
    if not panels:
        return []
    most = max(len(rows) for _, _, rows in panels)
    with mpl.rc_context({"font.size": 8, "svg.fonttype": "none", "svg.hashsalt": "serving"}):
        figure = Figure(figsize=(3.6 * len(panels), 0.8 + 0.24 * most), layout="constrained")
        for axes, (title, model, rows) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _draw_panel(axes, summary, title, model, rows, most)
        figure.suptitle(
            f"requests/s at {_CONNECTIONS} connections, one image each (× the best other server)", fontsize=8
        )
        names = ["throughput.png", "throughput.svg"]
        figure.savefig(folder / names[0], dpi=150, metadata={"Software": None})
        figure.savefig(folder / names[1], metadata={"Date": None})
    return names


def _bars(summary: Summary, model: str, format_: str) -> list[Row]:
    """All our configurations and the best one of each peer, the fastest first."""
    seen: set[str] = set()
    rows = []
    for row in sorted(summary.select(model, format_, _CONNECTIONS), key=lambda row: -float(row["requests_per_second"])):
        project = _PROJECTS.get(row["server"]) or row["server"]
        if is_ours(row) or project not in seen:
            rows.append(row)
            seen.add(project)
    return rows


def _draw_panel(axes: Axes, summary: Summary, title: str, model: str, rows: list[Row], places: int) -> None:
    values = [float(row["requests_per_second"]) for row in rows]
    axes.barh([row["server"] for row in rows], values, color=[_OURS if is_ours(row) else _PEERS for row in rows])
    axes.set_ylim(places + 0.3, -0.6)  # the same thickness of bars in all panels, and room for a line of text
    for place, (row, value) in enumerate(zip(rows, values, strict=True)):
        ratio = summary.to_best_peer(row)
        text = f" {value:,.0f}" + (f" ({ratio:.1f}×)" if is_ours(row) and ratio is not None else "")
        axes.text(value, place, text, va="center", fontweight="bold" if is_ours(row) else "normal")
    axes.set_title(title, loc="left", fontweight="bold")
    bare = summary.bare_best(model)
    limit = 1.45 * max(values)
    if bare is not None and bare["images_per_second"] < limit:
        axes.axvline(bare["images_per_second"], color="0.3", linestyle=":", linewidth=1)
        axes.text(
            bare["images_per_second"], len(rows) - 0.1, "onnxruntime alone ", va="center", ha="right", color="0.3"
        )
    axes.set_xlim(0, limit)
    axes.set_xticks([])
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.tick_params(left=False)
