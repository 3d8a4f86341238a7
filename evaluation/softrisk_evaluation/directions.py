"""Which side of each diagnostic is strange: fixed here, before any attack is run and for all of them.

Choosing the better side for each attack would turn an AUROC of 0.3 into one of 0.7 and hide that a strong attack
makes a classifier more certain than clean inputs do.
"""

from typing import Final, Literal, NamedTuple

Strange = Literal["low", "high"]


class Direction(NamedTuple):
    """The strange side of a diagnostic and why."""

    strange: Strange
    reason: str

    @property
    def sign(self) -> int:
        """Factor after which larger is stranger."""
        return 1 if self.strange == "high" else -1


DIRECTIONS: Final = {
    "top2_gap": Direction("low", "near a decision boundary the runner-up is close"),
    "logit_gap": Direction("low", "the same, without the saturation of the softmax"),
    "dispersion": Direction("high", "DRSL flattens the other logits; a displaced class stands out of them"),
    "softmax_dispersion": Direction("high", "the displaced class keeps probability"),
    "complement_entropy": Direction("low", "what is left of the softmax gathers on the displaced class"),
    "max_logit": Direction("low", "an unfamiliar input gives less evidence for any class"),
    "energy": Direction("low", "the same, for all classes together"),
    "entropy": Direction("high", "an unsure softmax is spread"),
}
"""By diagnostic, in the order of `softrisk_core.diagnostics.DIAGNOSTICS`."""
