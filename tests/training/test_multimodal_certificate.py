"""The radius is never too large, and where encoders are orthonormal no smaller one would do."""

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from softrisk_core.radius import radius
from softrisk_training.errors import TrainingError
from softrisk_training.multimodal.certificate import Lipschitz, certified_radius, certify
from softrisk_training.multimodal.constraints import Orthonormal
from softrisk_training.multimodal.fusion import Fusion, TransformerFusion
from softrisk_training.multimodal.model import MultimodalClassifier

CLASSES, FEATURES = 4, 8
PLANES = ((1, 3, 4), (1, 4, 4))
seeds = st.integers(0, 2**32 - 1)


def linear_model(seed: int, *, orthonormal: bool, fusion: str) -> MultimodalClassifier:
    """Linear encoders in float64, so that the exact radius has a closed form."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    head = Fusion([FEATURES] * 2, CLASSES, scaled=fusion == "orthogonal").double()
    encoders = [nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(plane)), FEATURES).double()) for plane in PLANES]
    model = MultimodalClassifier([nn.Identity(), nn.Identity()], encoders, head).requires_grad_(False)
    for encoder, each in zip(encoders, head.heads, strict=True):
        weight = drawn(*encoder[1].weight.shape)  # type: ignore[misc]
        encoder[1].weight.copy_(torch.linalg.qr(weight.T)[0].T if orthonormal else weight)  # type: ignore[operator]
        rows = drawn(CLASSES, FEATURES)
        each.weight.copy_(Orthonormal()(rows) if fusion == "orthogonal" else rows)  # type: ignore[operator]
    head.bias.copy_(drawn(CLASSES))
    if head.signed_scale is not None:
        head.signed_scale.copy_(drawn(2, CLASSES))
    return model.eval()


def planes(seed: int, count: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, *plane, generator=generator, dtype=torch.float64) for plane in PLANES]


def whole_map(model: MultimodalClassifier) -> list[Tensor]:
    """The matrix from each plane to the logits."""
    return [
        factors[:, None] * cast(Tensor, head.weight) @ cast(Tensor, encoder[1].weight)
        for factors, head, encoder in zip(
            model.fusion.scale, model.fusion.heads, cast(Sequence[nn.Sequential], model.encoders), strict=True
        )
    ]


def nearest_attack(
    model: MultimodalClassifier, given_planes: Sequence[Tensor], moved: Sequence[bool]
) -> tuple[NDArray[np.float64], list[Tensor]]:
    """Closed form: for each row the length of the shortest change that ties label and another class, and the change."""
    logits = model.classify(*given_planes)
    matrices = [matrix * moves for matrix, moves in zip(whole_map(model), moved, strict=True)]
    lengths, changes = [], []
    for row, z in enumerate(logits):
        label = int(z.argmax())
        found = []
        for other in range(CLASSES):
            if other != label:
                slopes = [matrix[label] - matrix[other] for matrix in matrices]
                steepness = torch.cat(slopes).norm()
                gap = z[label] - z[other]
                change = [-gap / steepness**2 * slope for slope in slopes]
                found.append((float(gap / steepness), change))
        length, change = min(found, key=lambda each: each[0])
        lengths.append(length)
        changes.append([part.view_as(plane[row]) for part, plane in zip(change, given_planes, strict=True)])
    return np.array(lengths), [torch.stack(parts) for parts in zip(*changes, strict=True)]


MOVES = ((True, True), (True, False), (False, True))


def bound(model: MultimodalClassifier, at: Sequence[Tensor], moved: Sequence[bool]) -> NDArray[np.float64]:
    constants = certify(model, at).certified
    assert constants is not None
    return radius(model.classify(*at).numpy(), constants[np.array(moved)])


@settings(max_examples=25, deadline=None)
@given(seeds, st.sampled_from(MOVES), st.sampled_from(["linear", "orthogonal"]))
def test_with_orthonormal_encoders_an_attack_attains_the_bound(
    seed: int, moved: tuple[bool, bool], fusion: str
) -> None:
    model, at = linear_model(seed, orthonormal=True, fusion=fusion), planes(seed)
    lengths, changes = nearest_attack(model, at, moved)
    np.testing.assert_allclose(bound(model, at, moved), lengths, rtol=1e-6)
    # It is no bound of paper: just beyond it the label is another one, just below it it is not.
    labels = model.classify(*at).argmax(dim=1)
    for factor, same in ((1 + 1e-6, False), (1 - 1e-6, True)):
        attacked = [plane + factor * change for plane, change in zip(at, changes, strict=True)]
        assert ((model.classify(*attacked).argmax(dim=1) == labels) == same).all()


@settings(max_examples=25, deadline=None)
@given(seeds, st.sampled_from(MOVES), st.sampled_from(["linear", "orthogonal"]))
def test_with_any_linear_encoders_the_bound_is_at_most_the_exact_radius(
    seed: int, moved: tuple[bool, bool], fusion: str
) -> None:
    model, at = linear_model(seed, orthonormal=False, fusion=fusion), planes(seed)
    exact, _ = nearest_attack(model, at, moved)
    assert (bound(model, at, moved) <= exact).all()


def test_the_bound_is_a_useful_part_of_the_exact_radius(record_property: Callable[[str, object], None]) -> None:
    ratios = []
    for seed in range(20):
        model, at = linear_model(seed, orthonormal=False, fusion="linear"), planes(seed)
        exact, _ = nearest_attack(model, at, MOVES[0])
        ratios.append(bound(model, at, MOVES[0]) / exact)
    record_property("bound over exact radius, median", float(np.median(ratios)))
    assert 0.3 < np.median(ratios) < 1


@settings(max_examples=25, deadline=None)
@given(seeds, st.floats(0.1, 10), st.integers(0, 1))
def test_scaling_an_input_scales_its_radius(seed: int, factor: float, modality: int) -> None:
    model, at = linear_model(seed, orthonormal=False, fusion="orthogonal"), planes(seed)
    moved = [position == modality for position in range(2)]
    before = bound(model, at, moved)
    layer = cast(nn.Sequential, model.encoders[modality])[1]
    cast(Tensor, layer.weight).div_(factor)
    at[modality] = at[modality] * factor
    np.testing.assert_allclose(bound(model, at, moved), factor * before, rtol=1e-9)


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_swapping_the_modalities_changes_nothing(seed: int) -> None:
    model, at = linear_model(seed, orthonormal=False, fusion="orthogonal"), planes(seed)
    swapped = Fusion([FEATURES] * 2, CLASSES, scaled=True).double().requires_grad_(False)
    assert swapped.signed_scale is not None
    assert model.fusion.signed_scale is not None
    for mine, theirs in zip(swapped.heads, reversed(list(model.fusion.heads)), strict=True):
        cast(Tensor, mine.weight).copy_(cast(Tensor, theirs.weight))
    swapped.signed_scale.copy_(model.fusion.signed_scale.flip(0))
    swapped.bias.copy_(model.fusion.bias)
    other = MultimodalClassifier([nn.Identity(), nn.Identity()], list(reversed(list(model.encoders))), swapped)
    torch.testing.assert_close(other.classify(*reversed(at)), model.classify(*at))
    for moved in MOVES:
        np.testing.assert_allclose(
            bound(other, list(reversed(at)), list(reversed(moved))), bound(model, at, moved), rtol=1e-9
        )


@settings(max_examples=25, deadline=None)
@given(seeds, st.sampled_from(["linear", "orthogonal"]))
def test_what_is_seen_is_never_more_than_what_is_proved(seed: int, fusion: str) -> None:
    model, at = linear_model(seed, orthonormal=False, fusion=fusion), planes(seed)
    constants = certify(model, at)
    assert constants.certified is not None
    assert constants.estimated is not None
    assert constants.certified.shape == constants.estimated.shape == (2, CLASSES, CLASSES)
    assert (constants.estimated <= constants.certified * (1 + 1e-9)).all()
    np.testing.assert_allclose(constants.certified, constants.certified.transpose(0, 2, 1))
    # Linear encoders have the same gradient everywhere, so that what is seen is exact.
    exact = [torch.cdist(matrix, matrix).numpy() for matrix in whole_map(model)]
    np.testing.assert_allclose(constants.estimated, exact, atol=1e-6)


@pytest.mark.parametrize("distance", [1e-4, 1e-6, 1e-8, 0.0])
def test_of_rows_that_are_nearly_equal_the_distance_is_proved_too(distance: float) -> None:
    model, at = linear_model(0, orthonormal=True, fusion="linear"), planes(0)
    for head in model.fusion.heads:
        weight = cast(Tensor, head.weight)
        weight[1] = weight[0]
        weight[1, 2] += distance
    exact = [float((matrix[0] - matrix[1]).norm()) for matrix in whole_map(model)]
    found = certify(model, at).certified
    assert found is not None
    assert (found[:, 0, 1] >= exact).all()
    np.testing.assert_allclose(found[:, 0, 1], exact, rtol=1e-6)


def test_rounding_is_taken_off_the_lead_of_the_label() -> None:
    constants = np.ones((2, 3, 3)) - np.eye(3)
    logits = np.array([[3.0, 1.0, 0.0], [1.0, 0.9, 0.0]], np.float32)
    exact = certified_radius(logits, Lipschitz(constants, None))
    np.testing.assert_allclose(exact, np.array([2.0, 0.1]) / np.sqrt(2), rtol=1e-6)
    rounded = certified_radius(logits, Lipschitz(constants, None, rounding=0.05))
    np.testing.assert_allclose(rounded, [1.8 / np.sqrt(2), 0.0], rtol=1e-6)
    alone = certified_radius(logits, Lipschitz(constants, None), modality=1)
    np.testing.assert_allclose(alone, [2.0, 0.1], rtol=1e-6)


def test_attention_between_modalities_is_never_certified() -> None:
    torch.manual_seed(0)
    encoders = [nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(plane)), FEATURES)) for plane in PLANES]
    fusion = TransformerFusion(FEATURES, 2, CLASSES)
    model = MultimodalClassifier([nn.Identity(), nn.Identity()], encoders, fusion).eval()
    at = [plane.float() for plane in planes(0)]
    constants = certify(model, at)
    assert constants.certified is None
    assert constants.estimated is not None
    assert (constants.estimated[:, ~np.eye(CLASSES, dtype=bool)] > 0).all()
    with pytest.raises(TrainingError, match="no certified"):
        certified_radius(model.classify(*at).detach().numpy(), constants)
