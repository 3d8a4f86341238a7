"""Views, parameterisations and measures of images: mathematics that holds for all images."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softrisk_evaluation.activations.measures import fine_energy, likeness, total_variation
from softrisk_evaluation.activations.parameterisation import ParameterisationKind, make_parameterisation
from softrisk_evaluation.activations.transformations import Transformations, Views, transform

angles = st.floats(-180, 180)
factors = st.floats(0.5, 2)
shifts = st.floats(-3, 3)
sides = st.integers(8, 13)


def view(angle: float = 0, factor: float = 1, right: float = 0, down: float = 0) -> Views:
    return Views(np.array([angle]), np.array([factor]), np.array([[right, down]]))


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(deadline=None)
@given(sides, sides)
def test_an_image_looked_at_straight_is_the_image(height: int, width: int) -> None:
    image = noise(1, 3, height, width)
    torch.testing.assert_close(transform(image, view()), image)


@settings(deadline=None)
@given(sides, angles, factors, shifts, shifts)
def test_a_slope_is_seen_where_geometry_says(side: int, angle: float, factor: float, right: float, down: float) -> None:
    # Bilinear interpolation is exact for a slope, so that every pixel tells where it was taken from.
    width = side + 4
    rows = torch.arange(side, dtype=torch.float64)[:, None] - (side - 1) / 2
    columns = torch.arange(width, dtype=torch.float64)[None] - (width - 1) / 2
    image = torch.stack([columns.expand(side, width), rows.expand(side, width)])[None]
    seen = transform(image, view(angle, factor, right, down))[0]
    turned = np.deg2rad(angle)
    x, y = columns - right, rows - down
    from_x = (x * np.cos(turned) - y * np.sin(turned)) / factor
    from_y = (x * np.sin(turned) + y * np.cos(turned)) / factor
    inside = (from_x.abs() <= (width - 1) / 2) & (from_y.abs() <= (side - 1) / 2)
    torch.testing.assert_close(seen[0][inside], from_x[inside])
    torch.testing.assert_close(seen[1][inside], from_y[inside])


def test_a_quarter_turn_is_counter_clockwise() -> None:
    image = noise(1, 1, 9, 9)
    torch.testing.assert_close(transform(image, view(90)), torch.rot90(image, dims=(2, 3)))


def test_beyond_the_border_is_what_the_border_has() -> None:
    image = torch.full((1, 1, 8, 8), 0.3)
    torch.testing.assert_close(transform(image, view(33, 0.5, 2, -1)), image)


@pytest.mark.parametrize(("angle", "factor", "right"), [(0, 1, 0), (17, 1, 0), (0, 1.2, 0), (-40, 0.8, 1.3)])
def test_the_gradient_of_the_resampling_is_right(angle: float, factor: float, right: float) -> None:
    image = noise(1, 2, 6, 7).requires_grad_()
    assert torch.autograd.gradcheck(lambda pixels: transform(pixels, view(angle, factor, right)), (image,))


@settings(deadline=None)
@given(st.integers(0, 1000))
def test_views_are_drawn_afresh_within_their_ranges(seed: int) -> None:
    transformations = Transformations(rotation=10, scaling=0.25, jitter=2)
    generators = [np.random.default_rng([seed, index]) for index in range(3)]
    drawn = [transformations.draw(generators) for _ in range(5)]
    every = np.concatenate([np.column_stack([each.angles, each.factors, each.shifts]) for each in drawn])
    assert len(np.unique(every, axis=0)) == 15
    assert (np.abs(every[:, 0]) <= 10).all()
    assert ((every[:, 1] >= 0.8) & (every[:, 1] <= 1.25)).all()
    assert (np.abs(every[:, 2:]) <= 2).all()


def test_leaving_out_a_transformation_leaves_the_others_as_they_were() -> None:
    both = Transformations(10, 0.2).draw([np.random.default_rng(0)])
    scaled = Transformations(0, 0.2).draw([np.random.default_rng(0)])
    assert scaled.angles == 0
    assert scaled.factors == both.factors


@pytest.mark.parametrize("kind", ["fourier", "pixel"])
@pytest.mark.parametrize("shape", [(1, 8, 9), (3, 9, 8)])
@settings(deadline=None)
@given(size=st.floats(0, 1e4), seed=st.integers(0, 100))
def test_whatever_the_parameters_pixels_are_in_the_unit_interval(
    kind: ParameterisationKind, shape: tuple[int, int, int], size: float, seed: int
) -> None:
    form = make_parameterisation(kind, torch.full((1, shape[0], 1, 1), 0.3), *shape[1:])
    generator = torch.Generator().manual_seed(seed)
    images = form.images(size * form.start(torch.randn((2, *shape), generator=generator)))
    assert images.shape == (2, *shape)
    assert ((images >= 0) & (images <= 1)).all()


@pytest.mark.parametrize("kind", ["fourier", "pixel"])
def test_the_ascent_begins_with_noise_about_the_mean_colour(kind: ParameterisationKind) -> None:
    mean = torch.tensor([0.2, 0.5, 0.7]).view(1, 3, 1, 1)
    form = make_parameterisation(kind, mean, 16, 16)
    start = form.start(torch.randn((1, 3, 16, 16), generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(form.images(0 * start), mean.expand(1, 3, 16, 16))
    away = (form.images(start) - mean).std()
    assert 0.1 < away < 0.3


def test_total_variation_is_the_difference_of_neighbours() -> None:
    stripes = torch.zeros(1, 1, 4, 5)
    stripes[..., ::2] = 0.5
    assert total_variation(stripes).item() == pytest.approx(0.5)
    assert total_variation(torch.full((1, 3, 4, 4), 0.7)).item() == 0


def test_fine_energy_tells_grain_from_shapes() -> None:
    rows = torch.arange(16)[:, None].expand(16, 16)
    wave = torch.sin(2 * np.pi * rows / 16)
    grain = (-1.0) ** (rows + rows.T)
    images = torch.stack([wave, grain, torch.ones(16, 16), wave * 2**0.5 + grain])[:, None]
    np.testing.assert_allclose(fine_energy(images), [0, 1, 0, 0.5], atol=1e-9)


def test_likeness_is_the_correlation_of_the_pixels() -> None:
    image = noise(1, 1, 6, 6)[0]
    groups = torch.stack([torch.stack([image, 0.5 * image + 0.1]), torch.stack([image, 1 - image])])
    np.testing.assert_allclose(likeness(groups), [1, -1])
