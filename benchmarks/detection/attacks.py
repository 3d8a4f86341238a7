"""The attacks that a score is tested with, each run to its end and kept on disk.

None of them fitted or chose a score: those have other images and seeds, and other steps where there are several.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from softrisk_attacks.apgd import APGD, TargetedAPGD
from softrisk_attacks.attack import Attack, run_attack
from softrisk_attacks.black_box import Square
from softrisk_attacks.minimum_norm import CarliniWagner, DeepFool
from softrisk_attacks.standard import fgsm, pgd
from softrisk_evaluation.experiments.study import Cell, Kept, slug
from softrisk_training.checkpoint import build_model, load_checkpoint, training_data

SEED = 1
FEW = 250
"""Images of C&W, which takes a thousand passes for each."""


def attacks(epsilons: Sequence[float], classes: int) -> list[Attack]:
    """The suite of the tables.

    Args:
        epsilons: ℓ∞ radii, ascending; attacks of minimum norm are cut back to the largest.
        classes: Of the model.
    """
    largest = epsilons[-1]
    return [
        *(fgsm(epsilon) for epsilon in epsilons),
        *(pgd(epsilon, 50, 1) for epsilon in epsilons),
        *(APGD(epsilon, "ce", 50, until_fooled=False) for epsilon in epsilons),
        *(TargetedAPGD(epsilon, 25, min(2, classes - 1), until_fooled=False) for epsilon in epsilons),
        DeepFool(largest),
        CarliniWagner(largest, 20, 4, subset=FEW),
        CarliniWagner(largest, 20, 4, 20.0, subset=FEW),
        *(Square(epsilon, 500) for epsilon in epsilons[-3:]),
    ]


def attacked(work: Path, checkpoint: str, sha256: str, images: int, epsilons: Sequence[float], label: str) -> Kept:
    """A cell: one attack on the first so many of the shuffled test rows.

    Args:
        work: Not used.
        checkpoint: Path of the classifier.
        sha256: Of the file: another one is another cell.
        images: How many.
        epsilons: Of the suite.
        label: Of the attack in it.

    Returns:
        `rows`, `labels` and attacked `inputs`, (images, …) or as many as the attack has.
    """
    path = Path(checkpoint)
    loaded = load_checkpoint(path)
    data = training_data(loaded, path, "the data it was trained on")
    rows = test_rows(loaded.splits.test, images)
    attack = next(each for each in attacks(epsilons, len(loaded.classes)) if each.label == label)
    rows = rows[: attack.subset]
    inputs, labels = data.inputs(rows), data.labels[rows]
    outcome = run_attack(build_model(loaded), inputs, labels, attack, seed=SEED, batch_size=128)
    return {"rows": rows, "labels": labels, "inputs": outcome.inputs}


def test_rows(test: np.ndarray[tuple[int, ...], np.dtype[np.int64]], images: int) -> np.ndarray:
    """The attacked rows; a smaller number of them is the beginning of a larger one."""
    return np.random.default_rng(SEED).permutation(test)[:images]


def cells(checkpoint: Path, sha256: str, images: int, epsilons: Sequence[float], classes: int) -> list[Cell]:
    """A cell for each attack."""
    return [
        Cell(
            f"detection/{checkpoint.stem}/{slug(attack.label)}",
            attacked,
            {
                "checkpoint": str(checkpoint),
                "sha256": sha256,
                "images": images,
                "epsilons": list(epsilons),
                "label": attack.label,
            },
        )
        for attack in attacks(epsilons, classes)
    ]
