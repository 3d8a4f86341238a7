"""A combination with probes, run where the one without them is undecided.

The classifier stands in the graph twice, with the same weights: once for all inputs, and once for the probed images of
the inputs that need them, all probes in one batch. Where no input needs them that batch is empty, and costs next to
nothing; so the graph does without control flow.
"""

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper

from softrisk_core.probes import STEPS, Blur, GreyLevels, Noise, Probe, Rearrangement
from softrisk_core.scores.combined import GatedCombination
from softrisk_core.scores.features import WEIGHED
from softrisk_export.onnx_edit import add_constants, copy_nodes, parse_nodes
from softrisk_export.scores.combined import WEIGH, observing, weighing

SCORE_PREFIX: Final = "softrisk/score/"
GATE_PREFIX: Final = "softrisk/gate/"
PROBED_PREFIX: Final = "softrisk/probed/"

_GATE: Final = """
    is_below = Less (log_odds, low)
    is_above = Greater (log_odds, high)
    below = Cast <to = 1> (is_below)
    direction = Sub (half, below)
    twice = Mul (direction, twice_shift)
    moved = Add (log_odds, twice)
    decided = Or (is_below, is_above)
    undecided = Not (decided)
"""

_CHOOSE: Final = """
    found = NonZero (undecided)
    rows = Reshape (found, list)
    chosen = Gather <axis = 0> (image, rows)
    own_logits = Gather <axis = 0> (logits, rows)
    own_label = Gather <axis = 0> (label, rows)
    own_features = Gather <axis = 0> (plain_features, rows)
"""

_JUDGE: Final = """
    probed_logits = Reshape (answers, probes_by_rows)
    change = Sub (probed_logits, own_logits)
    label_column = Unsqueeze (own_label, column_axis)
    is_label = Equal (label_column, labels)
    of_label = Cast <to = 1> (is_label)
    of_label_only = Mul (change, of_label)
    gain = ReduceSum <keepdims = 1> (of_label_only, class_axis)
    fall = Neg (gain)
    away = Mul (of_label, far)
    of_others = Sub (change, away)
    rise, riser = TopK <axis = 2> (of_others, one)
    both = Concat <axis = 2> (fall, rise)
    by_row = Transpose <perm = [1, 0, 2]> (both)
    moves = Reshape (by_row, moves_table)
    features = Concat <axis = 1> (own_features, moves)
"""

_PUT_BACK: Final = """
    nonconformity = ScatterElements <axis = 0> (moved, rows, log_odds)
"""

_FAR: Final = 1e30
"""Taken from the label's change, so that it is never the largest."""


def append_probed(model: onnx.ModelProto, score: GatedCombination) -> None:
    """Append the score to a graph with diagnostics, in place: the further output `nonconformity`.

    Args:
        model: With the outputs of `with_diagnostics`; its classifier is copied.
        score: Fitted for images of its input's shape.
    """
    graph = model.graph
    image = tuple(axis.dim_value for axis in graph.input[0].type.tensor_type.shape.dim[1:])
    classes = next(value for value in graph.output if value.name == "logits").type.tensor_type.shape.dim[1].dim_value
    head = list(graph.node)
    names = {"image": graph.input[0].name, **{name: name for name in ("logits", "label", *WEIGHED)}}

    text, constants = observing(image)
    graph.node.extend(parse_nodes(text, SCORE_PREFIX, names))
    add_constants(graph, constants, SCORE_PREFIX)
    names["plain_features"] = SCORE_PREFIX + "plain_features"

    graph.node.extend(parse_nodes(WEIGH + _GATE, GATE_PREFIX, {"features": names["plain_features"]}))
    low, high = score.limits
    limits = {"low": low, "high": high, "half": np.float32(0.5), "twice_shift": np.float32(2 * score.shift)}
    add_constants(graph, {**weighing(score.gate), **limits}, GATE_PREFIX)
    names |= {name: GATE_PREFIX + name for name in ("undecided", "moved")}

    nodes, constants = _probing(score, head, names, image)
    judging = {
        "probes_by_rows": np.array([len(score.probes), -1, classes]),
        "moves_table": np.array([-1, 2 * len(score.probes)]),
        "column_axis": np.array([1]),
        "class_axis": np.array([2]),
        "labels": np.arange(classes)[None],
        "far": np.float32(_FAR),
        "one": np.array([1]),
    }
    add_constants(graph, {**constants, **judging, **weighing(score.full)}, PROBED_PREFIX)
    graph.node.extend(nodes)
    graph.output.append(helper.make_tensor_value_info("nonconformity", TensorProto.FLOAT, ["batch"]))


