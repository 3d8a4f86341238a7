"""Controls: models of which it is known what an honest evaluation must find."""

from typing import Final

from softrisk_evaluation.experiments.adversarial import against
from softrisk_evaluation.experiments.answers import answer_cells, curve_table
from softrisk_evaluation.experiments.arms import CE
from softrisk_evaluation.experiments.findings import Findings, percent
from softrisk_evaluation.experiments.setup import Setup, in_words, sampling_error
from softrisk_evaluation.experiments.task import Arm, by_arm, training_cells
from softrisk_evaluation.experiments.worst_case import attack_table, flag_table, standing, suite_cells, twin_seeds
from softrisk_evaluation.tables import Section
from softrisk_training.adversarial import Adversary

SQUEEZED: Final = Arm("logit squeezing, noise", "logit-squeezing", {"weight": 0.5}, {"input_noise": 0.5})
"""With Gaussian noise, the form in which logit squeezing claimed most and was broken (Mosbach et al., 1810.12042)."""

SATURATED: Final = Arm("CE, logits × 1000", "ce", temperature=1e-3)
"""The softmax is exactly one-hot in float32 and the gradient of the cross entropy zero: what defensive distillation
does by its temperature (Carlini & Wagner, arXiv 1608.04644). As robust as CE, to the last image."""


def run(setup: Setup) -> Findings:
    """CE must fall, adversarial training must hold, and what masks gradients must be seen through."""
    study, task, budget, seeds = setup.study, setup.task, setup.budget, setup.seeds
    epsilon = task.training_epsilon
    hardened = against(Adversary("pgd", epsilon, budget.inner_steps), CE)
    arms = [CE, hardened, SQUEEZED, SATURATED]
    expected = {
        CE.name: "falls to 0 as ε grows",
        hardened.name: "holds",
        SQUEEZED.name: "is broken by more than weak PGD",
        SATURATED.name: "is as weak as CE, and raises red flags",
    }
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
        weak = [(kept["attacked"].argmax(axis=1) == kept["labels"]).mean() for kept in answered[arm.name]]
        rows.append(
            (
                arm.name,
                expected[arm.name],
                percent(accuracy[arm.name], 2),
                percent(weak),
                percent([standing(kept).mean() for kept in suite[arm.name]]),
            )
        )
    return Findings(
        title=f"Controls, {setup.data_name}",
        question="Does the suite find what is known of these models?",
        method=(
            *setup.method,
            sampling_error(budget.images),
            f"Full suite on {budget.images} test images: {in_words(budget.effort)}.",
            "Weak PGD: 20 steps, one random start, gradients of the cross entropy.",
        ),
        tables=[
            Section(
                title=f"What is left, ε = {epsilon:.3g}",
                columns=("model", "expected", "clean, %", "weak PGD, %", "worst case, %"),
                rows=tuple(rows),
                note=f"Mean ± sd over {len(seeds)} seeds.",
            ),
            curve_table(arms, answered, setup),
            flag_table("Red flags", suite),
            *(attack_table(f"Each attack: {arm.name}", suite[arm.name]) for arm in arms),
        ],
        facts={
            "accuracy": accuracy,
            "worst_case": {name: [float(standing(kept).mean()) for kept in row] for name, row in suite.items()},
        },
    )
