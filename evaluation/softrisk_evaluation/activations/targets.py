"""What an image is to excite: a class, or a channel of a layer inside the network."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from softrisk_evaluation.errors import EvaluationError

_OUTPUT: Final = ""
"""The name of the whole model among its modules: a class is a channel of its output."""


@dataclass(frozen=True)
class Target:
    """A channel whose mean activation over positions is the score.

    Attributes:
        name: For people.
        layer: Name of the module, as `named_modules` has it; empty for the model itself.
        channel: Its index: for the model itself that of the class.
    """

    name: str
    layer: str
    channel: int

    @property
    def is_class(self) -> bool:
        """Whether the score is a logit."""
        return self.layer == _OUTPUT


def class_targets(names: Sequence[str], classes: Sequence[str]) -> list[Target]:
    """Targets for classes.

    Args:
        names: As the user gives them.
        classes: Of the model, in the order of its logits.

    Raises:
        EvaluationError: If there is no such class.
    """
    for name in names:
        if name not in classes:
            raise EvaluationError(f"there is no class {name!r}: choose among {', '.join(classes)}")
    return [Target(name, _OUTPUT, classes.index(name)) for name in names]


def unit_targets(names: Sequence[str], model: nn.Module, example: Tensor) -> list[Target]:
    """Targets for channels inside the network.

    Args:
        names: As the user gives them, `layer:channel`.
        model: Whose modules are meant.
        example: Inputs that it takes, to see how many channels each layer has.

    Raises:
        EvaluationError: If there is no such layer or channel.
    """
    channels = _channels(model, example)
    targets = []
    for name in names:
        layer, _, channel = name.rpartition(":")
        if layer not in channels:
            known = ", ".join(f"{layer} ({count})" for layer, count in channels.items())
            raise EvaluationError(
                f"a unit is layer:channel, and {name!r} names no layer; layers and their numbers of channels: {known}"
            )
        if not (channel.isdecimal() and int(channel) < channels[layer]):
            raise EvaluationError(f"layer {layer} has no channel {channel!r}: it has {channels[layer]}, counted from 0")
        targets.append(Target(name, layer, int(channel)))
    return targets


@contextmanager
def recorded(model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Outputs of layers, by name, of the latest forward pass."""
    outputs: dict[str, Tensor] = {}

    def record(layer: str) -> torch.utils.hooks.RemovableHandle:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            outputs[layer] = output

        return model.get_submodule(layer).register_forward_hook(hook)

    handles = [record(layer) for layer in dict.fromkeys(layers)]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def answers(model: nn.Module, images: Tensor, targets: Sequence[Target]) -> tuple[Tensor, Tensor]:
    """The score of each image for its own target, and all logits.

    Args:
        model: From images to logits.
        images: Shape (B, C, H, W).
        targets: One for each image.

    Returns:
        The logit of the class, before any softmax, or the mean activation of the channel, shape (B,); and the logits,
        shape (B, classes).
    """
    with recorded(model, [target.layer for target in targets]) as outputs:
        logits: Tensor = model(images)
    scores = logits.new_empty(len(targets))
    for layer, output in outputs.items():
        rows = [row for row, target in enumerate(targets) if target.layer == layer]
        channels = [targets[row].channel for row in rows]
        scores[rows] = output[rows, channels].reshape(len(rows), -1).mean(dim=1)
    return scores, logits


def strengths(model: nn.Module, images: Tensor, targets: Sequence[Target]) -> Tensor:
    """Scores that say nothing of other classes: of a class what its logit is above the mean of all logits.

    Softmax does not see what all logits have in common, and networks differ in it.

    Args:
        model: From images to logits.
        images: Shape (B, C, H, W).
        targets: One for each image.

    Returns:
        Shape (B,).
    """
    scores, logits = answers(model, images, targets)
    is_class = torch.tensor([target.is_class for target in targets], device=scores.device)
    return scores - torch.where(is_class, logits.mean(dim=1), 0)


def _channels(model: nn.Module, example: Tensor) -> dict[str, int]:
    names = [name for name, module in model.named_modules() if name and not any(module.children())]
    with recorded(model, names) as outputs, torch.no_grad():
        model(example)
    return {name: output.shape[1] for name, output in outputs.items()}
