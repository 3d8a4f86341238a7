"""Activating images side by side on one page."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

_CELL: Final = (1.25, 1.45)
"""Width and height of an image with its caption, inches."""


def contact_sheet(
    images: NDArray[np.float32], rows: Sequence[str], columns: Sequence[str], captions: Sequence[Sequence[str]]
) -> Figure:
    """A grid of images.

    Args:
        images: Shape (R, K, C, H, W), in [0, 1]; three channels are red, green and blue, of others the mean is shown.
        rows: Names of the R rows.
        columns: Names of the K columns.
        captions: Below each image, R × K.
    """
    figure = Figure(figsize=(_CELL[0] * len(columns) + 0.5, _CELL[1] * len(rows) + 0.3), layout="constrained")
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    for row, name in enumerate(rows):
        grid[row, 0].set_ylabel(name, fontsize="small")
        for axes, image, caption in zip(grid[row], images[row], captions[row], strict=True):
            shown = image.transpose(1, 2, 0) if len(image) == 3 else image.mean(axis=0)
            axes.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.set_xlabel(caption, fontsize="x-small", labelpad=2)
            axes.spines[:].set_visible(False)
    for axes, name in zip(grid[0], columns, strict=True):
        axes.set_title(name, fontsize="medium")
    return figure
