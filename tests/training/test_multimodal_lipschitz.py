"""Bounds hold against the exact norms of whole operators, and against what float32 computes."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from softrisk_training.errors import TrainingError
from softrisk_training.multimodal.constraints import AlmostOrthogonal, Orthonormal, UnitRows
from softrisk_training.multimodal.encoders import ENCODERS, EncoderName, build_encoder
from softrisk_training.multimodal.lipschitz import bound_network, convolution_norm, linear_norm

sizes = st.integers(1, 4)
seeds = st.integers(0, 2**32 - 1)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def operator_norm(kernel: Tensor, height: int, width: int) -> float:
    """Of the convolution with zeros around, by way of its whole matrix."""
    basis = torch.eye(kernel.shape[1] * height * width, dtype=torch.float64).view(-1, kernel.shape[1], height, width)
    matrix = nn.functional.conv2d(basis, kernel, padding=kernel.shape[-1] // 2).flatten(1)
    return float(torch.linalg.matrix_norm(matrix, 2))


@settings(max_examples=40, deadline=None)
@given(sizes, sizes, st.sampled_from([1, 3, 5]), st.integers(3, 7), st.integers(3, 7), seeds)
def test_the_bound_of_a_convolution_is_sound(
    outputs: int, inputs: int, size: int, height: int, width: int, seed: int
) -> None:
    kernel = drawn(seed, outputs, inputs, size, size)
    assert operator_norm(kernel, height, width) <= convolution_norm(kernel.numpy(), height, width)


@settings(max_examples=10, deadline=None)
@given(sizes, sizes, seeds)
def test_the_bound_of_a_convolution_is_close_for_images_larger_than_its_kernel(
    outputs: int, inputs: int, seed: int
) -> None:
    kernel = drawn(seed, outputs, inputs, 3, 3)
    assert convolution_norm(kernel.numpy(), 10, 9) <= 1.2 * operator_norm(kernel, 10, 9)


@settings(max_examples=40, deadline=None)
@given(sizes, sizes, st.sampled_from([1, 3]), seeds)
def test_almost_orthogonal_convolutions_have_norm_at_most_one(outputs: int, inputs: int, size: int, seed: int) -> None:
    kernel = AlmostOrthogonal()(drawn(seed, outputs, inputs, size, size))
    assert operator_norm(kernel, 6, 5) <= 1 + 1e-9


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), seeds)
def test_almost_orthogonal_matrices_have_norm_at_most_one(outputs: int, inputs: int, seed: int) -> None:
    assert linear_norm(AlmostOrthogonal()(drawn(seed, outputs, inputs)).numpy()) <= 1 + 1e-8


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 10), seeds)
def test_orthonormal_rows_are_orthonormal_and_without_mean(classes: int, seed: int) -> None:
    rows = Orthonormal()(drawn(seed, classes, 24))
    torch.testing.assert_close(rows @ rows.T, torch.eye(classes, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(rows.sum(dim=1), torch.zeros(classes, dtype=torch.float64), atol=1e-9, rtol=0)


def test_the_authors_rows_are_of_norm_one_but_not_orthogonal() -> None:
    rows = UnitRows()(drawn(0, 5, 16))
    products = rows @ rows.T
    torch.testing.assert_close(products.diagonal(), torch.ones(5, dtype=torch.float64))
    assert (products - torch.eye(5)).abs().max() > 0.1


@pytest.mark.parametrize("name", list(ENCODERS))
def test_no_two_planes_contradict_the_bound_of_an_encoder(name: EncoderName) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(name, (1, 8, 12), width=4, features=16, mean=0.3, std=0.2).double()
    assert isinstance(encoder, nn.Sequential)
    bound = bound_network(encoder, (1, 8, 12), norm=20.0)
    first = torch.rand(200, 1, 8, 12, dtype=torch.float64)
    for second in (torch.rand_like(first), first + 1e-4 * torch.randn_like(first)):
        moved = (encoder(second) - encoder(first)).norm(dim=1)
        assert (moved <= bound.slope * (second - first).flatten(1).norm(dim=1)).all()
    assert (encoder(first).norm(dim=1) <= bound.norm).all()
    assert bound.shape == (16,)


@pytest.mark.parametrize("name", list(ENCODERS))
def test_float32_stays_within_its_bound(name: EncoderName) -> None:
    torch.manual_seed(1)
    encoder = build_encoder(name, (1, 8, 8), width=4, features=16, mean=0.1, std=0.3)
    assert isinstance(encoder, nn.Sequential)
    planes = torch.rand(100, 1, 8, 8)
    bound = bound_network(encoder, (1, 8, 8), norm=8.0)
    single = encoder(planes).detach().double()
    exact = encoder.double()(planes.double())
    error = (single - exact).norm(dim=1).max()
    assert 0 < error <= bound.rounding < 1.0


def test_steeper_layers_have_larger_bounds() -> None:
    def bound(factor: float) -> float:
        torch.manual_seed(0)
        layers = [nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4)]
        with torch.no_grad():
            layers[1].weight.mul_(factor)  # type: ignore[operator]
        return bound_network(layers, (1, 3, 4), 1.0).slope

    slopes = [bound(factor) for factor in (0.5, 1.0, 2.0)]
    assert all(high == pytest.approx(2 * low) for low, high in pairwise(slopes))


def test_a_layer_without_a_known_bound_is_refused() -> None:
    for layer in (
        nn.BatchNorm2d(2),
        nn.Conv2d(2, 2, 3, stride=2, padding=1),
        nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"),
        nn.MaxPool2d(3, stride=1),
        nn.MaxPool2d(2, dilation=2),
        nn.MaxPool2d((2, 2)),
        nn.GELU(),
    ):
        with pytest.raises(TrainingError, match="no Lipschitz bound is known"):
            bound_network([layer], (2, 8, 8), 1.0)
    assert np.isfinite(bound_network([nn.MaxPool2d(2)], (2, 8, 8), 1.0).slope)
