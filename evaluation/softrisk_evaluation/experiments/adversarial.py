"""Adversarial training with and without DRSL: does DRSL add robustness, or make what still succeeds easier to see?"""

from typing import Final

from softrisk_evaluation.experiments.answers import STEPS, answer_cells, gap_auroc
from softrisk_evaluation.experiments.arms import CE
from softrisk_evaluation.experiments.findings import Findings, percent, plain
from softrisk_evaluation.experiments.setup import Setup, in_words, sampling_error
from softrisk_evaluation.experiments.sweep import how_chosen, sweep
from softrisk_evaluation.experiments.task import Arm, by_arm, training_cells
from softrisk_evaluation.experiments.worst_case import attack_table, flag_table, standing, suite_cells, twin_seeds
from softrisk_evaluation.tables import Section
from softrisk_training.adversarial import Adversary

TITLES: Final = {"pgd": "PGD-AT", "trades": "TRADES", "fast": "fast AT"}


def against(adversary: Adversary, loss: Arm) -> Arm:
    """A loss, trained under attack."""
    extra = "" if loss == CE else f" + {loss.name}"
    return Arm(
        f"{TITLES[adversary.kind]} ε={adversary.epsilon:.3g}{extra}",
        loss.loss,
        loss.settings,
        {"adversary": adversary},
    )


def run(setup: Setup) -> Findings:
    """Each adversarial training with cross entropy and with DRSL, and both without any."""
    study, task, budget, seeds = setup.study, setup.task, setup.budget, setup.seeds
    drsl = sweep(setup).best
    epsilon = task.training_epsilon
    adversaries = [Adversary(kind, epsilon, budget.inner_steps) for kind in budget.adversaries]
    pairs = [(CE, drsl), *((against(each, CE), against(each, drsl)) for each in adversaries)]
    arms = [arm for pair in pairs for arm in pair]
    accuracy = by_arm(
        [float(kept["test_accuracy"]) for kept in study.results("training", training_cells(task, arms, seeds))], arms
    )
    study.results("training twins", training_cells(task, [CE], twin_seeds(seeds)))
    answered = by_arm(
        study.results("answers and smallest radii", answer_cells(task, arms, seeds, budget.images, epsilon)), arms
    )
    suite = by_arm(
        study.results("full suite", suite_cells(task, arms, seeds, CE, budget.images, epsilon, budget.effort)), arms
    )
    rows = []
    for arm in arms:
        found = [value for value in map(gap_auroc, answered[arm.name]) if value is not None]
        rows.append(
            (
                arm.name,
                percent(accuracy[arm.name], 2),
                percent([standing(kept).mean() for kept in suite[arm.name]]),
                plain(found, 3) if found else "–",
            )
        )
    return Findings(
        title=f"Adversarial training with and without DRSL, {setup.data_name}",
        question="Does DRSL add robustness to adversarial training, or make the attacks that still succeed easier to "
        "see?",
        method=(
            *setup.method,
            how_chosen(setup),
            sampling_error(budget.images),
            f"Trained under attack at ε = {epsilon:.3g} (PGD-AT and TRADES: {budget.inner_steps} steps, β = 6; fast "
            "AT: one step of 1.25 ε from a random start); attacked at the same ε. DRSL's weight is the one that was "
            "chosen without adversarial training.",
            f"Full suite on {budget.images} test images: {in_words(budget.effort)}.",
        ),
        tables=[
            Section(
                title=f"Robustness and detectability at ε = {epsilon:.3g}",
                columns=("training", "clean, %", "worst case, %", "AUROC of the gap"),
                rows=tuple(rows),
                note=f"Mean ± sd over {len(seeds)} seeds. Worst case: right under every attack of the suite. AUROC: a "
                f"small logit gap as the sign of a successful PGD-{STEPS} attack against clean test images.",
            ),
            *(attack_table(f"Each attack: {arm.name}", suite[arm.name]) for arm in arms[2:4]),
            flag_table("Red flags", suite),
        ],
        facts={
            "accuracy": accuracy,
            "worst_case": {name: [float(standing(kept).mean()) for kept in row] for name, row in suite.items()},
            "auroc": {name: [gap_auroc(kept) for kept in row] for name, row in answered.items()},
        },
    )