def _probing(
    score: GatedCombination, head: Iterable[onnx.NodeProto], names: dict[str, str], image: tuple[int, ...]
) -> tuple[list[onnx.NodeProto], dict[str, Any]]:
    """Nodes that run the probes, and constants."""
    constants: dict[str, Any] = {"list": np.array([-1])}
    changes = []
    for probe in score.probes:
        text, own = _change(probe, *image[1:])
        changes.append(text)
        constants |= own
    stacked = ", ".join(_safe(probe) for probe in score.probes)
    choose = f"{_CHOOSE} {' '.join(changes)}\nstacked = Concat <axis = 0> ({stacked})"
    within = {"answers": PROBED_PREFIX + "classifier/logits", "nonconformity": "nonconformity"}
    classifier = copy_nodes(head, PROBED_PREFIX + "classifier/", {names["image"]: PROBED_PREFIX + "stacked"}, "logits")
    return [
        *parse_nodes(choose, PROBED_PREFIX, names),
        *classifier,
        *parse_nodes(_JUDGE + WEIGH + _PUT_BACK, PROBED_PREFIX, {**names, **within}),
    ], constants


def _safe(probe: Probe) -> str:
    return probe.name.replace("-", "_")


def _change(probe: Probe, height: int, width: int) -> tuple[str, dict[str, Any]]:
    """Text that makes a value called like the probe from `chosen`, and its constants."""
    name = _safe(probe)
    match probe:
        case Rearrangement():
            text = f"""
                {name}_by_rows = Gather <axis = 2> (chosen, {name}_rows)
                {name} = Gather <axis = 3> ({name}_by_rows, {name}_columns)
            """
            rows, columns = probe.order(height, width)
            return text, {f"{name}_rows": rows, f"{name}_columns": columns}
        case Noise():
            text = f"""
                noise_sum = Add (chosen, noise_values)
                noise_above = Max (noise_sum, black)
                {name} = Min (noise_above, white)
            """
            return text, {"noise_values": probe.values, "black": np.float32(0), "white": np.float32(1)}
        case GreyLevels():
            text = f"""
                stepped = Mul (chosen, steps)
                rounded = Round (stepped)
                {name} = Mul (rounded, one_of_steps)
            """
            return text, {"steps": np.float32(STEPS), "one_of_steps": np.float32(1 / STEPS)}
        case Blur():
            constants: dict[str, Any] = {"quarter": np.float32(0.25), "half": np.float32(0.5)}
            for axis, size in ((2, height), (3, width)):
                constants[f"before_{axis}"] = np.maximum(np.arange(size) - 1, 0)
                constants[f"after_{axis}"] = np.minimum(np.arange(size) + 1, size - 1)
            return _smooth("chosen", "smooth", 2) + _smooth("smooth", name, 3), constants
    raise TypeError(f"no graph computes the probe {probe.name}")


def _smooth(source: str, result: str, axis: int) -> str:
    return f"""
        {result}_before = Gather <axis = {axis}> ({source}, before_{axis})
        {result}_after = Gather <axis = {axis}> ({source}, after_{axis})
        {result}_sides = Add ({result}_before, {result}_after)
        {result}_quarter = Mul ({result}_sides, quarter)
        {result}_half = Mul ({source}, half)
        {result} = Add ({result}_quarter, {result}_half)
    """
