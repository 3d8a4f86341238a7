"""Medians of repeats, and how cost grows."""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any, Final

import numpy as np

DIRTY_CORES: Final = 0.1
"""Cores kept busy by others from which a measurement counts as dirty."""


def summarise(points: Iterable[dict[str, Any]], by: Sequence[str]) -> list[dict[str, Any]]:
    """Medians over repeats.

    A point that others disturbed counts only where no clean one is left, and then the result is `dirty`.

    Args:
        points: Measurements; those that agree in `by` are repeats of one another.
        by: Names of what is not a figure.

    Returns:
        One row for each combination, in the order of first appearance: medians, the number of `repeats`, and `spread`,
        (max − min)/median of the requests or images per second.
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for point in points:
        groups.setdefault(tuple(point[name] for name in by), []).append(point)
    return [{**dict(zip(by, key, strict=True)), **_medians(group, by)} for key, group in groups.items()]


def _medians(group: list[dict[str, Any]], by: Sequence[str]) -> dict[str, Any]:
    clean = [point for point in group if point.get("other_cores", 0.0) < DIRTY_CORES]
    used = clean or group
    figures = [name for name in group[0] if name not in by and name != "repeat"]
    row: dict[str, Any] = {name: median(point[name] for point in used) for name in figures}
    if "errors" in row:
        row["errors"] = sum(point["errors"] for point in group)
    rate = next((name for name in ("requests_per_second", "images_per_second") if name in row), None)
    if rate is not None and row[rate]:
        row["spread"] = (max(p[rate] for p in used) - min(p[rate] for p in used)) / row[rate]
    return {**row, "repeats": len(used), "dirty": not clean}


def growth_exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Exponent b of cost ~ sizeᵇ, fitted to the larger half of the sizes, where constants weigh least.

    Args:
        sizes: Positive, ascending, at least three.
        costs: Positive.

    Returns:
        1 for linear growth, 0 for none.
    """
    half = min(len(sizes) // 2, len(sizes) - 3)
    slope, _ = np.polyfit(np.log(sizes[half:]), np.log(costs[half:]), 1)
    return float(slope)


def slope(times: Sequence[float], values: Sequence[float]) -> float:
    """Least-squares slope of values over times."""
    found, _ = np.polyfit(times, values, 1)
    return float(found)
