"""Roughness: what a Laplacian leaves of an image."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from softrisk_core.roughness import FLOOR, TINY, filters, roughness, roughness_names

Images = NDArray[np.float32]

images_of_any_kind = arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.sampled_from([1, 2, 3]), st.integers(3, 6), st.integers(3, 6)),
    elements=st.floats(0, 1, width=32),
)


def value(images: Images, name: str) -> NDArray[np.float64]:
    """One of the values, by name."""
    return roughness(images)[:, roughness_names(images.shape[1]).index(name)]


def smooth(channels: int) -> Images:
    """Four images of slowly changing brightness, alike in all channels."""
    x = np.linspace(0, 1, 24)
    grey = [0.5 + 0.25 * np.sin(k * x)[:, None] * np.cos(k * x)[None] for k in (1, 2, 3, 4)]
    return np.repeat(np.array(grey, np.float32)[:, None], channels, axis=1)


@given(images_of_any_kind)
def test_every_value_has_a_name_and_is_finite(images: Images) -> None:
    found = roughness(images)
    assert found.shape == (len(images), len(roughness_names(images.shape[1])))
    assert np.isfinite(found).all()


def test_grey_images_have_no_colours() -> None:
    assert roughness_names(1) == ("pixel-mean", "pixel-log", "pixel-floor", "pixel-peak")
    assert len(roughness_names(3)) == 9
    assert [layer.shape for layer in filters(3)] == [(3, 3, 3, 3), (2, 3, 3, 3)]


@pytest.mark.parametrize("channels", [1, 3])
def test_constant_images_and_constant_slopes_have_no_roughness(channels: int) -> None:
    slope = np.linspace(0.2, 0.8, 8)[:, None] + np.linspace(0, 0.2, 8)[None]
    for image in (np.full((8, 8), 0.5), slope):
        images = np.repeat(image[None, None], channels, axis=1).astype(np.float32)
        np.testing.assert_allclose(value(images, "pixel-mean"), np.log(TINY), atol=0.1)
        np.testing.assert_allclose(value(images, "pixel-log"), np.log(FLOOR), atol=1e-3)


@given(images_of_any_kind)
def test_mirrored_and_turned_images_are_as_rough(images: Images) -> None:
    for other in (images[..., ::-1], images[:, :, ::-1], images.swapaxes(2, 3)):
        np.testing.assert_allclose(roughness(other), roughness(images), rtol=1e-9, atol=1e-9)


@given(images_of_any_kind)
def test_negatives_are_as_rough(images: Images) -> None:
    np.testing.assert_allclose(roughness(1 - images), roughness(images), atol=1e-2)


def test_the_filter_keeps_the_scale_of_white_noise() -> None:
    noise = np.random.default_rng(0).normal(0.5, 0.05, (2, 1, 200, 200)).astype(np.float32)
    # Of a normal variable the mean size is √(2/π) of its standard deviation.
    np.testing.assert_allclose(np.exp(value(noise, "pixel-mean")), 0.05 * np.sqrt(2 / np.pi), rtol=0.02)


@pytest.mark.parametrize("channels", [1, 3])
def test_noise_raises_the_floor_by_its_size(channels: int) -> None:
    clean = smooth(channels)
    noise = np.random.default_rng(0).choice([-1, 1], clean.shape)
    sizes = (1 / 255, 2 / 255, 4 / 255, 8 / 255)
    for name in ("pixel-mean", "pixel-log", *(("colour-log",) if channels == 3 else ())):
        levels = np.array([value((clean + size * noise).astype(np.float32), name) for size in (0, *sizes)])
        assert (np.diff(levels, axis=0) > 0).all(), name


def test_noise_of_its_own_in_each_channel_is_more_colour_than_brightness() -> None:
    clean = smooth(3)
    generator = np.random.default_rng(0)
    alike = clean + 4 / 255 * np.repeat(generator.choice([-1, 1], clean[:, :1].shape), 3, axis=1)
    each = clean + 4 / 255 * generator.choice([-1, 1], clean.shape)
    assert (value(alike.astype(np.float32), "colour-to-pixel") < -1).all()
    assert (value(each.astype(np.float32), "colour-to-pixel") > 0).all()


def test_a_single_speck_is_more_of_a_peak_than_noise_everywhere() -> None:
    speck = np.full((1, 1, 24, 24), 0.5, np.float32)
    speck[..., 12, 12] = 1
    noise = speck + np.random.default_rng(0).normal(0, 0.02, speck.shape).astype(np.float32)
    assert value(speck, "pixel-peak") < value(noise, "pixel-peak")
