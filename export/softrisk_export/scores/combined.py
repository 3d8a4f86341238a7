"""Fitted combinations: features, their normal scores, and the weighted sum."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from softrisk_core.roughness import FLOOR, TINY, filters
from softrisk_core.scores.combined import NORMAL_SCORES, Combination
from softrisk_core.scores.features import WEIGHED
from softrisk_export.scores.tail import Tail

_ROUGHNESS: Final = """
    response = Conv (image, laplacians)
    size = Abs (response)
    lifted = Add (size, floor)
    size_logs = Log (lifted)
    squares = Mul (size, size)
    of_sizes = ReduceSum <keepdims = 0> (size, pixels)
    of_logs = ReduceSum <keepdims = 0> (size_logs, pixels)
    of_squares = ReduceSum <keepdims = 0> (squares, pixels)
    sums = Concat <axis = 1> (of_sizes, of_logs, of_squares)
    averages = MatMul (sums, shares)
    means, logs, mean_squares = Split <axis = 1> (averages, layer_counts)
    mean_present = Add (means, tiny)
    log_means = Log (mean_present)
    roots = Sqrt (mean_squares)
    root_present = Add (roots, tiny)
    log_roots = Log (root_present)
    floors = Sub (logs, log_means)
    peaks = Sub (log_means, log_roots)
    of_layers = Concat <axis = 1> (log_means, logs, floors, peaks)
    roughness = MatMul (of_layers, into_columns)
"""
"""All layers at once: each operator costs microseconds, whatever it computes."""

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
    layers = filters(channels)
    columns = "\n".join(f"{name}_column = Unsqueeze ({name}, column_axis)" for name in WEIGHED)
    text = f"""
    {_ROUGHNESS}
    {columns}
    plain_features = Concat <axis = 1> ({", ".join(f"{name}_column" for name in WEIGHED)}, roughness)
    """
    responses = [len(layer) for layer in layers]
    of_layer = np.repeat(np.eye(len(layers)), responses, axis=0)  # (responses, layers)
    sizes = np.multiply(responses, (height - 2) * (width - 2))
    return text, {
        "laplacians": np.concatenate(layers).astype(np.float32),
        "pixels": np.array([2, 3]),
        "floor": np.float32(FLOOR),
        "tiny": np.float32(TINY),
        "shares": np.kron(np.eye(3), of_layer / sizes).astype(np.float32),
        "layer_counts": np.full(3, len(layers)),
        "into_columns": _columns(len(layers)),
        "column_axis": np.array([1]),
    }


def _columns(layers: int) -> NDArray[np.float32]:
    """From log means, logs, floors and peaks, each of all layers, to the four of each layer.

    With two layers a last column is the difference of their logs.
    """
    order = np.arange(4 * layers).reshape(4, layers).T.ravel()
    columns = np.eye(4 * layers, dtype=np.float32)[:, order]
    if layers == 1:
        return columns
    between = np.zeros((4 * layers, 1), np.float32)
    between[layers : layers + 2, 0] = -1, 1
    return np.concatenate([columns, between], axis=1)


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
