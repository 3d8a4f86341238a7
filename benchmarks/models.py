"""The networks that serving is measured with: seeded random weights, since only their speed matters.

`S` is a small convolutional network for 28 × 28 grey images (0.42 MB), `R` the ResNet-18 for 32 × 32 colour images
(3 × 3 stem without pooling, batch normalisation folded into the convolutions, 44.7 MB); both have 10 classes. A
third one takes any size of image and number of classes. All have the input `input`, the output `logits` and a dynamic
batch axis.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CLASSES: Final = 10

OPSET: Final = 17


def build(name: str) -> onnx.ModelProto:
    """Build a network of `MODELS`; equal calls give equal weights."""
    shape, layers = MODELS[name]
    return _assemble(name, shape, layers, CLASSES, seed=0)


def build_for(shape: tuple[int, int, int], classes: int, seed: int = 0) -> onnx.ModelProto:
    """Build a network of two strided convolutions and an average over all places, for images of any shape (C, H, W)."""

    def layers(network: _Network) -> str:
        value = network.start(channels=shape[0])
        for channels in (16, 32):
            value = network.apply("Relu", network.convolve(value, channels, stride=2))
        return network.apply("Flatten", network.apply("GlobalAveragePool", value))

    return _assemble("pooled", shape, layers, classes, seed)


def _assemble(
    name: str, shape: tuple[int, ...], layers: "Callable[[_Network], str]", classes: int, seed: int
) -> onnx.ModelProto:
    network = _Network(seed)
    network.dense(layers(network), classes, output="logits")
    graph = helper.make_graph(
        network.nodes,
        name,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
        network.weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


class _Network:
    """A graph that grows layer by layer; a value is its name, its channels are remembered."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.channels: dict[str, int] = {}
        self._random = np.random.default_rng(seed)

    def start(self, channels: int) -> str:
        self.channels["input"] = channels
        return "input"

    def apply(self, operator: str, *inputs: str, **attributes: Any) -> str:
        output = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        self.channels[output] = self.channels[inputs[0]]
        return output

    def convolve(self, value: str, channels: int, kernel: int = 3, stride: int = 1) -> str:
        weight, bias = self._layer((channels, self.channels[value], kernel, kernel))
        output = self.apply("Conv", value, weight, bias, strides=[stride] * 2, pads=[kernel // 2] * 4)
        self.channels[output] = channels
        return output

    def dense(self, value: str, features: int, output: str | None = None) -> str:
        weight, bias = self._layer((features, self.channels[value]))
        result = self.apply("Gemm", value, weight, bias, transB=1)
        if output is not None:
            self.nodes[-1].output[0] = result = output
        self.channels[result] = features
        return result

    def _layer(self, shape: tuple[int, ...]) -> tuple[str, str]:
        """Weights that keep the variance of their input through a ReLU, and biases of zero."""
        scale = np.sqrt(2 / np.prod(shape[1:]))
        arrays = (self._random.normal(0, scale, shape), np.zeros(shape[0]))
        names = [f"weight_{len(self.weights)}", f"bias_{len(self.weights)}"]
        for name, array in zip(names, arrays, strict=True):
            self.weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return names[0], names[1]


def _small(network: _Network) -> str:
    value = network.start(channels=1)
    for channels in (16, 32):
        value = network.apply("Relu", network.convolve(value, channels))
        value = network.apply("MaxPool", value, kernel_shape=[2, 2], strides=[2, 2])
    value = network.apply("Flatten", value)
    network.channels[value] = 32 * 7 * 7
    return network.apply("Relu", network.dense(value, 64))


def _resnet18(network: _Network) -> str:
    value = network.apply("Relu", network.convolve(network.start(channels=3), 64))
    for channels in (64, 128, 256, 512):
        value = _residual(network, value, channels, stride=1 if channels == 64 else 2)
        value = _residual(network, value, channels, stride=1)
    return network.apply("Flatten", network.apply("GlobalAveragePool", value))


def _residual(network: _Network, value: str, channels: int, stride: int) -> str:
    inner = network.apply("Relu", network.convolve(value, channels, stride=stride))
    inner = network.convolve(inner, channels)
    if channels != network.channels[value]:
        value = network.convolve(value, channels, kernel=1, stride=stride)
    return network.apply("Relu", network.apply("Add", inner, value))


MODELS: Final[dict[str, tuple[tuple[int, int, int], Callable[[_Network], str]]]] = {
    "S": ((1, 28, 28), _small),
    "R": ((3, 32, 32), _resnet18),
}
"""Image shape and layers of each network, by name."""
