"""Windows cover a scene and overlap; a mask cut by windows is one mask after stitching."""

from itertools import pairwise

import numpy as np
import pytest

from pseudolabel.windows import blocks, inside, paste, stitch, tiled_pixels, tiles, windows


@pytest.mark.parametrize(("height", "width"), [(40, 40), (100, 64), (65, 200), (64, 64)])
def test_windows_cover_everything_are_of_one_size_and_overlap(height, width):
    wins = windows(height, width, 64, 16)
    covered = np.zeros((height, width), int)
    for window in wins:
        assert window[2:] == (min(64, height), min(64, width))
        covered[inside(window)] += 1
    assert covered.min() == 1
    rows = sorted({window[0] for window in wins})
    assert all(b - a <= 64 - 16 for a, b in pairwise(rows))


def cover(wins, height, width):
    """How often each pixel of a scene is in a window; all windows lie inside it."""
    count = np.zeros((height, width), int)
    for y, x, tall, wide in wins:
        assert y >= 0 and x >= 0 and y + tall <= height and x + wide <= width
        count[y : y + tall, x : x + wide] += 1
    return count


def test_blocks_hold_every_pixel_once():
    assert blocks(50, 70, 32) == [
        (0, 0, 32, 32), (0, 32, 32, 32), (0, 64, 32, 6), (32, 0, 18, 32), (32, 32, 18, 32), (32, 64, 18, 6),
    ]  # fmt: skip
    assert (cover(blocks(50, 70, 32), 50, 70) == 1).all()


@pytest.mark.parametrize(
    ("height", "width", "side", "rows", "cols"),
    [
        (100, 100, 96, [0, 4], [0, 4]),
        (200, 200, 96, [0, 96, 104], [0, 96, 104]),
        (1040, 1392, 512, [0, 512, 528], [0, 512, 880]),
        (96, 192, 96, [0], [0, 96]),  # they fit: side by side
        (96, 193, 96, [0], [0, 96, 97]),
    ],
)
def test_the_last_tile_is_moved_back_into_the_scene(height, width, side, rows, cols):
    found = tiles(height, width, side)
    assert found == [(y, x, side, side) for y in rows for x in cols]
    assert (cover(found, height, width) >= 1).all()


def test_a_side_of_a_scene_that_is_shorter_than_a_tile_stays_as_it_is():
    assert tiles(40, 70, 96) == [(0, 0, 40, 70)]
    assert tiles(40, 100, 96) == [(0, 0, 40, 96), (0, 4, 40, 96)]


@pytest.mark.parametrize("side", [16, 17, 31, 64])
def test_tiles_of_any_scene_hold_all_its_pixels_in_rising_order_and_none_twice(side):
    for height in (1, 15, 16, 17, 33, 64, 65, 100):
        for width in (1, 16, 48, 49, 127):
            found = tiles(height, width, side)
            assert found == sorted(set(found)) and len(found) == -(-height // side) * -(-width // side)
            assert {window[2:] for window in found} == {(min(side, height), min(side, width))}
            count = cover(found, height, width)
            assert count.min() == 1 and count.sum() == tiled_pixels(height, width, side)


def cut_apart(truth, wins, seed=0):
    """Each window labels what it sees with numbers of its own, in an order of its own."""
    rng = np.random.default_rng(seed)
    parts = []
    for window in wins:
        own = truth[inside(window)]
        names = rng.permutation(truth.max() + 1) + 1
        parts.append(np.where(own > 0, names[own], 0))
    return parts


def scene():
    truth = np.zeros((120, 150), int)
    truth[10:110, 20:140] = 1  # spans all windows
    truth[30:50, 40:60] = 2
    truth[60:80, 55:75] = 3  # across a seam
    truth[100:118, 0:150] = 4
    return truth


def test_a_mask_cut_by_windows_is_one_mask():
    truth = scene()
    wins = windows(120, 150, 64, 16)
    assert len(wins) == 9
    whole = stitch(wins, cut_apart(truth, wins), truth.shape)
    assert len(np.unique(whole)) == len(np.unique(truth))
    pairs = set(zip(truth.ravel().tolist(), whole.ravel().tolist(), strict=True))
    assert len(pairs) == 5 and (0, 0) in pairs


def test_any_order_of_windows_gives_the_same_map_and_a_missing_one_is_unlabelled():
    truth = scene()
    wins = windows(120, 150, 64, 16)
    parts = cut_apart(truth, wins)
    whole = stitch(wins, parts, truth.shape)
    np.testing.assert_array_equal(whole, stitch(wins[::-1], parts[::-1], truth.shape))
    less = stitch(wins[1:], parts[1:], truth.shape)
    assert not less[:28, :43].any() and (less[70:] > 0).any()
    rgb = paste(wins, [np.repeat(part[..., None], 3, 2) for part in parts], truth.shape)
    assert rgb.shape == (120, 150, 3)


def test_masks_that_disagree_across_an_overlap_stay_apart():
    wins = [(0, 0, 10, 12), (0, 8, 10, 12)]
    first, second = np.ones((10, 12), int), np.ones((10, 12), int)
    second[:, :4] = 0
    second[:2, :4] = 1  # covers a fifth of what the first one does in the overlap
    assert len(np.unique(stitch(wins, [first, second], (10, 20)))) > 2 - 1
    whole = stitch(wins, [first, second], (10, 20))
    assert whole[5, 0] != whole[5, 15]
