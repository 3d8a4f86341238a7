"""How an ONNX file wants its images: which axis is the channel, and whether they are flattened."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from softrisk_export.errors import ForeignModelError
from softrisk_export.graph import float_input
from softrisk_export.onnx_edit import Step, chain, rename

_PREFIX: Final = "softrisk/layout/"


@dataclass(frozen=True)
class Layout:
    """From images (B, C, H, W) in [0, 1] to what a file was trained on.

    Attributes:
        scale: Shape (C or 1, 1, 1): factor of the values.
        offset: Likewise, added afterwards.
        channels_last: Whether the axes are then put in the order (B, H, W, C).
        shape: Shape of an instance after that; None leaves it.
    """

    scale: NDArray[np.float32]
    offset: NDArray[np.float32]
    channels_last: bool
    shape: tuple[int, ...] | None

    def apply(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """The layout of images in NumPy."""
        values = images * self.scale + self.offset
        if self.channels_last:
            values = values.transpose(0, 2, 3, 1)
        return np.ascontiguousarray(values if self.shape is None else values.reshape(-1, *self.shape))

    def prepend(self, graph: onnx.GraphProto, entry: str, image_shape: tuple[int, int, int]) -> None:
        """Put the same in front of a graph, so that its input becomes images.

        Args:
            graph: Changed in place.
            entry: Its input, which keeps its name.
            image_shape: (C, H, W).
        """
        steps = []
        if not np.all(self.scale == 1):
            steps.append(Step("Mul", {"scale": self.scale}))
        if not np.all(self.offset == 0):
            steps.append(Step("Add", {"offset": self.offset}))
        if self.channels_last:
            steps.append(Step("Transpose", attributes={"perm": [0, 2, 3, 1]}))
        if self.shape is not None:
            steps.append(Step("Reshape", {"shape": np.array([-1, *self.shape])}))
        nodes, prepared = chain(graph, entry, steps, _PREFIX)
        rename(graph, entry, prepared)
        following = list(graph.node)
        del graph.node[:]
        graph.node.extend([*nodes, *following])
        graph.input[0].CopyFrom(float_input(entry, image_shape))


def find_layout(
    sizes: Sequence[int | None],
    image_shape: tuple[int, int, int],
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    value_range: tuple[float, ...],
) -> Layout:
    """The layout that fits the shape of a file's input to that of the images.

    Args:
        sizes: Of the input's axes after the batch; None where the file leaves it open.
        image_shape: (C, H, W) of the data.
        mean: By which the file's inputs are normalised: one value, or one a channel.
        std: Likewise, > 0.
        value_range: (black, white) as the file takes them, before mean and std.

    Raises:
        ForeignModelError: If the images do not fit, or mean, std or range make no sense.
    """
    channels, height, width = image_shape
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, channels):
            raise ForeignModelError(f"--{name} takes one value or {channels}, one a channel, got {len(values)}")
    if min(std) <= 0:
        raise ForeignModelError(f"--std must be positive, got {', '.join(map(str, std))}")
    if len(value_range) != 2 or value_range[0] >= value_range[1]:
        raise ForeignModelError("--range takes two ascending numbers, such as 0,255")
    black, white = value_range
    scale = np.float32((white - black) / np.array(std)).reshape(-1, 1, 1)
    offset = np.float32((black - np.array(mean)) / np.array(std)).reshape(-1, 1, 1)

    if _fits(sizes, image_shape):
        return Layout(scale, offset, channels_last=False, shape=None)
    if _fits(sizes, (height, width, channels)):
        return Layout(scale, offset, channels_last=True, shape=None)
    if _fits(sizes, (channels * height * width,)):
        return Layout(scale, offset, channels_last=False, shape=(math.prod(image_shape),))
    if channels == 1 and _fits(sizes, (height, width)):
        return Layout(scale, offset, channels_last=False, shape=(height, width))
    wanted = ", ".join("any" if size is None else str(size) for size in sizes)
    raise ForeignModelError(
        f"the file takes inputs of shape ({wanted}), which images of shape {image_shape} (channels, height, width) do "
        "not fit, not with the channels last nor flattened either; give calibration data of its size"
    )


def _fits(sizes: Sequence[int | None], shape: tuple[int, ...]) -> bool:
    return len(sizes) == len(shape) and all(
        size is None or size == actual for size, actual in zip(sizes, shape, strict=True)
    )
