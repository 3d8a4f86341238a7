"""The Adversarial Robustness Toolbox (ART 1.20): an estimator for a victim, and its randomness from a generator."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from softrisk_attacks.victim import Victim


def estimator(victim: Victim, inputs: Tensor) -> PyTorchClassifier:
    """The victim as ART wants it."""
    return PyTorchClassifier(
        victim,
        # The sum: the mean would scale gradients with the batch, towards the smallest floats.
        loss=nn.CrossEntropyLoss(reduction="sum"),
        input_shape=tuple(inputs.shape[1:]),
        nb_classes=victim.classes,
        clip_values=(0.0, 1.0),
        device_type=victim.device.type if victim.device.type == "cpu" else "gpu",
    )


@contextmanager
def numpy_seed(generator: torch.Generator) -> Iterator[None]:
    """Seed NumPy's global state, from which ART draws, and put it back afterwards."""
    before = np.random.get_state()  # noqa: NPY002 - ART draws from the global state
    np.random.seed(int(torch.randint(2**31, (), generator=generator)))  # noqa: NPY002 - the same
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002 - the same
