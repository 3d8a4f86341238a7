"""The Adversarial Robustness Toolbox (ART 1.20): an estimator for a victim, and a call that is seeded and silent."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from softrisk_attacks.victim import Victim


class _Estimator(PyTorchClassifier):  # type: ignore[misc]  # ART has no types
    def class_gradient(self, x: Any, label: Any = None, training_mode: bool = False, **kwargs: Any) -> Any:
        """Gradients of logits; with one class for each input in one backward pass, not one for each class."""
        if not isinstance(label, np.ndarray):
            return super().class_gradient(x, label=label, training_mode=training_mode, **kwargs)
        points = torch.from_numpy(x).to(self.device).requires_grad_()
        chosen = self.model(points).gather(1, torch.from_numpy(label).to(self.device)[:, None])
        (slope,) = torch.autograd.grad(chosen.sum(), points)
        return slope[:, None].cpu().numpy()


def estimator(victim: Victim, inputs: Tensor) -> PyTorchClassifier:
    """The victim as ART wants it."""
    return _Estimator(
        victim,
        # The sum: the mean would scale gradients with the batch, towards the smallest floats.
        loss=nn.CrossEntropyLoss(reduction="sum"),
        input_shape=tuple(inputs.shape[1:]),
        nb_classes=victim.classes,
        clip_values=(0.0, 1.0),
        device_type=victim.device.type if victim.device.type == "cpu" else "gpu",
    )


def generate(runner: Any, victim: Victim, inputs: Tensor, labels: Tensor) -> Tensor:
    """What an attack of ART makes of inputs."""
    return victim.tensor(runner.generate(x=inputs.cpu().contiguous().numpy(), y=labels.cpu().numpy()))


@contextmanager
def seeded(generator: torch.Generator) -> Iterator[None]:
    """Seed NumPy's global state, from which ART draws, and let ART log errors only; put both back afterwards.

    Torch's global state is put back, too: ART's loaders draw from it what they do not use.
    """
    before = np.random.get_state()  # noqa: NPY002 - ART draws from the global state
    logger = logging.getLogger("art")
    level = logger.level
    np.random.seed(int(torch.randint(2**31, (), generator=generator)))  # noqa: NPY002 - the same
    logger.setLevel(logging.ERROR)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        np.random.set_state(before)  # noqa: NPY002 - the same
        logger.setLevel(level)
