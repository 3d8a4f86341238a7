"""KServe V1: the member `instances`, from JSON values and encoded files to arrays."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from softrisk_core.manifest import InputSpec
from softrisk_service.codecs.allowance import Allowance
from softrisk_service.codecs.media import base64_file, claim_file, file_input
from softrisk_service.codecs.tensors import kind, shown, to_array
from softrisk_service.errors import InvalidInputError, TooLargeError
from softrisk_service.outcome import Inputs

_LEFT_OUT: Final = object()
"""In place of a value of an optional input that an instance does not have."""


def check_count(count: int, allowance: Allowance) -> None:
    """Refuse no instances, and too many of them.

    Raises:
        InvalidInputError: If there are none.
        TooLargeError: If there are too many.
    """
    if not count:
        raise InvalidInputError("instances: expected at least one, got none")
    if count > allowance.max_instances:
        raise TooLargeError(f"instances: at most {allowance.max_instances} are accepted in one request, got {count}")


def read_instances(instances: object, specs: tuple[InputSpec, ...], allowance: Allowance) -> Inputs:
    """All instances, as the inputs of a model.

    Args:
        instances: As JSON was parsed: for a model with one input its values, else objects of them by input name.
        specs: The model's inputs. Those that an instance leaves out are zero.
        allowance: What decoding may cost.

    Raises:
        InvalidInputError: Whatever is wrong with them, with the place.
        TooLargeError: If there are more than the allowance has.
        ClientGoneError: If nobody waits for them any more.
    """
    if not isinstance(instances, list):
        raise InvalidInputError('the body must have a list "instances"')
    check_count(len(instances), allowance)
    if len(specs) == 1:
        return {specs[0].name: _column(instances, specs[0], "", allowance)}
    for index, instance in enumerate(instances):
        _check_names(instance, specs, f"instances[{index}]")
    return {
        spec.name: _column(
            [instance.get(spec.name, _LEFT_OUT) for instance in instances], spec, f".{spec.name}", allowance
        )
        for spec in specs
    }


def _check_names(instance: object, specs: tuple[InputSpec, ...], where: str) -> None:
    wanted = ", ".join(f"{spec.name} (may be left out)" if spec.optional else spec.name for spec in specs)
    if not isinstance(instance, dict):
        raise InvalidInputError(f"{where}: expected an object with the inputs {wanted}, got {kind(instance)}")
    known = {spec.name for spec in specs}
    if "b64" in instance and "b64" not in known:
        raise InvalidInputError(
            f'{where}: a file goes by the name of its input, as in {{"{specs[0].name}": {{"b64": "…"}}}}; '
            f"inputs: {wanted}"
        )
    for name in instance:
        if name not in known:
            raise InvalidInputError(f"{where}: {shown(name)} is not an input; inputs: {wanted}")
    if not instance:
        raise InvalidInputError(f"{where}: expected at least one of the inputs {wanted}, got none")
    for spec in specs:
        if spec.name not in instance and not spec.optional:
            raise InvalidInputError(
                f"{where}: the input {spec.name!r} is missing, and the model was not made to go without it; expected "
                f"{wanted}, got {', '.join(instance)}"
            )


def _column(values: list[Any], spec: InputSpec, member: str, allowance: Allowance) -> NDArray[np.float32]:
    """All instances of one input."""
    files: dict[int, bytes] = {}
    for index, value in enumerate(values):
        if isinstance(value, dict):
            with _at(f"instances[{index}]{member}"):
                files[index] = base64_file(value, spec)
                claim_file(files[index], spec, allowance)
    # Rows that are left out stay untouched, and the system gives no memory for them.
    rows = np.zeros((len(values), *spec.instance_shape), np.float32)
    for index, value in enumerate(values):
        allowance.check()
        if index in files:
            with _at(f"instances[{index}]{member}"):
                rows[index] = file_input(files.pop(index), spec)
        elif value is not _LEFT_OUT:
            rows[index] = to_array(value, spec.instance_shape, f"input {spec.name!r}: instances[{index}]{member}")
    return rows


@contextmanager
def _at(where: str) -> Iterator[None]:
    """Say where a fault is."""
    try:
        yield
    except InvalidInputError as error:
        raise InvalidInputError(f"{where}: {error}") from error
