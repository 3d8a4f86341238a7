"""Probes: what each does to an image, and that it is always the same."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from softrisk_core.errors import CalibrationError
from softrisk_core.probes import NOISE_SCALE, PROBES, Probe, draw_noise, make_probes

Images = NDArray[np.float32]

small_images = arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.sampled_from([1, 3]), st.integers(1, 6), st.integers(1, 6)),
    elements=st.floats(0, 1, width=32),
)


def probe(name: str, images: Images) -> Probe:
    (found,) = make_probes([name], draw_noise(images.shape[1:], seed=0))
    return found


@pytest.mark.parametrize("name", PROBES)
@given(images=small_images)
def test_shape_type_and_range_are_kept(name: str, images: Images) -> None:
    before = images.copy()
    found = probe(name, images)(images)
    assert found.shape == images.shape
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert found.max() <= 1
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize("name", PROBES)
@given(images=small_images)
def test_what_is_done_to_an_image_does_not_depend_on_the_batch(name: str, images: Images) -> None:
    change = probe(name, images)
    np.testing.assert_array_equal(change(images), np.concatenate([change(image[None]) for image in images]))


@given(small_images)
def test_a_flip_mirrors_left_for_right_and_twice_is_nothing(images: Images) -> None:
    flip = probe("flip", images)
    np.testing.assert_array_equal(flip(images), images[..., ::-1])
    np.testing.assert_array_equal(flip(flip(images)), images)


def test_a_shift_goes_down_and_to_the_left_and_repeats_the_border() -> None:
    image = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], np.float32)[None, None]
    np.testing.assert_array_equal(probe("shift", image)(image)[0, 0], [[2, 3, 3], [2, 3, 3], [5, 6, 6]])


def test_a_blur_is_the_binomial_filter_and_repeats_the_border() -> None:
    point = np.zeros((1, 1, 5, 5), np.float32)
    point[0, 0, 2, 2] = 1
    binomial = np.outer([1, 2, 1], [1, 2, 1]) / 16
    np.testing.assert_array_equal(probe("blur", point)(point)[0, 0, 1:4, 1:4], binomial)
    assert probe("blur", point)(point).sum() == 1
    corner = np.zeros((1, 1, 5, 5), np.float32)
    corner[0, 0, 0, 0] = 1
    np.testing.assert_array_equal(probe("blur", corner)(corner)[0, 0, :2, :2], np.outer([3, 1], [3, 1]) / 16)


def test_grey_levels_leaves_eight_and_black_and_white_as_they_are() -> None:
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(1, 1, 16, 16)
    found = probe("grey-levels", ramp)(ramp)
    assert np.unique(found).size == 8
    assert (found.min(), found.max()) == (0, 1)
    assert np.abs(found - ramp).max() <= 1 / 14 + 1e-6


def test_noise_is_drawn_once_and_the_same_for_every_image() -> None:
    noise = draw_noise((3, 40, 40), seed=0)
    np.testing.assert_array_equal(noise, draw_noise((3, 40, 40), seed=0))
    assert (noise != draw_noise((3, 40, 40), seed=1)).any()
    assert noise.std() == pytest.approx(NOISE_SCALE, rel=0.05)
    assert noise.dtype == np.float32
    grey = np.full((2, 3, 40, 40), 0.5, np.float32)
    (change,) = make_probes(["noise"], noise)
    np.testing.assert_array_equal(change(grey), change(grey))
    np.testing.assert_allclose(change(grey) - grey, np.stack([noise, noise]), atol=1e-6)


@given(st.permutations(PROBES), st.integers(1, len(PROBES)))
def test_probes_run_in_one_order_however_they_are_named(names: list[str], count: int) -> None:
    made = [each.name for each in make_probes(names[:count], draw_noise((1, 2, 2), 0))]
    assert made == [name for name in PROBES if name in names[:count]]


@pytest.mark.parametrize("names", [(), ("flip", "flip"), ("mirror",), ("blur", "Flip")])
def test_other_names_are_refused_with_the_known_ones(names: tuple[str, ...]) -> None:
    with pytest.raises(CalibrationError, match="some of flip, shift, noise, grey-levels, blur, each once; got"):
        make_probes(names, draw_noise((1, 2, 2), 0))
