"""What a caller may see.

| | V1, for each instance | V2 outputs |
|---|---|---|
| `full` | all, the radius too where there is one | all, the radii too |
| `coarse` | label, class name, decision, flag, decile of the risk score | `label`, `flagged` |
| `none` | label, class name | `label` |

A radius is a gap between logits over a constant that everybody who has the bundle knows. Who sees it sees the gap,
which is the score of most bundles and what a query attack descends; so it goes with the logits.

Below `full` a caller chooses no level of the flag either: a few flags at levels of one's own are as good as a p-value.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Literal

from softrisk_core.manifest import OUTPUTS
from softrisk_service.errors import ForbiddenError

Disclosure = Literal["full", "coarse", "none"]

VISIBLE: Final[Mapping[Disclosure, tuple[str, ...]]] = MappingProxyType(
    {"full": tuple(OUTPUTS), "coarse": ("label", "flagged"), "none": ("label",)}
)
"""Outputs that each level shows of every bundle; what some bundles add to them is for `full` alone."""

_REVEALING: Final = ("alpha", "guarantee", "probabilities")
"""Parameters by which a request would learn more than its level shows."""


def visible(outputs: tuple[str, ...], disclosure: Disclosure) -> tuple[str, ...]:
    """The outputs of a bundle that a level shows.

    Args:
        outputs: All of them.
        disclosure: What a caller may see.
    """
    return outputs if disclosure == "full" else VISIBLE[disclosure]


def check_parameters(parameters: Mapping[str, Any], disclosure: Disclosure) -> None:
    """Refuse parameters that ask for more than the caller may see.

    Args:
        parameters: Of a request.
        disclosure: What its caller may see.

    Raises:
        ForbiddenError: Naming the parameter. Ignored, it would leave the sender with an answer to another question.
    """
    if disclosure == "full":
        return
    for name in _REVEALING:
        # `probabilities: false` asks for less.
        if parameters.get(name) not in (None, False):
            raise ForbiddenError(f"parameters.{name} is for callers with full disclosure, yours is {disclosure}")


def check_output(name: str, disclosure: Disclosure) -> None:
    """Refuse an output that the caller may not see.

    Raises:
        ForbiddenError: Naming it.
    """
    if disclosure != "full" and name not in VISIBLE[disclosure]:
        raise ForbiddenError(
            f"output {name!r} is not shown with {disclosure} disclosure; shown: {', '.join(VISIBLE[disclosure])}"
        )
