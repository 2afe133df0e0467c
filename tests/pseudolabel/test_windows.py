"""Windows cover a scene and overlap; a mask cut by windows is one mask after stitching."""

from itertools import pairwise

import numpy as np
import pytest

from pseudolabel.windows import inside, paste, stitch, tiles, windows


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


def test_tiles_lie_side_by_side():
    covered = np.zeros((50, 70), int)
    for window in tiles(50, 70, 32):
        covered[inside(window)] += 1
    assert (covered == 1).all() and tiles(50, 70, 32)[-1] == (32, 64, 18, 6)


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
