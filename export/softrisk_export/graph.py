"""The arithmetic of the diagnosis, inside the ONNX file.

A head (inputs → logits) gets two tails: the diagnostics, line by line those of `softrisk_core.diagnostics` in
float32, and the risk, which compares one of them with the calibration scores. Both are written in ONNX's own text
form and use only operators whose meaning has not changed since opset 13, so they fit onto any head of opset ≥ 13.
All their names begin with `softrisk/`, but for the outputs.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, compose, helper, numpy_helper, parser

from softrisk_core.diagnostics import DIAGNOSTICS
from softrisk_core.manifest import OUTPUTS, Nonconformity
from softrisk_export.onnx_edit import strip_notes

OLDEST_OPSET: Final = 13
"""The tails need at least this opset of the head."""

DIAGNOSTICS_PREFIX: Final = "softrisk/diagnostics/"
RISK_PREFIX: Final = "softrisk/risk/"

DIAGNOSTICS_OUTPUTS: Final = ("logits", "probabilities", "label", *DIAGNOSTICS)
RISK_OUTPUTS: Final = tuple(name for name in OUTPUTS if name not in DIAGNOSTICS_OUTPUTS)

_DIAGNOSTICS_TAIL: Final = """
diagnostics (float[batch, classes] head) => (
    float[batch, classes] logits, float[batch, classes] probabilities, int64[batch] label,
    float[batch] top2_gap, float[batch] logit_gap, float[batch] dispersion, float[batch] softmax_dispersion,
    float[batch] complement_entropy, float[batch] max_logit, float[batch] energy, float[batch] entropy
) {
    logits = Cast <to = 1> (head)

    # TopK puts the lower index first among equals, as argmax does.
    top_logits, top_labels = TopK <axis = 1> (logits, two)
    first, second = Split <axis = 1> (top_logits, one_each)
    first_label, second_label = Split <axis = 1> (top_labels, one_each)
    label = Squeeze (first_label, class_axis)
    max_logit = Squeeze (first, class_axis)
    gap = Sub (first, second)
    logit_gap = Squeeze (gap, class_axis)

    # N, the classes other than the label, relative to the largest of them; the label itself is masked with 0.
    is_label = Equal (class_indices, first_label)
    shifted = Sub (logits, second)
    below = Where (is_label, zero, shifted)
    exp_shifted = Exp (shifted)
    exp_below = Where (is_label, zero, exp_shifted)
    sum_below = ReduceSum (exp_below, class_axis)

    # With x = exp(-gap) sum_below the first probability is 1 / (1 + x), the second exp(-gap) / (1 + x).
    minus_gap = Neg (gap)
    exp_minus_gap = Exp (minus_gap)
    x = Mul (exp_minus_gap, sum_below)
    partition = Add (one, x)
    # log(1 + x) = x log(u) / (u - 1) with u = 1 + x as rounded: exact where log(u) alone would lose all of x.
    log_of_rounded = Log (partition)
    rounded_x = Sub (partition, one)
    is_small = Equal (rounded_x, zero)
    correction = Div (x, rounded_x)
    corrected = Mul (log_of_rounded, correction)
    log_partition = Where (is_small, x, corrected)
    energy_column = Add (first, log_partition)
    energy = Squeeze (energy_column, class_axis)

    # p1 - p2 = tanh(gap / 2) (p1 + p2), which keeps small gaps.
    second_probability = Div (exp_minus_gap, partition)
    first_probability = Div (one, partition)
    top_two = Add (first_probability, second_probability)
    half_gap = Mul (gap, half)
    tanh_half_gap = Tanh (half_gap)
    top2_gap_column = Mul (tanh_half_gap, top_two)
    top2_gap = Squeeze (top2_gap_column, class_axis)

    total_below = ReduceSum (below, class_axis)
    mean_below = Div (total_below, others)
    difference = Sub (below, mean_below)
    deviation = Where (is_label, zero, difference)
    deviation_squared = Mul (deviation, deviation)
    sum_of_squares = ReduceSum <keepdims = 0> (deviation_squared, class_axis)
    variance = Div (sum_of_squares, others)
    dispersion = Sqrt (variance)

    mean_exp = Div (sum_below, others)
    exp_difference = Sub (exp_below, mean_exp)
    exp_deviation = Where (is_label, zero, exp_difference)
    exp_deviation_squared = Mul (exp_deviation, exp_deviation)
    exp_sum_of_squares = ReduceSum (exp_deviation_squared, class_axis)
    exp_distance = Sqrt (exp_sum_of_squares)
    softmax_dispersion_column = Mul (second_probability, exp_distance)
    softmax_dispersion = Squeeze (softmax_dispersion_column, class_axis)

    log_sum_below = Log (sum_below)
    exp_times_below = Mul (exp_below, below)
    weighted_below = ReduceSum (exp_times_below, class_axis)
    mean_log = Div (weighted_below, sum_below)
    entropy_below = Sub (log_sum_below, mean_log)
    ratio = Div (entropy_below, largest_entropy)
    # A single other class has no entropy: 1 by definition.
    defined_ratio = Where (is_binary, one, ratio)
    not_negative = Max (defined_ratio, zero)
    complement_entropy_column = Min (not_negative, one)
    complement_entropy = Squeeze (complement_entropy_column, class_axis)

    probabilities = Softmax <axis = 1> (logits)
    relative = Sub (logits, first)
    weighted = Mul (probabilities, relative)
    weighted_sum = ReduceSum (weighted, class_axis)
    entropy_column = Sub (log_partition, weighted_sum)
    entropy_not_negative = Max (entropy_column, zero)
    entropy = Squeeze (entropy_not_negative, class_axis)
}
"""

# rank = 1 + #{calibration ≥ score} = n + 1 − #{calibration < score}. Each row of `blocks` holds the next √n of the
# ascending scores, the last one filled up with +∞, which is below nothing; `pivots` are the largest of each row.
# Counting pivots finds the row, counting inside it the rank: exact, with 2 √n comparisons.
_RISK_TAIL: Final = """
risk (float[batch] diagnostic) => (
    float[batch] nonconformity, int64[batch] rank, float[batch] p_value, float[batch] risk_score, bool[batch] flagged
) {
    nonconformity = Mul (diagnostic, sign)
    # No number is stranger than every number: rank 1.
    is_missing = IsNaN (nonconformity)
    score = Where (is_missing, infinity, nonconformity)
    score_column = Unsqueeze (score, last_axis)

    pivot_is_below = Less (pivots, score_column)
    pivot_counts = Cast <to = 7> (pivot_is_below)
    block = ReduceSum <keepdims = 0> (pivot_counts, last_axis)
    members = Gather <axis = 0> (blocks, block)
    member_is_below = Less (members, score_column)
    member_counts = Cast <to = 7> (member_is_below)
    inside = ReduceSum <keepdims = 0> (member_counts, last_axis)
    before = Mul (block, block_size)
    below = Add (before, inside)

    rank = Sub (ranks, below)
    rank_as_float = Cast <to = 1> (rank)
    ranks_as_float = Cast <to = 1> (ranks)
    p_value = Div (rank_as_float, ranks_as_float)
    risk_score = Sub (one, p_value)
    flagged = LessOrEqual (rank, rank_limit)
}
"""


def with_diagnostics(head: onnx.ModelProto, classes: int) -> onnx.ModelProto:
    """Append the diagnostics to a logits-only graph.

    Args:
        head: One float input and one output of shape (batch, classes); opset ≥ 13.
        classes: Number of classes C ≥ 2, which becomes a constant of the graph.

    Returns:
        A new model with the outputs `DIAGNOSTICS_OUTPUTS`.
    """
    # The head's own names make way: one of its values may be called like an output of ours.
    inputs = {value.name for value in head.graph.input}
    model = compose.add_prefix(head, "classifier/", rename_inputs=bool(inputs & set(OUTPUTS)))
    constants = {
        "zero": np.float32(0),
        "half": np.float32(0.5),
        "one": np.float32(1),
        "two": np.array([2]),
        "one_each": np.array([1, 1]),
        "class_axis": np.array([1]),
        "class_indices": np.arange(classes)[None],
        "others": np.float32(classes - 1),
        "is_binary": np.bool_(classes == 2),
        # With one other class its quotient is not used.
        "largest_entropy": np.float32(math.log(max(classes - 1, 2))),
    }
    strip_notes(model.graph)
    logits = model.graph.output[0].name
    del model.graph.output[:]
    _append(model, _DIAGNOSTICS_TAIL, constants, DIAGNOSTICS_PREFIX, source={"head": logits})
    for name in ("logits", "probabilities"):
        output = next(value for value in model.graph.output if value.name == name)
        output.type.tensor_type.shape.dim[1].dim_value = classes
    return model


def with_risk(
    model: onnx.ModelProto, nonconformity: Nonconformity, scores: NDArray[np.float32], limit: int
) -> onnx.ModelProto:
    """Append rank, p-value, risk score and flag to a graph with diagnostics.

    Args:
        model: With the outputs `DIAGNOSTICS_OUTPUTS`.
        nonconformity: The diagnostic that is the score, and its side.
        scores: Calibration scores, shape (n,), finite, ascending.
        limit: Largest rank that is flagged.

    Returns:
        A new model with the outputs `OUTPUTS`, in that order.
    """
    n = scores.size
    block_size = math.isqrt(n - 1) + 1
    rows = -(-n // block_size)
    blocks = np.full((rows, block_size), np.inf, np.float32)
    blocks.flat[:n] = scores
    # The last row is the answer whenever no other is.
    pivots = np.append(blocks[:-1, -1], np.float32(np.inf)).astype(np.float32)
    constants = {
        "sign": np.float32(nonconformity.sign),
        "infinity": np.float32(np.inf),
        "one": np.float32(1),
        "last_axis": np.array([1]),
        "pivots": pivots[None],
        "blocks": blocks,
        "block_size": np.int64(block_size),
        "ranks": np.int64(n + 1),
        "rank_limit": np.int64(limit),
    }
    sealed = onnx.ModelProto()
    sealed.CopyFrom(model)
    _append(sealed, _RISK_TAIL, constants, RISK_PREFIX, source={"diagnostic": nonconformity.diagnostic})
    return sealed


def without_risk(model: onnx.ModelProto) -> onnx.ModelProto:
    """Take off what `with_risk` appended."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for field in (bare.graph.node, bare.graph.initializer):
        kept = [item for item in field if not item.name.startswith(RISK_PREFIX)]
        del field[:]
        field.extend(kept)
    outputs = [value for value in bare.graph.output if value.name not in RISK_OUTPUTS]
    del bare.graph.output[:]
    bare.graph.output.extend(outputs)
    return bare


def opset(model: onnx.ModelProto) -> int:
    """Version of ONNX's own operators in a model."""
    return int(next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")))


def _append(
    model: onnx.ModelProto, text: str, constants: Mapping[str, Any], prefix: str, source: Mapping[str, str]
) -> None:
    tail = parser.parse_graph(text)
    names = dict(source)
    names |= {value.name: value.name for value in tail.output}
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), prefix + name))
    for node in tail.node:
        node.name = prefix + node.output[0]
        for field in (node.input, node.output):
            renamed = [names.get(name, prefix + name) for name in field]
            del field[:]
            field.extend(renamed)
        model.graph.node.append(node)
    model.graph.output.extend(tail.output)


def float_input(name: str, shape: Sequence[int | None]) -> onnx.ValueInfoProto:
    """A float32 graph input with a dynamic batch axis before `shape`, whose None are dynamic, too."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])
