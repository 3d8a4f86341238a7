"""Attackers who know the score: they fool the model and look ordinary, or raise alarms and keep the label."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from softrisk_attacks.adaptive import (
    AdaptiveAttack,
    AlarmFlooding,
    Classifier,
    LogitMimicry,
    QuietPGD,
    Scoring,
    SelectivePGD,
    TargetedSelectivePGD,
    WeightedPGD,
    expected,
)
from softrisk_attacks.apgd import APGD
from softrisk_attacks.attack import run_attack
from softrisk_attacks.black_box import Square
from softrisk_attacks.errors import AttackError
from softrisk_attacks.selective_square import SelectiveSquare

Digits = tuple[NDArray[np.float32], NDArray[np.int64]]
EPSILON, STEPS = 0.15, 30


def gap_of(logits: Tensor) -> Tensor:
    top = logits.topk(2, dim=1).values
    return top[:, 1] - top[:, 0]


def minus_gap(classifier: Classifier, points: Tensor, logits: Tensor) -> Tensor:
    return gap_of(logits)


def too_sure(classifier: Classifier, points: Tensor, logits: Tensor) -> Tensor:
    return -gap_of(logits)


def brightness(classifier: Classifier, points: Tensor, logits: Tensor) -> Tensor:
    return points.mean(dim=(1, 2, 3))


def moved_by_mirroring(classifier: Classifier, points: Tensor, logits: Tensor) -> Tensor:
    return (classifier(points.flip(3)) - logits).abs().mean(dim=1)


def logits_of(model: nn.Module, inputs: NDArray[np.float32]) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(torch.from_numpy(inputs))
    return logits


def evaders(model: nn.Module, digits: Digits) -> list[AdaptiveAttack]:
    return [
        SelectivePGD(EPSILON, minus_gap, STEPS),
        SelectivePGD(EPSILON, minus_gap, STEPS, orthogonal=True),
        WeightedPGD(EPSILON, minus_gap, STEPS, weight=0.3),
        TargetedSelectivePGD(EPSILON, minus_gap, STEPS, 1),
        SelectivePGD(EPSILON, expected([minus_gap, too_sure, minus_gap]), STEPS, surrogate="a guess"),
        QuietPGD(EPSILON, minus_gap, STEPS, 1),
    ]


@pytest.mark.parametrize("kind", range(6))
def test_who_knows_the_score_fools_the_model_and_looks_more_ordinary(
    kind: int, model: nn.Module, digits: Digits
) -> None:
    inputs, labels = digits[0][:150], digits[1][:150]
    ignorant = run_attack(model, inputs, labels, APGD(EPSILON, "margin", STEPS), seed=0)
    knowing = run_attack(model, inputs, labels, evaders(model, digits)[kind], seed=0)
    assert np.abs(knowing.inputs - inputs).max() <= EPSILON + 1e-6
    both = ignorant.fooled & knowing.fooled
    assert both.sum() > 0.6 * ignorant.fooled.sum() > 40
    scores = [gap_of(logits_of(model, outcome.inputs)).numpy()[both] for outcome in (ignorant, knowing)]
    assert np.median(scores[1]) < np.median(scores[0]) - 0.5


@pytest.mark.parametrize("score", [brightness, moved_by_mirroring])
def test_a_score_may_look_at_the_image_and_ask_about_others(score: Scoring, model: nn.Module, digits: Digits) -> None:
    inputs, labels = digits[0][:150], digits[1][:150]
    ignorant = run_attack(model, inputs, labels, APGD(EPSILON, "margin", STEPS), seed=0)
    knowing = run_attack(model, inputs, labels, SelectivePGD(EPSILON, score, STEPS), seed=0)
    both = ignorant.fooled & knowing.fooled
    assert both.sum() > 40
    before, after = (
        score(model, torch.from_numpy(each.inputs), logits_of(model, each.inputs)).detach().numpy()[both]
        for each in (ignorant, knowing)
    )
    assert np.median(after) < 0.97 * np.median(before)


def test_quiet_attacks_move_the_roughest_pixels_and_each_as_it_matters(model: nn.Module, digits: Digits) -> None:
    # The left half of each image is flat.
    inputs, labels = np.pad(digits[0][:60, :, :, 4:], ((0, 0), (0, 0), (0, 0), (4, 0))), digits[1][:60]
    inputs = inputs.astype(np.float32)
    quiet = run_attack(model, inputs, labels, QuietPGD(0.3, minus_gap, STEPS, 2, share=0.3), seed=0)
    change = np.abs(quiet.inputs - inputs)
    assert quiet.fooled.sum() > 10
    assert change[..., :3].max() == 0  # and the fourth column has a neighbour that is not flat
    moved = change[quiet.fooled].reshape(int(quiet.fooled.sum()), -1)
    assert ((moved > 0).mean(axis=1) <= 0.3).all()
    loud = run_attack(model, inputs, labels, SelectivePGD(0.3, minus_gap, STEPS), seed=0)
    assert moved.mean() < np.abs(loud.inputs - inputs)[loud.fooled].mean() / 2


def test_who_aims_at_each_class_finds_the_most_ordinary_of_them(model: nn.Module, digits: Digits) -> None:
    inputs, labels = digits[0][:150], digits[1][:150]

    def unless_three(classifier: Classifier, points: Tensor, logits: Tensor) -> Tensor:
        return (logits.argmax(dim=1) != 3) + 0 * logits[:, 0]

    nearest, every = (
        run_attack(model, inputs, labels, attack, seed=0)
        for attack in (
            SelectivePGD(0.3, unless_three, STEPS, 1),
            TargetedSelectivePGD(0.3, unless_three, STEPS, 1, targets=9),
        )
    )
    threes = [
        (logits_of(model, each.inputs).argmax(dim=1).numpy() == 3)[labels != 3].mean() for each in (nearest, every)
    ]
    assert threes[1] > threes[0] + 0.3


def test_squares_lower_the_score_once_the_label_is_wrong(model: nn.Module, digits: Digits) -> None:
    inputs, labels = digits[0][:100], digits[1][:100]
    ignorant = run_attack(model, inputs, labels, Square(EPSILON, 300), seed=0)
    knowing = run_attack(model, inputs, labels, SelectiveSquare(EPSILON, 300, score=minus_gap), seed=0)
    both = ignorant.fooled & knowing.fooled
    assert both.sum() > 0.6 * ignorant.fooled.sum() > 20
    scores = [gap_of(logits_of(model, outcome.inputs)).numpy()[both] for outcome in (ignorant, knowing)]
    assert np.median(scores[1]) < np.median(scores[0]) - 0.5


def mimicry(model: nn.Module, digits: Digits) -> LogitMimicry:
    return LogitMimicry(EPSILON, minus_gap, STEPS, bank=logits_of(model, digits[0][500:]))


def test_a_mimic_has_logits_like_clean_inputs_of_another_class(model: nn.Module, digits: Digits) -> None:
    inputs, labels = digits[0][:150], digits[1][:150]
    attack = mimicry(model, digits)
    outcome = run_attack(model, inputs, labels, attack, seed=0)
    fooled = outcome.fooled & (logits_of(model, inputs).argmax(dim=1).numpy() == labels)
    assert fooled.sum() > 40
    other = attack.bank.argmax(dim=1)[None] == torch.from_numpy(labels)[:, None]
    before, after = (
        torch.cdist(logits_of(model, each), attack.bank).masked_fill(other, torch.inf).amin(dim=1).numpy()[fooled]
        for each in (inputs, outcome.inputs)
    )
    assert np.median(after) < 0.6 * np.median(before)


def test_a_larger_weight_trades_success_for_a_lower_score(model: nn.Module, digits: Digits) -> None:
    inputs, labels = digits[0][:150], digits[1][:150]
    light, heavy = (
        run_attack(model, inputs, labels, WeightedPGD(EPSILON, too_sure, STEPS, weight=weight), seed=0)
        for weight in (0.0, 100.0)
    )
    assert heavy.fooled.sum() <= light.fooled.sum()
    both = light.fooled & heavy.fooled
    light_scores, heavy_scores = (-gap_of(logits_of(model, each.inputs)).numpy()[both] for each in (light, heavy))
    # The last iterate is not always the kept one: λ = 0 also hands over the most ordinary point that it passed.
    assert np.median(heavy_scores) <= np.median(light_scores) + 1e-3


def test_flooding_raises_scores_and_keeps_every_label(model: nn.Module, digits: Digits) -> None:
    inputs, labels = digits[0][:150], digits[1][:150]
    right = logits_of(model, inputs).argmax(dim=1).numpy() == labels
    outcome = run_attack(model, inputs, labels, AlarmFlooding(0.05, minus_gap, STEPS), seed=0)
    assert not outcome.fooled[right].any()
    before, after = gap_of(logits_of(model, inputs)).numpy(), gap_of(logits_of(model, outcome.inputs)).numpy()
    assert (after >= before - 1e-4)[right].all()
    assert np.median((after - before)[right]) > 1


def test_the_score_is_no_setting_to_write_down(model: nn.Module, digits: Digits) -> None:
    attack = mimicry(model, digits)
    assert attack.settings == {"epsilon": EPSILON, "steps": STEPS, "restarts": 2}
    assert attack.label == f"logit mimicry-{STEPS} ε={EPSILON} ×2"
    guessing = SelectivePGD(EPSILON, minus_gap, STEPS, surrogate="a guess")
    assert guessing.label == f"selective PGD on a guess-{STEPS} ε={EPSILON} ×2"
    targeted = TargetedSelectivePGD(EPSILON, minus_gap, STEPS, 1, targets=2)
    assert targeted.label == f"targeted selective PGD-{STEPS} ε={EPSILON} ×1 ×2 targets"


def test_senseless_settings_are_refused(model: nn.Module, digits: Digits) -> None:
    with pytest.raises(AttackError, match="weight must not be negative"):
        WeightedPGD(EPSILON, minus_gap, weight=-1)
    with pytest.raises(AttackError, match="steps must be at least 1"):
        SelectivePGD(EPSILON, minus_gap, steps=0)
    with pytest.raises(AttackError, match="share of pixels"):
        QuietPGD(EPSILON, minus_gap, share=0.0)
    too_many = TargetedSelectivePGD(EPSILON, minus_gap, 2, targets=10)
    with pytest.raises(AttackError, match="targets must be at most 9"):
        run_attack(model, digits[0][:2], digits[1][:2], too_many, seed=0)
    alike = torch.eye(10)[:1].repeat(5, 1)
    with pytest.raises(AttackError, match="two predicted classes"):
        run_attack(model, digits[0][:2], digits[1][:2], LogitMimicry(EPSILON, minus_gap, 2, bank=alike), seed=0)
