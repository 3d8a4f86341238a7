"""What a tail for a score consists of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

DIAGNOSTICS_PREFIX: Final = "softrisk/diagnostics/"
"""Of the names of what the diagnostics compute on their way."""


@dataclass(frozen=True)
class Tail:
    """A piece of a graph, in ONNX's text form, of which the one output is `nonconformity`.

    Attributes:
        text: With operators whose meaning has not changed since opset 13.
        constants: By name.
        sources: What else the text reads: its name for a value of the graph → the graph's own name for it.
    """

    text: str
    constants: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)


def of_diagnostics(*names: str) -> dict[str, str]:
    """Sources: values that the diagnostics compute on their way, under the same names."""
    return {name: DIAGNOSTICS_PREFIX + name for name in names}
