"""The radii of a classifier with a Lipschitz bound: what is bounded, and the reference of what the graph says."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from softrisk_core.manifest import RadiusFacts, RadiusKind
from softrisk_core.presence import find_cases, presence_patterns
from softrisk_core.radius import radius
from softrisk_core.rows import Inputs


@dataclass(frozen=True)
class Bound:
    """Lipschitz constants of a classifier's logit differences.

    Attributes:
        spaces: For each of M inputs, in the order of the model, in which space it is changed (`RadiusFacts.spaces`).
        lipschitz: For each kind the constants, shape (M, C, C), as `softrisk_core.radius` takes them.
        rounding: How far a logit of the graph can be from exact arithmetic: a certificate allows for it.
    """

    spaces: Mapping[str, str]
    lipschitz: Mapping[RadiusKind, NDArray[np.float64]]
    rounding: float = 0.0

    @property
    def facts(self) -> RadiusFacts:
        """For the manifest."""
        return RadiusFacts(spaces=dict(self.spaces), kinds=tuple(sorted(self.lipschitz)), rounding=self.rounding)

    def changes(self) -> dict[str, tuple[RadiusKind, NDArray[np.bool_]]]:
        """For each output of `RadiusFacts.outputs` the kind, and which of the M inputs may be changed."""
        single = np.eye(len(self.spaces), dtype=np.bool_)
        each = [single.any(axis=0), *(single if len(single) > 1 else ())]
        kinds = self.facts.kinds
        return dict(zip(self.facts.outputs, ((kind, which) for kind in kinds for which in each), strict=True))

    def rounding_of(self, kind: RadiusKind) -> float:
        """What is allowed for in radii of a kind: an estimate proves nothing anyway."""
        return self.rounding if kind == "certified" else 0.0

    def radii(
        self, logits: NDArray[np.float64], inputs: Inputs, optional: Mapping[str, bool]
    ) -> dict[str, NDArray[np.float64]]:
        """The radii of instances.

        An input that is missing stays missing: the radius is over those that are present, and 0 where none of them may
        be changed, since nothing is certified about an input that is not there.

        Args:
            logits: Shape (B, C).
            inputs: By name, each (B, …).
            optional: For each input whether it may be left out.

        Returns:
            For each output its values, shape (B,).
        """
        present, cases = presence_patterns(optional), find_cases(inputs, optional)
        found = {name: np.zeros(len(logits)) for name in self.facts.outputs}
        for name, (kind, which) in self.changes().items():
            for case in np.unique(cases):
                changed, rows = which & present[case], cases == case
                if changed.any():
                    found[name][rows] = radius(logits[rows], self.lipschitz[kind][changed], self.rounding_of(kind))
        return found
