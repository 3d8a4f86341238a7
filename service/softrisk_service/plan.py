"""How to run a model, decided from what its runs cost on this machine."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Self

INLINE_SECONDS: Final = 150e-6
"""A run that takes less is done in the event loop: handing it to a thread and back would take as long."""
INLINE_SECONDS_OF_SEVERAL: Final = 2e-3
"""The same for one of several processes, which have no idle cores to hand it to; more would hold up the others."""
LONE_SECONDS: Final = 5e-3
"""The same for requests that come one after another, each alone: the event loop has nothing else to do meanwhile."""

_OVERHEAD: Final = 60e-6
"""What a batch costs beside its run, whatever its size: joining, counting, scheduling."""
_ENOUGH: Final = 0.985
"""The smallest size with this share of the best throughput is taken: a larger one would only make callers wait."""
_GAIN: Final = 1.01
"""Larger sizes than one that is not better by this factor are not tried, once there is company at all."""
_COMPANY: Final = 8
_ENOUGH_INLINE: Final = 0.95
"""The same for models of microseconds, whose smaller batches overlap better with the work of the event loop."""
_LONGEST_TRIAL: Final = 0.25
"""Sizes larger than one whose run takes this long are not tried."""


@dataclass(frozen=True)
class Plan:
    """How to run a model.

    Attributes:
        batch_size: Most instances in a run.
        inline_size: Most instances in a run that is done in the event loop; 0 for none.
        lone_size: The same while requests come one after another, each alone.
        row_seconds: What an instance takes in a full batch.
    """

    batch_size: int
    inline_size: int
    lone_size: int
    row_seconds: float

    @classmethod
    def of(cls, seconds: Mapping[int, float], inline_seconds: float, lone_seconds: float) -> Self:
        """The plan for measured times.

        Args:
            seconds: Of a run, by number of instances.
            inline_seconds: Longest run that is done in the event loop.
            lone_seconds: The same while requests come one after another, each alone.
        """
        throughput = {size: _throughput(size, taken) for size, taken in seconds.items()}
        best = max(throughput.values())
        inline = [size for size, taken in seconds.items() if taken <= inline_seconds]
        enough = _ENOUGH_INLINE if inline else _ENOUGH
        size = min(size for size in seconds if throughput[size] >= enough * best)
        lone = [size for size, taken in seconds.items() if taken <= max(inline_seconds, lone_seconds)]
        return cls(size, max(inline, default=0), max(lone, default=0), seconds[size] / size)


def measure(seconds: Callable[[int], float], max_batch_size: int, inline_seconds: float, lone_seconds: float) -> Plan:
    """Try sizes 1, 2, 4, … and make the plan.

    Args:
        seconds: Measures a run of a number of instances.
        max_batch_size: Largest size.
        inline_seconds: Longest run that is done in the event loop.
        lone_seconds: The same while requests come one after another, each alone.
    """
    found: dict[int, float] = {}
    size = 1
    while True:
        found[size] = seconds(size)
        rates = [_throughput(tried, taken) for tried, taken in found.items()]
        pointless = size > _COMPANY and rates[-1] < _GAIN * max(rates[:-1])
        if size == max_batch_size or pointless or found[size] > _LONGEST_TRIAL:
            return Plan.of(found, inline_seconds, lone_seconds)
        size = min(2 * size, max_batch_size)


def _throughput(size: int, seconds: float) -> float:
    return size / (seconds + _OVERHEAD)
