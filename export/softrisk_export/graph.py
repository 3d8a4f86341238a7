"""The arithmetic of the diagnosis, inside the ONNX file.

A head (inputs → logits) gets three tails: the diagnostics, those of `softrisk_core.diagnostics` in float32; a score
made from them or from the logits (`softrisk_export.scores`); and the risk, which compares the score with the
calibration scores. What looks at which inputs are there, and how far they may be changed, is in `input_tails`. All
are written in ONNX's own text form and use only operators whose meaning has not changed since opset 13, so they fit
onto any head of opset ≥ 13. All their names begin with `softrisk/`, but for the outputs.

At batch 1 an operator costs its fixed price, about 0.3 µs, whatever it computes. So the tails have as few as their
accuracy allows: scalars of a row lie in shape (batch,), which needs no Squeeze, and masks are arithmetic, since a Where
costs as much as three other operators.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, compose, helper, parser

from softrisk_core.conformal import rank_limit
from softrisk_core.diagnostics import DIAGNOSTICS
from softrisk_core.groups import Grouping
from softrisk_core.manifest import OUTPUTS
from softrisk_core.scores.combined import GatedCombination
from softrisk_core.scores.score import Score
from softrisk_export.onnx_edit import add_constants, parse_nodes, prune, rename, strip_notes
from softrisk_export.scores.probed import SCORE_PREFIX, append_probed
from softrisk_export.scores.tail import DIAGNOSTICS_PREFIX
from softrisk_export.scores.tails import tail_of

OLDEST_OPSET: Final = 13
"""The tails need at least this opset of the head."""

CLASSIFIER_PREFIX: Final = "classifier/"
RISK_PREFIX: Final = "softrisk/risk/"

DIAGNOSTICS_OUTPUTS: Final = ("logits", "probabilities", "label", *DIAGNOSTICS)

_DIAGNOSTICS_TAIL: Final = """
diagnostics (float[batch, classes] logits) => (
    float[batch, classes] probabilities, int64[batch] label,
    float[batch] top2_gap, float[batch] logit_gap, float[batch] dispersion, float[batch] softmax_dispersion,
    float[batch] complement_entropy, float[batch] max_logit, float[batch] energy, float[batch] entropy
) {
    probabilities = Softmax <axis = 1> (logits)

    # TopK puts the lower index first among equals, as argmax does.
    top_logits, top_labels = TopK <axis = 1> (logits, two)
    label = Gather <axis = 1> (top_labels, first)
    max_logit = Gather <axis = 1> (top_logits, first)
    second_logit = Gather <axis = 1> (top_logits, second)
    second_column = Gather <axis = 1> (top_logits, second_only)
    logit_gap = Sub (max_logit, second_logit)

    # N, the classes other than the label, relative to the largest of them. The label is cut down to that largest one,
    # so that it counts as a further 0 here and as a further 1 below; `of_label` takes it out of the sums again.
    shifted = Sub (logits, second_column)
    below = Min (shifted, zero)
    exp_below = Exp (below)
    exp_times_below = Mul (exp_below, below)
    weighted_below = ReduceSum <keepdims = 0> (exp_times_below, layer_and_class)

    # Both dispersions at once, a layer for each. At least half of a sum of squares stays when the label leaves it,
    # because the largest of N has the same deviation.
    layers = Concat <axis = 0> (below, exp_below)
    sums_with_label = ReduceSum <keepdims = 0> (layers, class_axis)
    sums = Sub (sums_with_label, of_label)
    means = Mul (sums, one_of_others)
    means_of_layers = Unsqueeze (means, class_axis)
    deviations = Sub (layers, means_of_layers)
    squares = Mul (deviations, deviations)
    squares_with_label = ReduceSum <keepdims = 0> (squares, class_axis)
    deviation_of_label = Sub (of_label, means)
    square_of_label = Mul (deviation_of_label, deviation_of_label)
    sums_of_squares = Sub (squares_with_label, square_of_label)
    distances = Sqrt (sums_of_squares)
    standard_deviations = Mul (distances, one_of_root_of_others)
    dispersion = Gather <axis = 0> (standard_deviations, first)
    exp_distance = Gather <axis = 0> (distances, second)
    sum_below = Gather <axis = 0> (sums, second)

    # The first probability is 1 / (1 + x) with x = sum_below / exp(gap).
    log_sum_below = Log (sum_below)
    log_x = Sub (log_sum_below, logit_gap)
    log_partition = Softplus (log_x)
    energy = Add (max_logit, log_partition)
    minus_log_partition = Neg (log_partition)
    first_probability = Exp (minus_log_partition)
    exp_gap = Exp (logit_gap)
    second_probability = Div (first_probability, exp_gap)
    softmax_dispersion = Mul (second_probability, exp_distance)

    # p1 - p2 = tanh(gap / 2) (p1 + p2), which keeps small gaps.
    top_two = Add (first_probability, second_probability)
    half_gap = Mul (logit_gap, half)
    tanh_half_gap = Tanh (half_gap)
    top2_gap = Mul (tanh_half_gap, top_two)

    # Entropy is log(1 + x) + p2 sum over N of exp(below) (gap - below): no term is negative.
    gap_of_all = Mul (sum_below, logit_gap)
    surprise_below = Sub (gap_of_all, weighted_below)
    surprise = Mul (second_probability, surprise_below)
    entropy = Add (log_partition, surprise)

    mean_log = Div (weighted_below, sum_below)
    entropy_below = Sub (log_sum_below, mean_log)
    ratio = Mul (entropy_below, one_of_largest_entropy)
    complement_entropy = Clip (ratio, least_ratio, one)
}
"""

# rank = 1 + #{calibration ≥ score}. Each row of `blocks` holds the next √n of the descending scores, the last one
# filled up with NaN, which no comparison holds for; `pivots` are the smallest of each row but the last. Counting pivots
# finds the row, counting inside it the rank: exact, with 2 √n comparisons. A score that is no number is ≤ none: rank 1,
# the strangest.
_RISK_OUTPUTS: Final = "(int64[batch] rank, float[batch] p_value, float[batch] risk_score, bool[batch] flagged)"

_COUNT_PIVOTS: Final = """
    score = Unsqueeze (nonconformity, last_axis)

    # Counted as floats, which runtimes add fastest: exact for counts of √n.
    pivot_is_above = GreaterOrEqual (pivots, score)
    pivot_counts = Cast <to = 1> (pivot_is_above)
    rows_above = ReduceSum <keepdims = 0> (pivot_counts, last_axis)
