"""The mask engine: run lengths, boxes, suppression, and filtering before upsampling against doing it after."""

import numpy as np
import torch
import torchvision

from hypervision import create_model
from hypervision.masks import (
    Canvas,
    MaskRule,
    Masks,
    boxes_of,
    generate,
    grid_points,
    restore,
    run_lengths,
    stability,
    suppress_boxes,
)


def blobs(count, height, width):
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.normal(size=(count, 1, 5, 6)).astype(np.float32))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[:, 0]


def test_run_lengths_and_boxes_come_back_as_the_masks():
    masks = torch.cat([blobs(9, 17, 23) > 0, torch.zeros(1, 17, 23).bool(), torch.ones(1, 17, 23).bool()])
    found = Masks((17, 23), run_lengths(masks))
    for index, mask in enumerate(masks):
        assert torch.equal(found.mask(index), mask) and sum(found.runs[index]) == 17 * 23
        if mask.any():
            rows, cols = mask.nonzero(as_tuple=True)
            assert boxes_of(masks)[index].tolist() == [cols.min(), rows.min(), cols.max(), rows.max()]
    assert boxes_of(masks)[9].tolist() == [0, 0, 0, 0] and found.runs[10] == [0, 17 * 23]


def test_suppression_is_that_of_torchvision():
    torch.manual_seed(0)
    corner = torch.randint(0, 40, (200, 2))
    boxes = torch.cat([corner, corner + torch.randint(1, 30, (200, 2))], 1)
    score = torch.rand(200)
    assert suppress_boxes(boxes, score, 0.5) == torchvision.ops.nms(boxes.float(), score, 0.5).tolist()


def test_points_and_stability():
    assert grid_points(2).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    sure = torch.full((1, 4, 4), 9.0)
    edge = torch.cat([sure[:, :2], torch.zeros(1, 2, 4)], 1)
    assert stability(sure).item() == 1 and stability(edge).item() == 0.5


@torch.no_grad()
def test_filtering_first_gives_the_masks_of_filtering_last():
    torch.manual_seed(0)
    model = create_model("hypervision_nano")
    for head in model.mask_decoder.output_hypernetworks_mlps:
        head.layers[2].weight.mul_(300)  # spread the logits of random weights
    neck = model.encode(torch.rand(1, 30, 96, 96), [450.0 + 10 * i for i in range(30)], 0.01)[-1]
    scene = model.prepare_masks(neck)
    canvas = Canvas(40, 64, (60 / 96, 1.0))

    def place(points):
        return points * torch.tensor([96.0, 60.0])

    at = place(grid_points(6)[None])[:, :, None]
    logits, iou = model.predict_masks(neck, (96, 96), at, torch.ones(1, 36, 1))
    soft, iou = restore(logits[0].flatten(0, 1), canvas, 96), iou.flatten()
    steady = stability(soft)
    rule = MaskRule(6, 10, float(iou.quantile(0.2)), float(steady.quantile(0.2)))
    good = (iou > rule.pred_iou_thresh) & (steady > rule.stability_score_thresh)
    masks = soft[good] > 0
    kept = suppress_boxes(boxes_of(masks), iou[good], rule.nms_iou)
    (found,) = generate(
        lambda points: model.propose_masks(scene, (12, 12), (96, 96), place(points)),
        [canvas],
        rule,
        torch.device("cpu"),
        96,
    )
    assert 0 < len(found) == len(kept) < len(iou)
    for index, other in enumerate(kept):
        assert torch.equal(found.mask(index), masks[other])


def test_nothing_that_passes_is_no_masks():
    def propose(points):
        return torch.zeros(*points.shape[:2], 3), lambda rows: torch.zeros(len(rows), 3, 8, 8)

    (found,) = generate(propose, [Canvas(9, 9)], MaskRule(2), torch.device("cpu"))
    assert len(found) == 0
