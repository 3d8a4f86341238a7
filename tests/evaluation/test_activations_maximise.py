"""Activation maximisation on a small trained classifier of digits."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from softrisk_evaluation.activations import maximise as module
from softrisk_evaluation.activations.maximise import Settings, maximise
from softrisk_evaluation.activations.parameterisation import ParameterisationKind
from softrisk_evaluation.activations.quality import measure, transfer
from softrisk_evaluation.activations.targets import Target, answers, class_targets, unit_targets
from softrisk_evaluation.activations.transformations import Transformations, Views, transform
from softrisk_evaluation.errors import EvaluationError
from softrisk_training.checkpoint import build_model, load_checkpoint
from softrisk_training.models import Classifier

SHAPE = (1, 8, 8)
SETTINGS = Settings()
CLASSES = tuple("0123456789")
DIGITS = class_targets(CLASSES, CLASSES)


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Classifier:
    return build_model(load_checkpoint(checkpoint)).requires_grad_(False)


@pytest.fixture(scope="module")
def images(model: Classifier) -> Tensor:
    return maximise(model, SHAPE, DIGITS, [0, 1], SETTINGS)


def test_every_image_is_taken_for_the_class_that_it_was_made_for(model: Classifier, images: Tensor) -> None:
    found = measure(model, images, DIGITS)
    np.testing.assert_array_equal(found.predicted, np.arange(10)[:, None].repeat(2, axis=1))
    assert found.probability.mean() > 0.5


@pytest.mark.parametrize("kind", ["fourier", "pixel"])
def test_the_ascent_raises_the_score(model: Classifier, kind: ParameterisationKind) -> None:
    settings = replace(SETTINGS, parameterisation=kind)
    first, last = (
        measure(model, maximise(model, SHAPE, DIGITS, [0], replace(settings, steps=steps)), DIGITS).score
        for steps in (1, 50)
    )
    assert (first < last).all()


def test_the_same_seed_gives_the_same_image_and_another_one_another(model: Classifier, images: Tensor) -> None:
    assert torch.equal(maximise(model, SHAPE, DIGITS, [0, 1], SETTINGS), images)
    assert (images[:, 0] - images[:, 1]).abs().amax(dim=(1, 2, 3)).min() > 0.01


def test_an_image_does_not_depend_on_what_else_is_asked_for(model: Classifier, images: Tensor) -> None:
    alone = maximise(model, SHAPE, DIGITS[3:4], [1], SETTINGS)
    torch.testing.assert_close(alone[0, 0], images[3, 1], atol=0.01, rtol=0)


def test_the_scale_of_the_logits_does_not_matter(model: Classifier, images: Tensor) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = model.network

        def forward(self, inputs: Tensor) -> Tensor:
            logits: Tensor = self.network(inputs)
            return 64 * logits

    scaled = Classifier(Scaled(), model.mean.flatten().tolist(), model.std.flatten().tolist()).eval()
    torch.testing.assert_close(maximise(scaled, SHAPE, DIGITS, [0, 1], SETTINGS), images, atol=0.01, rtol=0)


def test_every_step_looks_from_somewhere_else(model: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Views] = []

    def spy(images: Tensor, views: Views) -> Tensor:
        seen.append(views)
        return transform(images, views)

    monkeypatch.setattr(module, "transform", spy)
    maximise(model, SHAPE, DIGITS[:2], [0, 1], replace(SETTINGS, steps=6))
    assert [len(views.angles) for views in seen] == [4] * 6
    assert len({(angle, factor) for views in seen for angle, factor in zip(*views[:2], strict=True)}) == 12

    seen.clear()
    maximise(model, SHAPE, DIGITS[:2], [0], replace(SETTINGS, steps=3, transformations=Transformations()))
    assert all((views.angles == 0).all() and (views.factors == 1).all() for views in seen)


def test_penalties_make_images_smoother_and_darker_on_black(model: Classifier) -> None:
    plain, smooth, small = (
        maximise(model, SHAPE, DIGITS, [0], replace(SETTINGS, l2=l2, tv=tv)) for l2, tv in ((0, 0), (0, 30), (30, 0))
    )
    assert measure(model, smooth, DIGITS).total_variation.mean() < measure(model, plain, DIGITS).total_variation.mean()
    distances = [((images - model.mean) / model.std).square().mean() for images in (small, plain)]
    assert distances[0] < distances[1]


def test_rotation_and_scaling_make_the_score_last(model: Classifier, images: Tensor) -> None:
    untransformed = maximise(model, SHAPE, DIGITS, [0, 1], replace(SETTINGS, transformations=Transformations()))
    straight, turned = measure(model, untransformed, DIGITS), measure(model, images, DIGITS)
    assert straight.kept.mean() < turned.kept.mean()
    assert (turned.kept_at_worst <= turned.kept).all()


def test_the_network_itself_as_a_judge_says_what_it_said(model: Classifier, images: Tensor) -> None:
    np.testing.assert_allclose(transfer(model, images, DIGITS), measure(model, images, DIGITS).probability)


def test_a_unit_is_a_channel_of_a_layer(model: Classifier) -> None:
    (unit,) = unit_targets(["network.2:3"], model, torch.zeros(1, *SHAPE))
    found = maximise(model, SHAPE, [unit, *DIGITS[:1]], [0], SETTINGS)
    quality = measure(model, found, [unit, *DIGITS[:1]])
    with torch.no_grad():
        features = model.network[:3]((found[0] - model.mean) / model.std)  # type: ignore[index]
        before, _ = answers(model, model.mean.expand(1, *SHAPE), [unit])
    assert quality.score[0, 0] == pytest.approx(features[0, 3].mean().item(), rel=1e-4)
    assert quality.score[0, 0] > before.item()
    assert np.isnan(quality.probability[0, 0])
    assert not np.isnan(quality.probability[1, 0])


def test_a_neuron_of_a_linear_layer_is_a_unit_too(model: Classifier) -> None:
    last = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)][-1]
    units = unit_targets([f"{last}:{channel}" for channel in range(10)], model, torch.zeros(1, *SHAPE))
    image = torch.rand((10, *SHAPE), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(answers(model, image, units)[0], answers(model, image, DIGITS)[0])


def test_an_unknown_class_is_told_which_there_are() -> None:
    with pytest.raises(EvaluationError, match=r"no class 'cat': choose among 0, 1, 2"):
        class_targets(["cat"], CLASSES)


@pytest.mark.parametrize(
    ("unit", "message"),
    [
        ("network.77:0", r"'network\.77:0' names no layer; .*network\.0 \(8\), .*network\.2 \(8\)"),
        ("network.0", r"a unit is layer:channel, and 'network\.0' names no layer"),
        ("network.0:8", r"network\.0 has no channel '8': it has 8, counted from 0"),
        ("network.0:first", r"network\.0 has no channel 'first'"),
    ],
)
def test_an_unknown_unit_is_told_which_there_are(model: Classifier, unit: str, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        unit_targets([unit], model, torch.zeros(1, *SHAPE))


def test_no_hook_is_left_behind(model: Classifier, images: Tensor) -> None:
    assert not any(module._forward_hooks for module in model.modules())


def test_more_images_than_fit_a_batch_are_all_made(model: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 3)
    moved: list[int] = []
    found = maximise(model, SHAPE, DIGITS[:3], [0, 1], replace(SETTINGS, steps=2), moved.append)
    assert found.shape == (3, 2, *SHAPE)
    assert sum(moved) == 3 * 2 * 2


def test_targets_know_what_they_are() -> None:
    assert DIGITS[4] == Target("4", "", 4)
    assert DIGITS[4].is_class
