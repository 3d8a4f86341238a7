"""Attacks on several inputs stay in their ball, move what they may, and find what there is to find."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from softrisk_attacks.errors import AttackError
from softrisk_attacks.joint import Ball, joint_ascent, joint_norm, random_start

SEED = torch.Generator().manual_seed(0)
FIRST, SECOND = torch.randn(3, 6, generator=SEED), torch.randn(3, 4, generator=SEED)
MOVES = st.sampled_from([(True, True), (True, False), (False, True)])


def linear(first: Tensor, second: Tensor) -> Tensor:
    return first @ FIRST.T + second @ SECOND.T


def inputs(count: int = 8) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(1)
    points = [torch.rand(count, 6, generator=generator), torch.rand(count, 4, generator=generator)]
    return points, linear(*points).argmax(dim=1)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.01, 5), MOVES, st.integers(0, 2**31))
def test_what_is_found_lies_in_the_ball_and_the_domain(epsilon: float, moved: tuple[bool, bool], seed: int) -> None:
    centres, labels = inputs()
    ball = Ball(epsilon, moved, ((0.0, 1.0), None))
    start = random_start(centres, ball, np.random.default_rng(seed))
    found = joint_ascent(
        linear, centres, labels, ball, steps=5, step_size=epsilon, objective="cross-entropy", start=start
    )
    for points in (start, found):
        assert (joint_norm([new - old for new, old in zip(points, centres, strict=True)]) <= epsilon * 1.00001).all()
        assert ((points[0] >= 0) & (points[0] <= 1)).all()
        for point, centre, moves in zip(points, centres, moved, strict=True):
            assert moves or torch.equal(point, centre)


def test_of_a_linear_model_the_nearest_border_is_found_and_none_before_it() -> None:
    centres, labels = inputs()
    logits, slopes = linear(*centres), torch.cat([FIRST, SECOND], dim=1)
    gaps = logits.gather(1, labels[:, None]) - logits
    distances = gaps / (slopes[labels][:, None] - slopes).norm(dim=2).clamp(min=1e-9)
    distances = distances.scatter(1, labels[:, None], torch.inf)
    nearest, targets = distances.min(dim=1)
    for row in range(len(labels)):
        one = [centre[row : row + 1] for centre in centres]
        for factor, turned in ((1.02, True), (0.98, False)):
            ball = Ball(float(nearest[row]) * factor, (True, True), (None, None))
            found = joint_ascent(
                linear,
                one,
                labels[row : row + 1],
                ball,
                steps=20,
                step_size=ball.epsilon / 5,
                objective="target",
                targets=targets[row : row + 1],
            )
            assert bool(linear(*found).argmax(dim=1) != labels[row]) == turned


def test_the_best_point_on_the_way_is_kept() -> None:
    centres, labels = inputs()
    ball = Ball(1.0, (True, True), (None, None))
    margins = []
    for steps in (1, 3, 10):
        found = joint_ascent(linear, centres, labels, ball, steps=steps, step_size=3.0, objective="margin")
        logits = linear(*found)
        wrong = logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
        margins.append(wrong - logits.gather(1, labels[:, None])[:, 0])
    assert (margins[1] >= margins[0] - 1e-6).all()
    assert (margins[2] >= margins[1] - 1e-6).all()


def test_balls_that_make_no_sense_are_refused() -> None:
    for arguments in ((0.0, (True,), (None,)), (1.0, (False,), (None,)), (1.0, (True, True), (None,))):
        with pytest.raises(AttackError, match="a ball needs"):
            Ball(*arguments)
