"""Everything that is measured of one trained classifier."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from softrisk_attacks.joint import joint_norm
from softrisk_core.radius import radius
from softrisk_evaluation.errors import EvaluationError
from softrisk_evaluation.experiments.study import Cell, Kept, slug
from softrisk_evaluation.multimodal.attacks import Domains, Effort, Fallen, right_under_fgm, rising_pgd
from softrisk_evaluation.multimodal.task import MultimodalArm, MultimodalTask, attacked_rows, trained
from softrisk_training.multimodal.certificate import Lipschitz, certified_radius
from softrisk_training.multimodal.model import MultimodalClassifier
from softrisk_training.multimodal.rows import Rows

MOVES: Final[Mapping[str, tuple[bool, bool]]] = {
    "both": (True, True),
    "image": (True, False),
    "audio": (False, True),
}
"""Which modalities an attacker changes, by what tables call it."""

SPACE_DOMAINS: Final[Domains] = ((0.0, 1.0), None)
"""Pixels stay pixels. A log-mel plane may become any: more than a waveform could bring about, so no weaker attack."""

INPUT_DOMAINS: Final[Domains] = ((0.0, 1.0), (-1.0, 1.0))


@dataclass(frozen=True)
class Trial:
    """How much is attacked.

    Attributes:
        epsilons: Radii in the modalities' spaces, rising.
        waveform_epsilons: Radii of the attack on the waveform, rising.
        effort: Of PGD.
    """

    epsilons: tuple[float, ...]
    waveform_epsilons: tuple[float, ...]
    effort: Effort


def measure_arm(work: Path, task: MultimodalTask, arm: MultimodalArm, seed: int, trial: Trial) -> Kept:
    """A cell.

    Returns:
        `right`, shape (N,). For each of `MOVES`: `pgd/…` and `distance/…`, as in `Fallen`, `fgm/…`, shape (radii, N),
        `estimated/…` and, if anything is certified, `certified/…`, the radii, shape (N,). `waveform`, as `pgd`, and
        `waveform-distance` of the planes. `without-image` and `without-audio`: which rows are right then.
        `slope-ratio`: of the image's slope to the recording's between label and runner-up, shape (N,).

    Raises:
        EvaluationError: If an attack turned a row within its certified radius.
    """
    model, checkpoint = trained(work, task, arm, seed)
    inputs, rows = attacked_rows(task)
    lipschitz = checkpoint.lipschitz
    with torch.no_grad():
        logits = model.classify(*rows.planes).numpy()
    labels = rows.labels.numpy()
    kept: Kept = {"right": logits.argmax(axis=1) == labels, "slope-ratio": _slope_ratio(logits, lipschitz)}
    for name, moved in MOVES.items():
        modality = None if all(moved) else moved.index(True)
        fallen = rising_pgd(
            model.classify,
            rows.planes,
            rows.labels,
            trial.epsilons,
            moved=moved,
            domains=SPACE_DOMAINS,
            effort=trial.effort,
            seed=seed,
        )
        kept |= {f"pgd/{name}": fallen.epsilon, f"distance/{name}": fallen.distance}
        kept[f"fgm/{name}"] = right_under_fgm(
            model.classify, rows.planes, rows.labels, trial.epsilons, moved=moved, domains=SPACE_DOMAINS
        )
        kept[f"estimated/{name}"] = _estimated(logits, lipschitz, modality)
        if lipschitz.certified is not None:
            kept[f"certified/{name}"] = certified_radius(logits, lipschitz, modality)
            check_certificate(kept, name, trial.epsilons)
    on_waveform = rising_pgd(
        model,
        inputs.planes,
        inputs.labels,
        trial.waveform_epsilons,
        moved=MOVES["audio"],
        domains=INPUT_DOMAINS,
        effort=trial.effort,
        seed=seed,
    )
    kept |= {"waveform": on_waveform.epsilon, "waveform-distance": _plane_distance(model, on_waveform, rows)}
    if lipschitz.certified is not None:
        _refuse_closer(kept["waveform-distance"], kept["certified/audio"], kept["right"], "the attack on the waveform")
    for position, name in enumerate(("image", "audio")):
        lacking = [torch.zeros_like(plane) if at == position else plane for at, plane in enumerate(rows.planes)]
        with torch.no_grad():
            kept[f"without-{name}"] = (model.classify(*lacking).argmax(dim=1) == rows.labels).numpy()
    return kept


def measuring_cells(
    task: MultimodalTask, arms: Sequence[MultimodalArm], seeds: Sequence[int], trial: Trial
) -> list[Cell]:
    """One cell for each arm and seed, seeds innermost."""
    return [
        Cell(
            f"measured/{slug(arm.name)}-{seed}",
            measure_arm,
            {"task": task, "arm": arm, "seed": seed, "trial": trial},
        )
        for arm in arms
        for seed in seeds
    ]


def check_certificate(kept: Kept, moved: str, epsilons: Sequence[float]) -> None:
    """Refuse a certificate that an attack contradicts, row by row and as a curve.

    Args:
        kept: Of `measure_arm`.
        moved: A key of `MOVES`.
        epsilons: The radii that were tried.

    Raises:
        EvaluationError: If a row was turned within its certified radius, or fewer rows stood than are certified.
    """
    certified, right = kept[f"certified/{moved}"], kept["right"]
    _refuse_closer(kept[f"distance/{moved}"], certified, right, f"PGD on {moved}")
    for position, epsilon in enumerate(epsilons):
        proved = float((right & (certified >= epsilon)).mean())
        stood = {"PGD": kept[f"pgd/{moved}"] > epsilon, "FGM": kept[f"fgm/{moved}"][position]}
        for attack, standing in stood.items():
            if proved > standing.mean():
                raise EvaluationError(
                    f"{proved:.1%} of the rows are certified at ε = {epsilon:g}, but {attack} on {moved} left "
                    f"{standing.mean():.1%} right: the certificate is wrong"
                )


def _refuse_closer(
    distance: NDArray[np.float64], certified: NDArray[np.float64], right: NDArray[np.bool_], attack: str
) -> None:
    wrong = right & (distance < certified)
    if wrong.any():
        raise EvaluationError(f"{attack} turned {wrong.sum()} rows within their certified radius: it is wrong")


def _estimated(logits: NDArray[np.float32], lipschitz: Lipschitz, modality: int | None) -> NDArray[np.float64]:
    assert lipschitz.estimated is not None
    return radius(logits, lipschitz.estimated if modality is None else lipschitz.estimated[modality])


def _slope_ratio(logits: NDArray[np.float32], lipschitz: Lipschitz) -> NDArray[np.float64]:
    assert lipschitz.estimated is not None
    order = np.argsort(logits, axis=1)
    slopes = lipschitz.estimated[:, order[:, -1], order[:, -2]]
    ratio: NDArray[np.float64] = slopes[0] / slopes[1]
    return ratio


def _plane_distance(model: MultimodalClassifier, fallen: Fallen, rows: Rows) -> NDArray[np.float64]:
    """How far the changed waveforms lie from the clean ones in the space of planes; infinite for rows that stand."""
    with torch.no_grad():
        changed = model.represent(*fallen.inputs)
    length = joint_norm([new.double() - old for new, old in zip(changed, rows.planes, strict=True)]).numpy()
    return np.where(np.isinf(fallen.distance), np.inf, length)
