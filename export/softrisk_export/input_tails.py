"""Tails that look at the inputs: which of them an instance has, and how far they may be changed."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from softrisk_core.presence import presence_patterns
from softrisk_core.radius import LARGEST
from softrisk_export.bound import Bound
from softrisk_export.onnx_edit import add_constants, parse_nodes

PRESENCE_PREFIX: Final = "softrisk/presence/"
CASE: Final = PRESENCE_PREFIX + "case"
"""int64 (batch,): as `softrisk_core.presence.find_cases` counts them."""
RADIUS_PREFIX: Final = "softrisk/radius/"

_MISSING: Final = """
    {0}_sizes = Abs ({0})
    {0}_sum = ReduceSum <keepdims = 0> ({0}_sizes, {0}_axes)
    {0}_is_missing = Equal ({0}_sum, zero)
    {0}_missing = Cast <to = 7> ({0}_is_missing)
"""

# The gaps below the largest logit over what each change can take from them, for all changes at once. The label's own
# distance is 0, so that the smallest but one is the distance to the nearest other class, or 0 if that is negative.
_RADII: Final = """
    largest_column = Unsqueeze (max_logit, last_axis)
    gaps = Sub (largest_column, logits)
    gaps_once = Unsqueeze (gaps, change_axis)
    gaps_of_each = Sub (gaps_once, roundings)
    per_slope = Gather <axis = 0> (per_slopes, row)
    distances = Mul (gaps_of_each, per_slope)
    bounded = Min (distances, largest)
    two_nearest, nearest_labels = TopK <axis = 2, largest = 0> (bounded, two)
    nearest = Gather <axis = 2> (two_nearest, second)
    below_rounding = Sub (nearest, tiny)
    radii = Relu (below_rounding)
"""

_DOWN: Final = 1 - 2.0**-22
_UP: Final = 1 + 2.0**-20
"""Each operation is off by a factor of 1 + u at most, u = 2^-24: the gap g, what is left of it when r is taken off, and
the product; and (1 + u)² (1 − 4 u) (g (1 + u) − r (1 + 16 u)) ≤ g − r. So no radius is larger than the exact one. Where
float32 has no relative accuracy any more, `tiny` is taken off."""


def with_presence(model: onnx.ModelProto, optional: Mapping[str, bool]) -> onnx.ModelProto:
    """Find the presence case of each instance.

    Args:
        model: With these inputs.
        optional: For each of them whether it may be left out; one of them at least may.

    Returns:
        A new model with the inner value `CASE`.
    """
    found = onnx.ModelProto()
    found.CopyFrom(model)
    text, case = "", ""
    names: dict[str, str] = {}
    constants: dict[str, Any] = {"zero": np.float32(0)}
    for index, value in enumerate(model.graph.input):
        if optional[value.name]:
            own = f"input_{index}"
            names[own] = value.name
            constants[f"{own}_axes"] = np.arange(1, len(value.type.tensor_type.shape.dim))
            text += _MISSING.format(own)
            # One bit after the other, the first of them the highest.
            text += (
                f"{own}_higher = Add ({case}, {case})\n{own}_case = Add ({own}_higher, {own}_missing)\n" if case else ""
            )
            case = f"{own}_case" if case else f"{own}_missing"
    names[case] = CASE
    found.graph.node.extend(parse_nodes(text, PRESENCE_PREFIX, names))
    add_constants(found.graph, constants, PRESENCE_PREFIX)
    return found


def with_radii(model: onnx.ModelProto, bound: Bound, optional: Mapping[str, bool]) -> onnx.ModelProto:
    """Append the radii to a graph with diagnostics, and with presence cases if there are several.

    Args:
        model: With the outputs `DIAGNOSTICS_OUTPUTS`.
        bound: Of the classifier.
        optional: For each input whether it may be left out.

    Returns:
        A new model with the further outputs `RadiusFacts.outputs`, none larger than exact arithmetic gives for the
        same logits.
    """
    bounded = onnx.ModelProto()
    bounded.CopyFrom(model)
    patterns = presence_patterns(optional)
    per_slopes = _per_slopes(bound, patterns)
    constants: dict[str, Any] = {
        "last_axis": np.array([1]),
        "change_axis": np.array([1]),
        "per_slopes": per_slopes,
        "roundings": _roundings(bound),
        "largest": np.float32(LARGEST),
        "two": np.array([2]),
        "second": np.int64(1),
        "tiny": np.finfo(np.float32).tiny,
    }
    text, names = _RADII, {"max_logit": "max_logit", "logits": "logits", "row": "label"}
    if len(patterns) > 1:
        del names["row"]
        names |= {"label": "label", "case": CASE}
        constants["classes"] = np.int64(per_slopes.shape[-1])
        text = f"before = Mul (case, classes)\nrow = Add (before, label)\n{text}"
    for position, name in enumerate(bound.facts.outputs):
        names[f"radius_{position}"] = name
        constants[f"position_{position}"] = np.int64(position)
        text += f"radius_{position} = Gather <axis = 1> (radii, position_{position})\n"
        bounded.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch"]))
    bounded.graph.node.extend(parse_nodes(text, RADIUS_PREFIX, names))
    add_constants(bounded.graph, constants, RADIUS_PREFIX)
    return bounded


def _roundings(bound: Bound) -> NDArray[np.float32]:
    """What is taken off the gaps, for each change, shape (changes, 1), rounded up."""
    exact = np.array([[4 * bound.rounding_of(kind)] for kind, _ in bound.changes().values()])
    return np.where(exact > 0, np.nextafter((exact * _UP).astype(np.float32), np.float32(np.inf)), np.float32(0))


def _per_slopes(bound: Bound, patterns: NDArray[np.bool_]) -> NDArray[np.float32]:
    """What gaps are multiplied by, for each pattern and label, shape (P · C, changes, C), rounded down.

    0 for the label itself, and where nothing that is present may be changed.
    """
    changes = list(bound.changes().values())
    tables = []
    for present in patterns:
        for kind, which in changes:
            slopes = np.sqrt(np.square(bound.lipschitz[kind][which & present]).sum(axis=0))
            with np.errstate(divide="ignore"):
                per_slope = np.minimum(_DOWN / slopes, LARGEST)
            np.fill_diagonal(per_slope, 0)
            tables.append(per_slope if (which & present).any() else np.zeros_like(per_slope))
    classes = tables[0].shape[0]
    by_label = np.array(tables).reshape(len(patterns), len(changes), classes, classes).transpose(0, 2, 1, 3)
    # A cast may round up.
    return np.nextafter(by_label.astype(np.float32), np.float32(0)).reshape(-1, len(changes), classes)