"""

_COUNT_MEMBERS: Final = """
    members = Gather <axis = 0> (blocks, row)
    member_is_above = GreaterOrEqual (members, score)
    member_counts = Cast <to = 1> (member_is_above)
    members_above = ReduceSum <keepdims = 0> (member_counts, last_axis)
    inside = Cast <to = 7> (members_above)

    first_rank = Gather <axis = 0> (first_ranks, row)
    rank = Add (first_rank, inside)
    rank_as_float = Cast <to = 1> (rank)
    p_value = Div (rank_as_float, ranks)
    risk_score = Sub (one, p_value)
    flagged = LessOrEqual (rank, rank_limit)
"""

_RISK_TAIL: Final = f"""
risk (float[batch] nonconformity) => {_RISK_OUTPUTS} {{
    {_COUNT_PIVOTS}
    row = Cast <to = 7> (rows_above)
    {_COUNT_MEMBERS}
}}
"""

# The same with the pivots of the group of a key, the label or the presence case; its rows of `blocks` follow those of
# the groups before it.
_GROUPED_RISK_TAIL: Final = f"""
risk (float[batch] nonconformity, int64[batch] key) => {_RISK_OUTPUTS} {{
    group = Gather <axis = 0> (group_of_key, key)
    pivots = Gather <axis = 0> (pivots_of_group, group)
    first_row = Gather <axis = 0> (first_row_of_group, group)
    ranks = Gather <axis = 0> (ranks_of_group, group)
    rank_limit = Gather <axis = 0> (rank_limit_of_group, group)
    {_COUNT_PIVOTS}
    row_of_group = Cast <to = 7> (rows_above)
    row = Add (first_row, row_of_group)
    {_COUNT_MEMBERS}
}}
"""


def with_diagnostics(head: onnx.ModelProto, classes: int) -> onnx.ModelProto:
    """Append the diagnostics to a logits-only graph.

    Args:
        head: Float inputs and one output of shape (batch, classes); opset ≥ 13.
        classes: Number of classes C ≥ 2, which becomes a constant of the graph.

    Returns:
        A new model with the outputs `DIAGNOSTICS_OUTPUTS`.
    """
    others = classes - 1
    constants = {
        "first": np.int64(0),
        "second": np.int64(1),
        "second_only": np.array([1]),
        "two": np.array([2]),
        "class_axis": np.array([2]),
        "layer_and_class": np.array([0, 2]),
        # Its three axes make `below` a layer.
        "zero": np.zeros((1, 1, 1), np.float32),
        "of_label": np.array([[0], [1]], np.float32),
        "one_of_others": np.float32(1 / others),
        "one_of_root_of_others": np.float32(1 / math.sqrt(others)),
        "half": np.float32(0.5),
        "one": np.float32(1),
        # A single other class has no entropy: 1 by definition.
        "one_of_largest_entropy": np.float32(1 / math.log(max(others, 2))),
        "least_ratio": np.float32(1 if others == 1 else 0),
    }
    model = onnx.ModelProto()
    model.CopyFrom(_with_names_of_its_own(head))
    strip_notes(model.graph)
    rename(model.graph, model.graph.output[0].name, "logits")
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes]))
    _append(model, _DIAGNOSTICS_TAIL, constants, DIAGNOSTICS_PREFIX, source={"logits": "logits"})
    probabilities = next(value for value in model.graph.output if value.name == "probabilities")
    probabilities.type.tensor_type.shape.dim[1].dim_value = classes
    return model


def with_score(model: onnx.ModelProto, score: Score) -> onnx.ModelProto:
    """Append a score to a graph with diagnostics.

    Args:
        model: With the outputs `DIAGNOSTICS_OUTPUTS`.
        score: What will be ranked.

    Returns:
        A new model with the further output `nonconformity`.
    """
    scored = onnx.ModelProto()
    scored.CopyFrom(model)
    if isinstance(score, GatedCombination):
        append_probed(scored, score)
        return scored
    tail = tail_of(score, model.graph)
    _append(scored, tail.text, tail.constants, SCORE_PREFIX, source=tail.sources)
    return scored


def with_risk(
    model: onnx.ModelProto, scores: NDArray[np.float32], grouping: Grouping, alpha: float, key: str = "label"
) -> onnx.ModelProto:
    """Append rank, p-value, risk score and flag to a graph with a score.

    Args:
        model: Of `with_score`.
        scores: Calibration scores, shape (n,), finite, as `Grouping.sort` leaves them.
        grouping: Which of them an input is compared with. One group needs no look-up, and the graph has none.
        alpha: False-alarm rate of the flag.
        key: The value of the graph that decides about the group. A key beyond those of the grouping, as that of an
            instance without any input, has no scores to compare with: its rank is 1, the strangest.

    Returns:
        A new model with the outputs `OUTPUTS`, in that order.

    Raises:
        CalibrationError: If a group is too small for α.
    """
    grouping.check_alpha(alpha)
    groups, sizes, of_key = grouping.split(scores), list(grouping.sizes), list(grouping.of_key)
    if key != "label":
        of_key.append(len(groups))
        groups.append(np.empty(0, np.float32))
        sizes.append(min(sizes))
    limits = [rank_limit(alpha, n) for n in sizes]
    block_size = math.isqrt(max(sizes) - 1) + 1
    blocks = [_blocks(each, block_size) for each in groups]
    rows = [len(each) for each in blocks]
    pivots = np.full((len(rows), max(rows)), np.nan, np.float32)
    for group, each in enumerate(blocks):
        # The last row is the answer whenever no other is.
        pivots[group, : len(each) - 1] = each[:-1, -1]
    # In this order since format 1, so that a marginal calibration makes the same file.
    by_group = {
        "pivots": pivots,
        "blocks": np.concatenate(blocks),
        "first_ranks": np.concatenate([1 + block_size * np.arange(each) for each in rows]),
        "ranks": np.array([n + 1 for n in sizes], np.float32),
        "rank_limit": np.array(limits),
    }
    constants: dict[str, Any] = {"one": np.float32(1), "last_axis": np.array([1]), **by_group}
    tail, source = _RISK_TAIL, {"nonconformity": "nonconformity"}
    if grouping.is_marginal:
        constants |= {name: by_group[name][0] for name in ("ranks", "rank_limit")}
    else:
        constants |= {f"{name}_of_group": constants.pop(name) for name in ("pivots", "ranks", "rank_limit")}
        constants |= {"group_of_key": np.array(of_key), "first_row_of_group": np.cumsum([0, *rows[:-1]])}
        tail, source = _GROUPED_RISK_TAIL, {**source, "key": key}
    sealed = onnx.ModelProto()
    sealed.CopyFrom(model)
    _append(sealed, tail, constants, RISK_PREFIX, source)
    return sealed


def _blocks(scores: NDArray[np.float32], block_size: int) -> NDArray[np.float32]:
    """Ascending scores, shape (n,), in descending rows of `block_size`, at least one, filled up with NaN."""
    blocks = np.full((max(1, -(-scores.size // block_size)), block_size), np.nan, np.float32)
    blocks.flat[: scores.size] = scores[::-1]
    return blocks


def classifier(model: onnx.ModelProto) -> onnx.ModelProto:
    """Take off what was appended: a graph with the one output `logits`."""
    head = onnx.ModelProto()
    head.CopyFrom(model)
    logits = next(value for value in model.graph.output if value.name == "logits")
    prune(head.graph, logits.name)
    head.graph.output[0].CopyFrom(logits)
    return head


def _with_names_of_its_own(head: onnx.ModelProto) -> onnx.ModelProto:
    """Let the names of a head make way: one of its values may be called like an output of ours."""
    inputs = {value.name for value in head.graph.input}
    collides = bool(inputs & set(OUTPUTS))
    names = {name for node in head.graph.node for name in node.output if name}
    names |= {weights.name for weights in head.graph.initializer}
    if not collides and all(name.startswith(CLASSIFIER_PREFIX) for name in names - {"logits"}):
        return head  # it comes from a graph of ours
    return compose.add_prefix(head, CLASSIFIER_PREFIX, rename_inputs=collides)


def opset(model: onnx.ModelProto) -> int:
    """Version of ONNX's own operators in a model."""
    return int(next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")))


def _append(
    model: onnx.ModelProto, text: str, constants: Mapping[str, Any], prefix: str, source: Mapping[str, str]
) -> None:
    tail = parser.parse_graph(text)
    names = {**source, **{value.name: value.name for value in tail.output}}
    lines = text[text.index("{") + 1 : text.rindex("}")]
    add_constants(model.graph, constants, prefix)
    model.graph.node.extend(parse_nodes(lines, prefix, names))
    model.graph.output.extend(tail.output)


def float_input(name: str, shape: Sequence[int | None]) -> onnx.ValueInfoProto:
    """A float32 graph input with a dynamic batch axis before `shape`, whose None are dynamic, too."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])
