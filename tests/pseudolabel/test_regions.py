"""Label-map tools on shapes small enough to check by eye."""

import numpy as np

from pseudolabel.regions import (
    absorb_slivers,
    border_shares,
    borders,
    fill_gaps,
    merge_by,
    merge_tree,
    overlay,
    paint,
    relabel,
    snap_borders,
)

TWO = np.repeat([[1, 1, 1, 1, 2, 2, 2, 2]], 8, 0)


def features(labels, values):
    return np.asarray(values, np.float32)[labels][..., None]


def test_fill_gaps_takes_the_nearest_label_and_leaves_invalid_pixels():
    labels = np.array([[1, 0, 0, 2, 0]])
    assert fill_gaps(labels, np.array([[True, True, True, True, False]])).tolist() == [[1, 1, 2, 2, 0]]
    assert fill_gaps(np.zeros((2, 2), int), np.ones((2, 2), bool)).tolist() == [[1, 1], [1, 1]]


def test_paint_lets_the_confident_mask_win_and_the_smaller_at_a_tie():
    big, small = np.ones((2, 4), bool), np.zeros((2, 4), bool)
    small[:, 2:] = True
    assert paint([big, small], [0.5, 0.9], (2, 4)).tolist() == [[1, 1, 2, 2]] * 2
    assert paint([small, big], [0.5, 0.5], (2, 4)).tolist() == [[1, 1, 2, 2]] * 2
    assert len(np.unique(paint([big, small], [0.9, 0.5], (2, 4)))) == 1


def test_overlay_cuts_by_both_and_borders_are_counted():
    pieces = overlay(TWO, TWO.T)
    assert len(np.unique(pieces)) == 4
    assert borders(relabel(TWO)) == {(1, 2): 8}


def test_border_shares_follow_merges():
    labels = np.repeat([[1, 1, 2, 2, 3, 3]], 4, 0)
    spatial = np.repeat([[1, 1, 1, 1, 2, 2]], 4, 0)
    shares = border_shares(labels, spatial)
    assert shares == {(1, 2): (0.0, 4), (2, 3): (4.0, 4)}
    asked = []

    def rule(a, b, share):
        asked.append(share)
        return float((a - b) @ (a - b)), True

    tree = merge_by(labels, np.array([[0.0], [1.0], [1.1], [5.0]]), rule, shares)
    assert asked == [0.0, 1.0, 1.0] and [merge[:2] for merge in tree.merges] == [(1, 2), (3, 4)]
    assert tree.merges[1][3] == np.sqrt(8 * 16 / 24) * (5 - 1.1)  # the brighter one's features stayed


def test_merge_tree_joins_the_closest_first_and_gives_exact_counts():
    labels = np.repeat([[1, 1, 2, 2, 3, 3]], 4, 0)
    tree = merge_tree(labels, [(features(labels, [0, 0.0, 0.1, 1.0]), 1.0)])
    two = tree.cut(count=2)[0]
    assert len(set(two[:4])) == 1 == len(set(two[4:])) and two[0] != two[5]
    assert [len(np.unique(tree.cut(count=n))) for n in (1, 2, 3)] == [1, 2, 3]
    assert len(np.unique(tree.cut(cost=0.5))) == 2


def test_slivers_go_to_the_closest_neighbour_but_thin_real_structure_stays():
    pieces = np.ones((8, 8), int)
    pieces[:, 4] = 2
    pieces[:, 5:] = 3
    shape = features(pieces, [0, 0.0, 0.9, 1.0])
    spectral = np.where(pieces == 1, 1, 2)
    assert len(np.unique(absorb_slivers(pieces, (TWO, spectral), shape))) == 2
    assert len(np.unique(absorb_slivers(pieces, (pieces, pieces), shape))) == 3


def test_snap_moves_a_border_to_where_the_spectra_change():
    true = features(TWO, [0, 0.0, 1.0])
    shifted = np.roll(TWO, 1, 1)
    shifted[:, 0] = 1
    np.testing.assert_array_equal(snap_borders(shifted, true), TWO)
