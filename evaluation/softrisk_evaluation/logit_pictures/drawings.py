"""Pictures of logits: a column for each model, so that models stand side by side and one alone fits a telephone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from softrisk_evaluation.logit_pictures.shape import Shape, bands, transitions

Models = Mapping[str, Mapping[str, Shape]]
"""By the name of the model, then by that of the kind of inputs; the first kind is what the others are compared with."""

BINS: Final = 40

_COLOURS: Final = ("0.55", "C0", "C3")
"""Of the kinds of inputs, in their order."""

_FLOOR: Final = 1e-12
"""Probabilities below it are drawn there."""

_LETTERS: Final = 16
"""Of a name beside a picture."""

_NAMED: Final = 20
"""Most classes whose names fit beside a matrix."""


@dataclass(frozen=True)
class Ends:
    """From which class to which.

    Attributes:
        label: Predicted for each clean image, shape (N,).
        runner_up: The class that was second there, shape (N,).
        turned: Which of them were attacked with success: a mask of shape (N,), or positions of shape (k,).
        after: Predicted under the attack, shape (k,).
    """

    label: NDArray[np.int64]
    runner_up: NDArray[np.int64]
    turned: NDArray[np.bool_] | NDArray[np.int64]
    after: NDArray[np.int64]

    @property
    def followed(self) -> float:
        """Share of the successful attacks that end in the class that was second; NaN without any."""
        return float((self.after == self.runner_up[self.turned]).mean()) if len(self.after) else float("nan")


def draw_levels(models: Models) -> Figure:
    """Histograms of the largest logit and of its distance to the next, on the same axes for all models."""
    figure, grid = _grid(models, 2, 2.3, sharex="row", sharey="row")
    for row, name in zip(grid, ("max_logit", "logit_gap"), strict=True):
        everything = [getattr(shape, name) for kinds in models.values() for shape in kinds.values()]
        edges = np.histogram_bin_edges(np.concatenate(everything), BINS)
        for axes, kinds in zip(row, models.values(), strict=True):
            clean, *others = kinds
            attacked = sum(len(kinds[kind].label) for kind in others)
            for colour, (kind, shape) in zip(_COLOURS, kinds.items(), strict=False):
                values = getattr(shape, name)
                if len(values):
                    style = {"alpha": 0.5} if colour == _COLOURS[0] else {"histtype": "step", "linewidth": 1.5}
                    # Attacked images together weigh as much as clean ones, or a handful of successes would tower.
                    share = np.full(len(values), 1 / (len(values) if kind == clean else attacked))
                    axes.hist(values, edges, weights=share, color=colour, label=f"{kind}: {len(values):,}", **style)
            axes.set_xlabel(name.replace("_", " "))
        row[0].set_ylabel("share of images")
    for axes in grid[0]:
        axes.legend(fontsize="x-small")
    return figure


def draw_profiles(models: Models) -> Figure:
    """Softmax probabilities from the largest to the smallest: medians, and bands that hold nine of ten inputs."""
    figure, (row,) = _grid(models, 1, 3.2, sharey="row")
    for axes, kinds in zip(row, models.values(), strict=True):
        for colour, (kind, shape) in zip(_COLOURS, kinds.items(), strict=False):
            if len(shape.profile):
                low, median, high = np.maximum(bands(shape.profile), _FLOOR)
                places = np.arange(1, len(median) + 1)
                axes.plot(places, median, color=colour, marker="o", markersize=3, label=kind)
                axes.fill_between(places, low, high, color=colour, alpha=0.18, linewidth=0)
                axes.set_xticks(places)
        axes.set(yscale="log", xlabel="place in the order")
        axes.set_ylim(top=1.5)
    row[0].set_ylabel("softmax probability")
    figure.legend(
        *row[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(_COLOURS), fontsize="x-small"
    )
    return figure


def draw_runner_up(models: Mapping[str, Ends], classes: Sequence[str]) -> Figure:
    """Class by class, which class is second, and where successful attacks end; the latter where there are any."""
    attacked = any(len(ends.after) for ends in models.values())
    figure, grid = _grid(models, 1 + attacked, 3.4 if len(models) > 1 else 4.2)
    for column, ends in zip(grid.T, models.values(), strict=True):
        _matrix(column[0], transitions(ends.label, ends.runner_up, len(classes)), classes)
        column[0].set(xlabel="second most likely class", ylabel="predicted, clean")
        if attacked:
            _matrix(column[1], transitions(ends.label[ends.turned], ends.after, len(classes)), classes)
            column[1].set(xlabel="predicted under attack", ylabel="predicted, clean")
    return figure


def short(name: str) -> str:
    """A name of the user's that leaves a picture room for the rest."""
    return name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…"


def _grid(models: Mapping[str, Any], rows: int, height: float, **shared: Any) -> tuple[Figure, NDArray[Any]]:
    # One model gets the width of a telephone held upright; letters of the same size are legible on every screen then.
    width = 4.8 if len(models) == 1 else 3.4 * len(models)
    figure = Figure(figsize=(width, height * rows + 0.3), layout="constrained")
    grid = figure.subplots(rows, len(models), squeeze=False, **shared)
    if len(models) > 1:
        for axes, name in zip(grid[0], models, strict=True):
            axes.set_title(short(name), parse_math=False)
    return figure, grid


def _matrix(axes: Axes, shares: NDArray[np.float64], classes: Sequence[str]) -> None:
    known = np.ma.masked_array(shares, np.broadcast_to(shares.sum(axis=1, keepdims=True) == 0, shares.shape))
    axes.set_facecolor("0.9")
    picture = axes.imshow(known, cmap="magma_r", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
    assert axes.figure is not None
    axes.figure.colorbar(picture, ax=axes, fraction=0.046, pad=0.03, label="share of the row")
    if len(classes) <= _NAMED:
        places, names = range(len(classes)), [short(name) for name in classes]
        turned = 90 if max(map(len, names)) > 2 else 0
        axes.set_xticks(places, names, fontsize="small", rotation=turned, parse_math=False)
        axes.set_yticks(places, names, fontsize="small", parse_math=False)
