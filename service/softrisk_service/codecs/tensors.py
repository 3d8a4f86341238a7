"""From JSON values to float32 arrays, strictly: nothing is guessed, and what is wrong is named."""

import reprlib
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softrisk_service.errors import InvalidInputError


def shown(value: object) -> str:
    """A client's value for an error message: short, however long or deep it is."""
    return reprlib.repr(value)


def kind(value: object) -> str:
    """What a JSON value is, for an error message."""
    match value:
        case None:
            return "null"
        case bool():
            return f"the boolean {str(value).lower()}"
        case str():
            return f"the string {shown(value)}"
        case list():
            return f"a list of {len(value)}"
        case dict():
            return "an object"
        case _:
            return f"the number {value}"


def to_array(value: object, shape: tuple[int, ...], where: str) -> NDArray[np.float32]:
    """Nested lists of numbers as an array.

    Types are looked at before numpy sees a value: numpy would read booleans and strings as numbers, and take the
    longest string times the number of elements as memory.

    Args:
        value: As JSON was parsed.
        shape: What it must have.
        where: What to call it in an error.

    Returns:
        Of that shape. Values outside float32 become ±∞.

    Raises:
        InvalidInputError: If it is ragged, has another shape, or holds anything but numbers; with the place.
    """
    level: list[Any] = [value]
    for size in shape:
        if set(map(type, level)) - {list} or set(map(len, level)) - {size}:
            raise InvalidInputError(_fault(value, shape, where))
        level = list(chain.from_iterable(level))
    if set(map(type, level)) - {int, float}:
        raise InvalidInputError(_fault(value, shape, where))
    with np.errstate(over="ignore"):
        return np.array(level, dtype=np.float32).reshape(shape)


def _fault(value: object, shape: tuple[int, ...], where: str) -> str:
    """The first place, depth first, where nested lists are not numbers of a shape; empty if there is none."""
    if not shape:
        return "" if type(value) in (int, float) else f"{where}: expected a number, got {kind(value)}"
    if not isinstance(value, list):
        return f"{where}: expected a list of shape {list(shape)}, got {kind(value)}"
    if len(value) != shape[0]:
        return f"{where}: expected {shape[0]} values (shape {list(shape)}), got {len(value)}"
    faults = (_fault(item, shape[1:], f"{where}[{index}]") for index, item in enumerate(value))
    return next(filter(None, faults), "")
