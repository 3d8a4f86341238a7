"""The member `parameters`, which both protocols have: what a caller may choose."""

from collections.abc import Collection
from typing import Any

from softrisk_core.conformal import Guarantee
from softrisk_core.errors import CalibrationError
from softrisk_service.codecs.tensors import shown
from softrisk_service.errors import InvalidInputError
from softrisk_service.policy import Policy, limits_at


def read_parameters(
    document: dict[str, Any], known: Collection[str], ignored: Collection[str] = (), where: str = ""
) -> dict[str, Any]:
    """The member `parameters` of a JSON object; empty if it is absent or null.

    Args:
        document: The object.
        known: Names that have a meaning here.
        ignored: Names that clients send by themselves and that change nothing here.
        where: What to call the object in an error, with a dot behind it; empty for the body.

    Raises:
        InvalidInputError: If it is no object, or holds any other name: it would be ignored, and its sender would
            take the answer for what it is not.
    """
    parameters = document.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise InvalidInputError(f"{where}parameters: expected an object")
    if unknown := [name for name in parameters if name not in known and name not in ignored]:
        raise InvalidInputError(
            f"{where}parameters: {shown(unknown[0])} is not known; known: {', '.join(known) or 'none'}"
        )
    return parameters


def read_limits(parameters: dict[str, Any], policy: Policy) -> tuple[float, tuple[int, ...]]:
    """What the parameters `alpha` and `guarantee` ask of the flag.

    Returns:
        α, by default the operator's for `review`, and for each label the largest rank that is flagged.

    Raises:
        InvalidInputError: If α is no number, the guarantee is none, or the calibration cannot serve them.
    """
    alpha = parameters.get("alpha")
    if alpha is None:
        alpha = policy.alpha_review
    if type(alpha) not in (int, float):
        raise InvalidInputError(f"parameters.alpha: expected a number between 0 and 1, got {shown(alpha)}")
    guarantee: Guarantee = parameters.get("guarantee", "marginal")
    if guarantee not in ("marginal", "confident"):
        raise InvalidInputError(f"parameters.guarantee: expected marginal or confident, got {shown(guarantee)}")
    try:
        return float(alpha), limits_at(policy.grouping, float(alpha), guarantee)
    except CalibrationError as error:
        raise InvalidInputError(f"parameters.alpha: {error}") from error
