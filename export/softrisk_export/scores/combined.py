"""Fitted combinations: features, their normal scores, and the weighted sum."""

import math
from typing import Any, Final

import numpy as np

from softrisk_core.roughness import FLOOR, TINY, filters
from softrisk_core.scores.combined import NORMAL_SCORES, Combination
from softrisk_core.scores.features import WEIGHED
from softrisk_export.scores.tail import Tail

_LAYER: Final = """
    {0}_response = Conv (image, {0}_filter)
    {0}_size = Abs ({0}_response)
    {0}_sum = ReduceSum <keepdims = 1> ({0}_size, pixels)
    {0}_mean = Mul ({0}_sum, {0}_share)
    {0}_present = Add ({0}_mean, tiny)
    {0}_log_mean = Log ({0}_present)
    {0}_lifted = Add ({0}_size, floor)
    {0}_logs = Log ({0}_lifted)
    {0}_log_sum = ReduceSum <keepdims = 1> ({0}_logs, pixels)
    {0}_log = Mul ({0}_log_sum, {0}_share)
    {0}_floor = Sub ({0}_log, {0}_log_mean)
    {0}_squares = Mul ({0}_size, {0}_size)
    {0}_square_sum = ReduceSum <keepdims = 1> ({0}_squares, pixels)
    {0}_mean_square = Mul ({0}_square_sum, {0}_share)
    {0}_root = Sqrt ({0}_mean_square)
    {0}_root_present = Add ({0}_root, tiny)
    {0}_log_root = Log ({0}_root_present)
    {0}_peak = Sub ({0}_log_mean, {0}_log_root)
"""

WEIGH: Final = """
    each_feature = Unsqueeze (features, piece_axis)
    raised = Max (each_feature, lower)
    clipped = Min (raised, upper)
    into_piece = Sub (clipped, lower)
    rises = Mul (into_piece, slopes)
    risen = ReduceSum <keepdims = 0> (rises, piece_axis)
    normal = Add (risen, lowest)
    curved = Mul (normal, square_weights)
    slope = Add (curved, linear_weights)
    weighed = Mul (normal, slope)
    sum = ReduceSum <keepdims = 0> (weighed, feature_axis)
    log_odds = Add (sum, bias)
"""
"""From `features`, shape (batch, M), to `log_odds`, shape (batch,)."""


def weighing(score: Combination) -> dict[str, Any]:
    """The constants of `WEIGH`."""
    edges, levels = score.edges.astype(np.float64), NORMAL_SCORES.astype(np.float64)
    linear, square = np.split(score.weights, 2)
    return {
        "piece_axis": np.array([2]),
        "feature_axis": np.array([1]),
        "lower": score.edges[:, :-1],
        "upper": score.edges[:, 1:],
        "slopes": (np.diff(levels) / np.diff(edges, axis=1)).astype(np.float32),
        "lowest": NORMAL_SCORES[0],
        "linear_weights": linear,
        "square_weights": square,
        "bias": score.bias,
    }


def observing(image: tuple[int, ...]) -> tuple[str, dict[str, Any]]:
    """Text and constants that make `plain_features`, shape (batch, M without probes), from `image` and diagnostics.

    Args:
        image: (C, H, W) of the input.
    """
    channels, height, width = image
    layers = dict(zip(("pixel", "colour"), filters(channels), strict=False))
    values = [f"{name}_{value}" for name in layers for value in ("log_mean", "log", "floor", "peak")]
    text = "".join(_LAYER.format(name) for name in layers)
    if len(layers) > 1:
        text += "colour_to_pixel = Sub (colour_log, pixel_log)\n"
        values.append("colour_to_pixel")
    rough = ", ".join(values)
    columns = "\n".join(f"{name}_column = Unsqueeze ({name}, column_axis)" for name in WEIGHED)
    text += f"""
    rough = Concat <axis = 1> ({rough})
    roughness = Reshape (rough, table)
    {columns}
    plain_features = Concat <axis = 1> ({", ".join(f"{name}_column" for name in WEIGHED)}, roughness)
    """
    constants: dict[str, Any] = {
        "pixels": np.array([1, 2, 3]),
        "column_axis": np.array([1]),
        "table": np.array([-1, len(values)]),
        "tiny": np.float32(TINY),
        "floor": np.float32(FLOOR),
    }
    for name, layer in layers.items():
        constants[f"{name}_filter"] = layer.astype(np.float32)
        constants[f"{name}_share"] = np.float32(1 / math.prod((len(layer), height - 2, width - 2)))
    return text, constants


def combined(score: Combination, image: tuple[int, ...], entry: str) -> Tail:
    """The combination without probes.

    Args:
        score: Fitted for images of this shape.
        image: (C, H, W) of the input.
        entry: Name of the graph's input.
    """
    text, constants = observing(image)
    return Tail(
        f"""
        score () => (float[batch] nonconformity) {{
            {text}
            features = Identity (plain_features)
            {WEIGH}
            nonconformity = Identity (log_odds)
        }}
        """,
        {**constants, **weighing(score)},
        {"image": entry, **{name: name for name in WEIGHED}},
    )
