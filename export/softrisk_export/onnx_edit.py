"""Small operations on ONNX graphs that the onnx package does not bring."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, parser


@dataclass(frozen=True)
class Step:
    """One operator of a chain.

    Attributes:
        operator: Its type.
        constants: Its inputs after the first, by a name for each.
        attributes: Its attributes.
    """

    operator: str
    constants: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)


def chain(graph: onnx.GraphProto, value: str, steps: Sequence[Step], prefix: str) -> tuple[list[onnx.NodeProto], str]:
    """Nodes that lead from a value through some operators, each at most once, and the name of the result.

    Args:
        graph: Receives the constants; the nodes are left to the caller to place.
        value: Where the chain begins.
        steps: The operators.
        prefix: Of all names.
    """
    nodes = []
    for step in steps:
        inputs = [value, *(prefix + name for name in step.constants)]
        value = prefix + step.operator
        nodes.append(onnx.helper.make_node(step.operator, inputs, [value], name=value, **step.attributes))
        graph.initializer.extend(
            numpy_helper.from_array(array, prefix + name) for name, array in step.constants.items()
        )
    return nodes, value


def parse_nodes(text: str, prefix: str, names: Mapping[str, str]) -> list[onnx.NodeProto]:
    """Nodes from lines of ONNX's text form.

    Args:
        text: Lines such as `c = Add (a, b)`.
        prefix: Of every name that `names` does not know.
        names: What values of the text are called in the graph.
    """
    nodes = list(parser.parse_graph(f"piece () => () {{ {text} }}").node)
    for node in nodes:
        node.name = prefix + node.output[0]
        for values in (node.input, node.output):
            renamed = [names.get(name, prefix + name) for name in values]
            del values[:]
            values.extend(renamed)
    return nodes


def add_constants(graph: onnx.GraphProto, constants: Mapping[str, Any], prefix: str) -> None:
    """Add arrays as initializers."""
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), prefix + name) for name, value in constants.items()
    )


def copy_nodes(
    nodes: Iterable[onnx.NodeProto], prefix: str, replaced: Mapping[str, str], until: str
) -> list[onnx.NodeProto]:
    """The nodes behind a value once more, under other names, sharing initializers.

    Args:
        nodes: In the order of a graph.
        prefix: Of the names of copies.
        replaced: Values that copies read in place of others.
        until: The value; what it does not need is not copied.
    """
    needed, kept = {until}, list[onnx.NodeProto]()
    for node in reversed(list(nodes)):
        if needed.intersection(node.output):
            needed |= consumed(node)
            kept.append(node)
    scope = onnx.GraphProto(node=reversed(kept))
    for name in [name for node in kept for name in node.output if name]:
        rename(scope, name, prefix + name)
    for old, new in replaced.items():
        rename(scope, old, new)
    for node in scope.node:
        node.name = next(name for name in node.output if name)  # a file's own names can be empty or the same
    return list(scope.node)


def producers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """The node behind each value that a node computes."""
    return {name: node for node in graph.node for name in node.output if name}


def exposing(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """A copy of a model that has further values among its outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    present = {value.name for value in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    return copy


def consumed(node: onnx.NodeProto) -> set[str]:
    """Values that a node reads, those that its subgraphs capture included."""
    names = set(node.input)
    for graph in _subgraphs(node):
        for inner in graph.node:
            names |= consumed(inner)
    return names


def rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Give a value another name wherever a node, in subgraphs too, writes or reads it."""
    for node in graph.node:
        for values in (node.input, node.output):
            names = [new if name == old else name for name in values]
            del values[:]
            values.extend(names)
        for subgraph in _subgraphs(node):
            rename(subgraph, old, new)


def prune(graph: onnx.GraphProto, output: str) -> None:
    """Make one value the only output, and drop every node and initializer that it does not need."""
    needed = {output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed |= consumed(node)
            kept.append(node)
    initializers = [initializer for initializer in graph.initializer if initializer.name in needed]
    del graph.node[:], graph.initializer[:], graph.output[:], graph.value_info[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(initializers)
    graph.output.append(onnx.ValueInfoProto(name=output))


def strip_notes(graph: onnx.GraphProto) -> None:
    """Remove what exporters note beside the arithmetic: stack traces, with paths of the machine that it ran on."""
    del graph.metadata_props[:]
    for items in (graph.node, graph.input, graph.output, graph.value_info, graph.initializer):
        for item in items:
            item.doc_string = ""
            del item.metadata_props[:]
    for node in graph.node:
        for subgraph in _subgraphs(node):
            strip_notes(subgraph)


def depending_on(graph: onnx.GraphProto, name: str) -> set[str]:
    """A value and all values that are computed from it."""
    names = {name}
    for node in graph.node:
        if names & consumed(node):
            names.update(node.output)
    return names


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs
