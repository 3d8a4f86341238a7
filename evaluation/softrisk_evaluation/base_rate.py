"""What an alarm means where attacks are rare: mostly a false one."""

from dataclasses import dataclass
from typing import Final

PREVALENCES: Final = (1e-2, 1e-3, 1e-4, 1e-5)
"""Shares of attacked requests for which a report does the sum."""

REQUESTS: Final = 1_000_000


@dataclass(frozen=True)
class Alarms:
    """What becomes of a million requests, on average.

    Attributes:
        prevalence: Share of attacked requests, in [0, 1].
        attacks: How many are attacks.
        detected: How many of these are flagged.
        false: How many honest requests are flagged.
    """

    prevalence: float
    attacks: float
    detected: float
    false: float

    @property
    def precision(self) -> float:
        """Share of flagged requests that are attacks; 0 if nothing is flagged."""
        flagged = self.detected + self.false
        return self.detected / flagged if flagged else 0.0


def alarms(prevalence: float, false_alarms: float, detection: float) -> Alarms:
    """Do the sum.

    Args:
        prevalence: Share of attacked requests, in [0, 1].
        false_alarms: Share of honest requests that is flagged, in [0, 1].
        detection: Share of attacks that is flagged, in [0, 1].
    """
    attacks = prevalence * REQUESTS
    return Alarms(prevalence, attacks, attacks * detection, (REQUESTS - attacks) * false_alarms)
