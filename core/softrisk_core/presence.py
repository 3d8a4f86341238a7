"""Presence cases: which inputs of a model an instance has.

An optional input may be left out, and is zero then. An instance that lacks one is another kind of instance, of which a
classifier is less sure. So it is compared with calibration rows of its own case only: the same rows as in every other
case, with the same inputs set to zero. Setting an input to zero is one fixed function, and exchangeable rows stay
exchangeable under it; so the promise holds within each case, as long as inputs are missing for reasons that have
nothing to do with their content.
"""

from collections.abc import Mapping
from itertools import product

import numpy as np
from numpy.typing import NDArray

from softrisk_core.rows import Inputs, count_rows


def presence_patterns(optional: Mapping[str, bool]) -> NDArray[np.bool_]:
    """Which inputs are present in each pattern: all in the first, as few as can be in the last.

    Args:
        optional: For each of M inputs, in the order of the model, whether it may be left out.

    Returns:
        Shape (P, M); the last pattern has no input at all if all may be left out.
    """
    return np.array(list(product(*((True, False) if may_lack else (True,) for may_lack in optional.values()))))


def presence_cases(optional: Mapping[str, bool]) -> tuple[tuple[str, ...], ...]:
    """Names of the inputs that are present in each of G cases: the patterns with at least one.

    Args:
        optional: As for `presence_patterns`.
    """
    patterns = presence_patterns(optional)
    return tuple(tuple(np.array(list(optional))[present].tolist()) for present in patterns if present.any())


def find_cases(inputs: Inputs, optional: Mapping[str, bool]) -> NDArray[np.int64]:
    """The case of each instance: what is not optional counts as present.

    Args:
        inputs: By name.
        optional: As for `presence_patterns`.

    Returns:
        Shape (N,): positions in `presence_cases`; their number G for an instance that has no input at all.
    """
    found = np.zeros(count_rows(inputs), np.int64)
    for name, may_lack in optional.items():
        if may_lack:
            # The bits count up as the patterns do.
            found = 2 * found + ~inputs[name].reshape(len(found), -1).any(axis=1)
    return found


def keep_present(inputs: Inputs, case: tuple[str, ...]) -> Inputs:
    """The inputs as they are in a case: those that it lacks are zero."""
    return {name: values if name in case else np.zeros_like(values) for name, values in inputs.items()}
