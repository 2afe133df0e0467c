"""The picture of a cube is the same whatever the order of its bands, and the right one."""

import numpy as np
import pytest

from sharding.catalog import load_row
from sharding.render import render_rgb, rendering_weights, white_of

ARAD = np.array(load_row("arad_1k_16").known_wavelength_nm)
INFRARED = np.linspace(900.0, 1700.0, 16)
rng = np.random.default_rng(0)
ORDERS = {"falling": np.arange(16)[::-1], "shuffled": rng.permutation(16), "even, then odd": np.r_[0:16:2, 1:16:2]}


def cube_of(wl_C):
    """A line that is blue, green, red and grey, with a little noise."""
    peaks = np.array([450.0, 540.0, 640.0])
    colours = np.exp(-0.5 * ((wl_C[:, None] - peaks) / 30) ** 2)
    line = np.concatenate([colours, np.ones((len(wl_C), 1))], 1)[:, None].repeat(5, 1)
    return (line + np.random.default_rng(1).random(line.shape) * 0.01 * (wl_C / 1000)[:, None, None]).astype(np.float32)


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("wl_C", [np.sort(ARAD), INFRARED], ids=["visible", "infrared"])
def test_any_order_gives_the_same_picture(wl_C, name):
    cube, valid, order = cube_of(wl_C), np.ones((5, 4), bool), ORDERS[name]
    picture, rule = render_rgb(cube, wl_C, valid)
    other, other_rule = render_rgb(cube[order], wl_C[order], valid)
    np.testing.assert_array_equal(other, picture)
    np.testing.assert_array_equal(white_of(cube[order], wl_C[order], valid), white_of(cube, wl_C, valid))
    np.testing.assert_array_equal(rendering_weights(wl_C[order])[0], rendering_weights(wl_C)[0][order])
    assert other_rule == rule


def test_bands_as_the_publisher_has_them_give_right_colours():
    picture, rule = render_rgb(cube_of(ARAD), ARAD, np.ones((5, 4), bool))
    assert rule == "cie1931-srgb" and picture[0, :3].argmax(-1).tolist() == [2, 1, 0]
    grey = picture[0, 3].astype(int)
    assert grey.max() - grey.min() <= 2


def test_a_spectrum_that_is_flat_is_grey_however_unevenly_bands_lie():
    wl_C = np.array([640.0, 450.0, 455.0, 460.0, 465.0, 470.0, 550.0, 600.0])
    picture, _ = render_rgb(np.ones((8, 1, 1), np.float32), wl_C, np.ones((1, 1), bool))
    assert picture.tolist() == [[[255, 255, 255]]]
