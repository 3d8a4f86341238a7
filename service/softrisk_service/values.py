"""Which values of an input a model was made for: checked once for a whole batch, and named where they are wrong."""

import numpy as np
from numpy.typing import NDArray

from softrisk_core.manifest import InputSpec
from softrisk_service.errors import InvalidInputError

_MAX_FLOAT32 = float(np.finfo(np.float32).max)


def valid(array: NDArray[np.float32], spec: InputSpec) -> bool:
    """Whether all values are finite and within the input's domain.

    The comparison with the domain also finds NaN and infinity, so that two reductions say all.

    Args:
        array: Shape (B, …), B ≥ 1.
        spec: The input; its domain [a, b] allows a slack of 1e-5·(b − a) for arithmetic in float32.
    """
    least, greatest = _bounds(spec)
    # Written so that NaN, which fails every comparison, is refused.
    return bool(array.min() >= least and array.max() <= greatest)


def check_values(array: NDArray[np.float32], spec: InputSpec) -> None:
    """Refuse values that the model was not made for.

    Args:
        array: Shape (B, …), B ≥ 1.
        spec: The input.

    Raises:
        InvalidInputError: With the input, what is valid, and the first offending value.
    """
    if valid(array, spec):
        return
    least, greatest = _bounds(spec)
    inside = (array >= least) & (array <= greatest)
    place = tuple(int(axis[0]) for axis in np.nonzero(~inside))
    value = array[place]
    wanted = f"values in [{spec.domain[0]:g}, {spec.domain[1]:g}]" if spec.domain else "finite float32 values"
    got = f"{value:g}" if np.isfinite(value) else "a value that is not finite in float32"
    raise InvalidInputError(f"input {spec.name!r}: expected {wanted}, got {got} at {list(place)}")


def _bounds(spec: InputSpec) -> tuple[float, float]:
    if spec.domain is None:
        return -_MAX_FLOAT32, _MAX_FLOAT32
    least, greatest = spec.domain
    slack = 1e-5 * (greatest - least)
    return least - slack, greatest + slack
