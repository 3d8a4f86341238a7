"""The full suite of attacks against trained arms, and the images that stand all of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from softrisk_attacks.attack import run_attack
from softrisk_attacks.suite import Effort, full_suite
from softrisk_evaluation.experiments.findings import percent
from softrisk_evaluation.experiments.study import Cell, Kept, slug
from softrisk_evaluation.experiments.task import Arm, Task, rows_of, test_sample, trained
from softrisk_evaluation.red_flags import soundness_flags
from softrisk_evaluation.report import Soundness
from softrisk_evaluation.soundness import measure_soundness
from softrisk_evaluation.tables import Section

CHECKED: Final = 25
"""Images on which the checks behind the red flags make attacks of their own."""


def attack_arm(
    work: Path, task: Task, arm: Arm, seed: int, twin: Arm, twin_seed: int, images: int, epsilon: float, effort: Effort
) -> Kept:
    """A cell: every attack of the suite on the same test images.

    Args:
        work: The working folder.
        task: What was trained.
        arm: The model that is attacked.
        seed: Of its training, and of the attacks.
        twin: The model that transferred images are made on.
        twin_seed: Of its training.
        images: Test images.
        epsilon: ℓ∞ radius.
        effort: Steps, restarts and queries.

    Returns:
        `attacks` and `families`, their labels, and `attacked`, how many images they attack, the first ones, shape (A,);
        `fooled`, shape (A, images); `soundness`, the checks that the red flags are made from, as JSON.
    """
    model = trained(work, task, arm, seed)
    twin_model = trained(work, task, twin, twin_seed)
    inputs, labels = test_sample(task, images)
    classes = len(rows_of(task.data)[0].classes)
    attacks = full_suite(epsilon, classes=classes, twin=twin_model, effort=effort)
    outcomes = [(attack, run_attack(model, inputs, labels, attack, seed=seed)) for attack in attacks]
    soundness = measure_soundness(model, inputs, labels, outcomes, epsilon=epsilon, seed=seed, limit=CHECKED)
    return {
        "attacks": np.array([attack.label for attack in attacks]),
        "families": np.array([attack.family for attack in attacks]),
        "attacked": np.array([images if attack.subset is None else min(attack.subset, images) for attack in attacks]),
        "fooled": np.stack([outcome.fooled for _, outcome in outcomes]),
        "soundness": np.array(soundness.model_dump_json()),
    }


def suite_cells(
    task: Task, arms: Sequence[Arm], seeds: range, twin: Arm, images: int, epsilon: float, effort: Effort
) -> list[Cell]:
    """One cell for each arm and seed, seeds innermost. The twin of an arm has another seed."""
    return [
        Cell(
            f"suite/{slug(arm.name)}-{seed}",
            attack_arm,
            {
                "task": task,
                "arm": arm,
                "seed": seed,
                "twin": twin,
                "twin_seed": (seed + 1) % len(twin_seeds(seeds)),
                "images": images,
                "epsilon": epsilon,
                "effort": effort,
            },
        )
        for arm in arms
        for seed in seeds
    ]


def twin_seeds(seeds: range) -> range:
    """Seeds of the twins: those of the arms, but never one alone, which would be its own twin."""
    return range(max(2, len(seeds)))


def standing(kept: Kept) -> NDArray[np.bool_]:
    """Which images no attack of the suite fools, shape (images,)."""
    standing: NDArray[np.bool_] = np.logical_not(kept["fooled"].any(axis=0))
    return standing


def soundness_of(kept: Kept) -> Soundness:
    """The checks that were made beside the suite."""
    return Soundness.model_validate_json(str(kept["soundness"]))


def attack_table(title: str, rows: list[Kept]) -> Section:
    """What each attack leaves, and what is left by all of them together.

    Args:
        title: Of the table.
        rows: Results of one arm, one for each seed.
    """
    fooled = np.stack([kept["fooled"] for kept in rows])
    lines = [
        (str(label), str(family), str(count), percent(1 - fooled[:, index, :count].mean(axis=1)))
        for index, (label, family, count) in enumerate(
            zip(rows[0]["attacks"], rows[0]["families"], rows[0]["attacked"], strict=True)
        )
    ]
    lines.append(("worst case", "all", str(fooled.shape[2]), percent(1 - fooled.any(axis=1).mean(axis=1))))
    return Section(
        title=title,
        columns=("attack", "family", "images", "right, %"),
        rows=tuple(lines),
        note=f"Mean ± sd over {len(rows)} seeds. Images: how many are attacked, the first of the same test images.",
    )


def flag_table(title: str, results: dict[str, list[Kept]]) -> Section:
    """Red flags of each arm, the finding of the first seed in which it fired.

    Args:
        title: Of the table.
        results: By arm, one for each seed.
    """
    lines = []
    for name, rows in results.items():
        fired: dict[str, tuple[int, str, str]] = {}
        for kept in rows:
            for flag in soundness_flags(soundness_of(kept)):
                count, finding, advice = fired.get(flag.sign, (0, flag.finding, flag.advice))
                fired[flag.sign] = (count + 1, finding, advice)
        lines += [(name, f"{count} of {len(rows)}", finding, advice) for count, finding, advice in fired.values()]
    return Section(
        title=title,
        columns=("loss", "seeds", "finding", "what to do"),
        rows=tuple(lines) or (("none", "", "", "trust the figures no further than these few checks go"),),
        prose=True,
        note="Finding: of the first seed in which the flag was raised.",
    )
