"""The ascent: from noise to an image that a class or unit answers to, wherever it is looked at from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from torch import Tensor

from softrisk_evaluation.activations.measures import total_variation
from softrisk_evaluation.activations.parameterisation import ParameterisationKind, make_parameterisation
from softrisk_evaluation.activations.targets import Target, strengths
from softrisk_evaluation.activations.transformations import Transformations, transform
from softrisk_training.models import Classifier, InputShape

BATCH: Final = 64
"""Images in a forward pass, but for the seeds of one target, which stay together."""

_FLAT: Final = 1e-12
"""A gradient of a shorter norm leads nowhere."""


@dataclass(frozen=True)
class Settings:
    """How an image is found.

    Attributes:
        steps: Of Adam.
        learning_rate: Of Adam, ≥ 0.
        parameterisation: What Adam moves.
        transformations: Drawn anew at each step.
        l2: λ₂ ≥ 0, weight of the mean square of the pixels as the network sees them, normalised.
        tv: λ_TV ≥ 0, weight of the total variation of the pixels.
    """

    steps: int = 160
    learning_rate: float = 0.05
    parameterisation: ParameterisationKind = "fourier"
    transformations: Transformations = field(default_factory=lambda: Transformations(rotation=15, scaling=0.2))
    l2: float = 1.0
    tv: float = 5.0


def maximise(
    model: Classifier,
    shape: InputShape,
    targets: Sequence[Target],
    seeds: Sequence[int],
    settings: Settings,
    on_step: Callable[[int], None] = lambda images: None,
) -> Tensor:
    """Images that maximise E_T[s(T(x))] − λ₂‖x‖² − λ_TV TV(x), one for each target and seed.

    T is one view of each image, drawn anew at every step; ‖x‖² is the mean square of the normalised pixels; s is the
    activation of a unit, or the logit of a class above the mean of all logits. The logit alone is the same for all
    classes but one wherever a network has made the wrong classes equal, as DRSL does, and its ascent ends in another
    class. At each step the gradient of s is scaled to norm 1, so that the same λ suit every network and every place on
    the way. Chen Li et al., arXiv 2106.09982, with the regularisers of Yosinski et al. (arXiv 1506.06579) and Mahendran
    & Vedaldi (arXiv 1412.0035).

    Args:
        model: In eval mode, on the device that is to be used; weights need no gradients.
        shape: (channels, height, width) of its inputs.
        targets: What is to be excited.
        seeds: Of start and views. The image of a target and seed does not depend on what else is asked for, but for
            rounding.
        settings: The rest.
        on_step: Called after each step with the number of images that went one step on.

    Returns:
        Shape (targets, seeds, C, H, W), float32 in [0, 1], on the device of the model.
    """
    at_once = max(1, BATCH // len(seeds))
    parts = [
        _ascend(model, shape, targets[start : start + at_once], seeds, settings, on_step)
        for start in range(0, len(targets), at_once)
    ]
    return torch.cat(parts)


def _ascend(
    model: Classifier,
    shape: InputShape,
    targets: Sequence[Target],
    seeds: Sequence[int],
    settings: Settings,
    on_step: Callable[[int], None],
) -> Tensor:
    device = model.mean.device
    generators = [np.random.default_rng(seed) for seed in seeds]
    noise = np.stack([generator.standard_normal(shape, dtype=np.float32) for generator in generators])
    start = torch.from_numpy(np.tile(noise, (len(targets), 1, 1, 1))).to(device)
    wanted = [target for target in targets for _ in seeds]
    parameterisation = make_parameterisation(settings.parameterisation, model.mean, *shape[1:])
    parameters = parameterisation.start(start).requires_grad_()
    adam = torch.optim.Adam([parameters], settings.learning_rate)
    for _ in range(settings.steps):
        images = parameterisation.images(parameters)
        views = settings.transformations.draw(generators).repeated(len(targets))
        strength = strengths(model, transform(images, views), wanted)
        (uphill,) = torch.autograd.grad(strength.sum(), images, retain_graph=True)
        uphill /= uphill.flatten(1).norm(dim=1).clamp(min=_FLAT)[:, None, None, None]
        penalty = settings.l2 * ((images - model.mean) / model.std).square().mean(dim=(1, 2, 3))
        penalty = penalty + settings.tv * total_variation(images)
        (dear,) = torch.autograd.grad(penalty.sum(), images, retain_graph=True)
        (parameters.grad,) = torch.autograd.grad(images, parameters, dear - uphill)
        adam.step()
        on_step(len(wanted))
    with torch.no_grad():
        return parameterisation.images(parameters).reshape(len(targets), len(seeds), *shape)
