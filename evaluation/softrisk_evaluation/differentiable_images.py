"""What scores make of images, as functions of torch images: probes and roughness, with slopes that an attacker can use.

The references are `softrisk_core.probes` and `softrisk_core.roughness`; tests hold each function here to them.
"""

from typing import Any, Final

import torch
from torch import Tensor, nn

from softrisk_core.probes import STEPS, Blur, GreyLevels, Noise, Probe, Rearrangement
from softrisk_core.roughness import FLOOR, TINY, filters

_TINY: Final = 1e-300


def probed(probe: Probe, images: Tensor) -> Tensor:
    """Changed images, of the same shape, (B, C, H, W), and range.

    Raises:
        TypeError: If the probe is not known here.
    """
    match probe:
        case Rearrangement():
            rows, columns = map(torch.from_numpy, probe.order(*images.shape[2:]))
            return images.index_select(2, rows.to(images.device)).index_select(3, columns.to(images.device))
        case Noise():
            return (images + torch.from_numpy(probe.values).to(images)).clamp(0, 1)
        case GreyLevels():
            # Rounding is flat nearly everywhere, and an attacker by gradients would see nothing of this probe. What is
            # rounded stays close, so its slope stands in (BPDA: Athalye, Carlini and Wagner, ICML 2018).
            return straight_through((images * STEPS).round() * (1 / STEPS), images)
        case Blur():
            return _smooth(_smooth(images, 2), 3)
    raise TypeError(f"no gradient of the probe {probe.name} is known")


def straight_through(values: Tensor, slopes: Tensor) -> Tensor:
    """The values of one tensor with the slopes of another of the same shape."""
    return values.detach() + (slopes - slopes.detach())


def roughness(images: Tensor) -> Tensor:
    """Roughness of images (B, C, H, W) in float64, shape (B, R)."""
    columns: list[Tensor] = []
    logs = []
    for layer in filters(images.shape[1]):
        kernel = torch.from_numpy(layer).to(images.device)
        size: Tensor = _Size.apply(nn.functional.conv2d(images.double(), kernel))  # type: ignore[no-untyped-call]
        response = size.flatten(1)
        mean = (response.mean(dim=1) + TINY).log()
        log = (response + FLOOR).log().mean(dim=1)
        # A root has no slope at 0.
        root = ((response.square().mean(dim=1) + _TINY).sqrt() + TINY).log()
        columns += [mean, log, log - mean, mean - root]
        logs.append(log)
    if len(logs) == 2:
        columns.append(logs[1] - logs[0])
    return torch.stack(columns, dim=1)


class _Size(torch.autograd.Function):
    """|x| for responses of a Laplacian (B, L, H, W), of which 0 is the least.

    Where 0 is left whichever way x moves, the slope is the way up if that is what raises the end result, and 0 if it
    would lower it. In a flat image equal slopes would cancel at each pixel; a checkerboard is the steepest way up.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.abs()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        (x,), (grad,) = ctx.saved_tensors, grad_outputs
        layers, rows, columns = (torch.arange(size, device=x.device) for size in x.shape[1:])
        checkerboard = 1 - 2 * ((layers[:, None, None] + rows[:, None] + columns) % 2)
        return torch.where(x == 0, grad.clamp(min=0) * checkerboard, grad * x.sign())


def _smooth(images: Tensor, axis: int) -> Tensor:
    last = images.shape[axis] - 1
    places = torch.arange(last + 1, device=images.device)
    before = images.index_select(axis, (places - 1).clamp(min=0))
    after = images.index_select(axis, (places + 1).clamp(max=last))
    return 0.25 * (before + after) + 0.5 * images
