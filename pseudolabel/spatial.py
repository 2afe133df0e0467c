"""SAM2's automatic masks on the RGB rendering, through the `sam2` package."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pseudolabel.config import Sam2Config, require_weights
from pseudolabel.regions import paint
from sharding.errors import ConfigError

Array = NDArray[Any]
CONFIGS = {"tiny": "t", "small": "s", "base_plus": "b+", "large": "l"}


class Sam2Masks:
    """SAM2 loaded once; call it on pictures."""

    def __init__(self, config: Sam2Config, device: str) -> None:
        require_weights("SAM2", config.checkpoint, config.allow_random, "pseudolabel.sam2")
        if config.size not in CONFIGS:
            raise ConfigError(f"pseudolabel.sam2.size {config.size!r} is not one of {', '.join(CONFIGS)}")
        # Importing sam2 initialises Hydra's global state; nothing else of the project imports it.
        from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator
        from sam2.build_sam import build_sam2

        torch.manual_seed(0)
        model = build_sam2(
            f"configs/sam2.1/sam2.1_hiera_{CONFIGS[config.size]}.yaml",
            config.checkpoint,
            device=device,
            hydra_overrides_extra=[f"++model.image_size={config.image_size}"],
        )
        self.generator = SAM2AutomaticMaskGenerator(
            model,
            points_per_side=config.points_per_side,
            pred_iou_thresh=config.pred_iou_thresh,
            stability_score_thresh=config.stability_score_thresh,
        )
        side = config.image_size
        self.generator.predictor._bb_feat_sizes = [(side // s, side // s) for s in (4, 8, 16)]

    def __call__(self, rgb_HW3: Array, valid_HW: Array) -> Array:
        """Label map of the picture; where masks overlap the more confident one wins."""
        with torch.inference_mode():
            found = self.generator.generate(np.ascontiguousarray(rgb_HW3))
        masks = [np.asarray(row["segmentation"], bool) & valid_HW for row in found]
        scores = [float(row["predicted_iou"]) for row in found]
        return paint(masks, scores, valid_HW.shape)
