"""Rows of inputs, and their content digests, by which overlapping data sets are found.

The rows used for training, selection, calibration and test must be disjoint, or the false-alarm promise does not
hold. Row numbers cannot show that across files, contents can.
"""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

Inputs = Mapping[str, NDArray[np.float32]]
"""Rows of a model's inputs by name, each (N, …) with the same N."""


def count_rows(inputs: Inputs) -> int:
    """How many rows there are."""
    return len(next(iter(inputs.values())))


def take_rows(inputs: Inputs, rows: NDArray[np.integer[Any]] | NDArray[np.bool_] | slice) -> Inputs:
    """Some of the rows."""
    return {name: values[rows] for name, values in inputs.items()}


def digest_rows(*inputs: NDArray[np.float32]) -> NDArray[np.uint64]:
    """64-bit BLAKE2b digests of model inputs.

    Args:
        inputs: Shape (N, …), float32, as the model receives them; of a model with several inputs all of them, in its
            order.

    Returns:
        Shape (N,). Equal inputs have equal digests; among a million rows a chance collision has a probability of
        about 3e-8.
    """
    parts = [np.ascontiguousarray(each, dtype="<f4") for each in inputs]
    shapes = [repr(each.shape[1:]).encode() for each in parts]
    digests = []
    for row in zip(*parts, strict=True):
        content = b"".join(values.tobytes() + shape for values, shape in zip(row, shapes, strict=True))
        digests.append(blake2b(content, digest_size=8).digest())
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def count_overlap(digests: NDArray[np.uint64], others: NDArray[np.uint64]) -> int:
    """How many rows of the first set have a digest that occurs in the second."""
    return int(np.isin(digests, others).sum())
