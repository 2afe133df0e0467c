"""What masks are worth is measured against the label, and so are the answers that need no net."""

import numpy as np
import pytest
import torch

from hypervision import FeatureInfo
from pretrain.mask_scores import clicks, disc, mask_row, score_picture, summary, words


class Draws:
    """A student that answers every prompt with one mask, and deems it so good."""

    def __init__(self, mask_HW, quality):
        self.feature_info = (FeatureInfo("neck", 4, 8),)
        self.mask, self.quality = torch.from_numpy(mask_HW.astype(np.float32)), quality

    def predict_masks(self, _, image_hw, points_BPN2=None, boxes_BP4=None, **_labels):
        assert image_hw == (24, 40)
        prompts = (points_BPN2 if boxes_BP4 is None else boxes_BP4).shape[1]
        logits = (self.mask - 0.5).expand(1, prompts, 3, -1, -1)
        return logits, torch.tensor([0.1, self.quality, 0.0]).expand(1, prompts, 3)


def picture():
    """20 x 36 pixels: a square of 8 x 8 and a strip of 4 x 12 on nothing, each of its own colour."""
    labels = np.zeros((20, 36), int)
    labels[4:12, 2:10], labels[14:18, 20:32] = 1, 2
    rgb = np.array([[0, 0, 0], [250, 20, 20], [20, 20, 250]], np.uint8)[labels]
    return labels, rgb


def test_scores_are_those_written_down_by_hand():
    labels, rgb = picture()
    whole = np.zeros((24, 40))
    whole[4:12, 2:10] = 1  # what the student draws is the square, whatever it is asked
    square, strip = score_picture(Draws(whole, 0.75), torch.zeros(1, 4, 3, 5), labels, rgb)
    assert (square.click_iou, square.box_iou, square.filled_box_iou) == (1.0, 1.0, 1.0)
    assert (strip.click_iou, strip.box_iou, strip.filled_box_iou) == (0.0, 0.0, 1.0)
    assert square.iou_error == pytest.approx(0.25) and strip.iou_error == pytest.approx(0.75)
    assert square.share == pytest.approx(64 / 720)
    assert min(square.segment_iou, strip.segment_iou) > 0.6  # Felzenszwalb finds flat fields, but for smoothed edges
    assert 0.6 < square.disc_iou < 0.9 and strip.disc_iou < 0.7  # of (64 + 48) / 2 pixels


def test_a_student_that_predicts_nothing_is_seen():
    labels, rgb = picture()
    row = mask_row(score_picture(Draws(np.zeros((24, 40)), 0.0), torch.zeros(1, 4, 3, 5), labels, rgb))
    assert row["mask/click_iou"] == row["mask/box_iou"] == row["mask/share"] == 0 and row["mask/iou_error"] == 0.1
    assert row["mask/masks"] == 2 and "click IoU 0.00 (disc" in words({k[5:]: v for k, v in row.items()})


def test_a_picture_without_labels_has_no_scores():
    labels, rgb = picture()
    assert score_picture(Draws(np.zeros((24, 40)), 0.0), torch.zeros(1, 4, 3, 5), 0 * labels, rgb) == []
    assert summary([]) == {} and mask_row([]) == {}


def test_clicks_lie_deep_inside_their_labels():
    labels = np.zeros((20, 20), int)
    labels[2:13, 4:15], labels[15:18, :] = 7, 3
    ids, points = clicks(labels)
    assert ids == [7, 3] and points[0].tolist() == [9.0, 7.0] and points[1, 1] == 16


def test_a_disc_has_its_area_and_ends_at_the_edge():
    inside = disc(np.array([20.0, 20.0]), 100.0, (41, 41))
    assert abs(int(inside.sum()) - 100) < 8 and inside[20, 20]
    assert disc(np.array([0.0, 0.0]), 100.0, (41, 41)).sum() < 45
