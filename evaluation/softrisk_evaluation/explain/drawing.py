"""Explanations as one picture: a row for each image, and below where all of them stand among clean data."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from softrisk_core.manifest import Manifest
from softrisk_evaluation.explain.explanation import Explanation
from softrisk_evaluation.explain.reference import BINS, Reference
from softrisk_evaluation.explain.saliency import coloured
from softrisk_evaluation.logit_pictures.drawings import short
from softrisk_evaluation.page import depicted, softmax_bars

COLOURS: Final = ("#0969da", "#cf222e", "#1a7f37", "#8250df", "#9a6700", "#0e7490")
"""Of the images, in their order, over again from the seventh on."""

_WIDTH: Final = 8.0
_COLUMNS: Final = 4
"""Histograms side by side."""


def colour(place: int) -> str:
    """Of the image at this place in the order, from 0."""
    return COLOURS[place % len(COLOURS)]


def draw_explanations(
    explanations: Sequence[Explanation], usual: Mapping[str, Reference], manifest: Manifest
) -> Figure:
    """The whole picture.

    Args:
        explanations: At least one.
        usual: Values of clean data, by diagnostic.
        manifest: Of the bundle.
    """
    probed = bool(explanations[0].probes)
    heights = [(3.5 if probed else 2.3)] * len(explanations) + [2.0 * -(-len(usual) // _COLUMNS)]
    figure = Figure(figsize=(_WIDTH, sum(heights)), layout="constrained")
    *rows, last = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for place, (part, explanation) in enumerate(zip(rows, explanations, strict=True)):
        _row(part, explanation, manifest, colour(place))
    _histograms(last, explanations, usual)
    return figure


def _row(part: SubFigure, explanation: Explanation, manifest: Manifest, hue: str) -> None:
    shown = depicted(explanation.view, manifest)
    verdict = "FLAGGED" if explanation.flagged else "not flagged"
    part.suptitle(
        f"{explanation.request.name}: “{short(shown.label)}”, p = {shown.p_value:.3g}, {verdict}",
        color=hue,
        weight="bold",
        parse_math=False,
    )
    top, *below = _split(part) if explanation.probes else [part]
    image, saliency, bars = top.subplots(1, 3, width_ratios=(1, 1, 1.8))
    _picture(image, explanation.view.image, "image")
    _picture(saliency, coloured(explanation.saliency), "what decides")
    rows = softmax_bars(explanation.view, None, explanation.view.label, manifest.classes)
    bars.barh(range(len(rows)), [bar.clean for bar in rows], color=hue)
    bars.set_yticks(range(len(rows)), [short(bar.name) for bar in rows], fontsize="x-small", parse_math=False)
    bars.set(xlim=(0, 1), xlabel="softmax")
    bars.invert_yaxis()
    for strip in below:
        grid = strip.subplots(1, len(explanation.probes), squeeze=False)
        for axes, probe in zip(grid[0], explanation.probes, strict=True):
            _picture(
                axes, probe.image, f"{probe.name}\n“{short(manifest.classes[probe.label])}” {probe.confidence:.2f}"
            )


def _split(part: SubFigure) -> list[SubFigure]:
    return list(part.subfigures(2, 1, height_ratios=(2.2, 1.2), squeeze=False)[:, 0])


def _picture(axes: Axes, image: NDArray[np.float32], title: str) -> None:
    shown = image.transpose(1, 2, 0) if len(image) == 3 else image.mean(axis=0)
    axes.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(title, fontsize="small", parse_math=False)
    axes.set_axis_off()


def _histograms(part: SubFigure, explanations: Sequence[Explanation], usual: Mapping[str, Reference]) -> None:
    part.suptitle(
        "among clean calibration data; in per cent, how many of these are at least as strange", fontsize="medium"
    )
    grid = part.subplots(-(-len(usual) // _COLUMNS), _COLUMNS, squeeze=False)
    for axes, reading, (name, reference) in zip(
        grid.ravel(), zip(*(each.readings for each in explanations), strict=True), usual.items(), strict=True
    ):
        values = [each.value for each in reading]
        low, high = reference.span(values)
        axes.stairs(reference.bars(low, high), np.linspace(low, high, BINS + 1), fill=True, color="0.8")
        for place, each in enumerate(reading):
            axes.axvline(each.value, color=colour(place), linewidth=2)
            axes.annotate(
                f"{each.tail:.1%}",
                (0.5, 0.97),
                xytext=(0, -11 * place),
                xycoords="axes fraction",
                textcoords="offset points",
                ha="center",
                va="top",
                color=colour(place),
                fontsize="small",
                bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5},
            )
        axes.set_title(name.replace("_", " "), fontsize="small")
        axes.set_yticks([])
        axes.tick_params(axis="x", labelsize="x-small")
