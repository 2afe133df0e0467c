"""SAM2's automatic masks on RGB pictures: the `sam2` package's model, the mask engine of our model library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hypervision.masks import Canvas, MaskRule, Masks, generate
from pseudolabel.config import Sam2Config, require_weights
from pseudolabel.spectral import label_map
from sharding.errors import ConfigError

Array = NDArray[Any]
CONFIGS = {"tiny": "t", "small": "s", "base_plus": "b+", "large": "l"}
STRIDES = (4, 8, 16)


class Sam2Masks:
    """SAM2 loaded once; call it on a picture, or `generate` on several."""

    def __init__(self, config: Sam2Config, device: str) -> None:
        require_weights("SAM2", config.checkpoint, config.allow_random, "pseudolabel.sam2")
        if config.size not in CONFIGS:
            raise ConfigError(f"pseudolabel.sam2.size {config.size!r} is not one of {', '.join(CONFIGS)}")
        # Importing sam2 initialises Hydra's global state; nothing else of the project imports it.
        from sam2.build_sam import build_sam2
        from sam2.sam2_image_predictor import SAM2ImagePredictor

        torch.manual_seed(0)
        self.model = build_sam2(
            f"configs/sam2.1/sam2.1_hiera_{CONFIGS[config.size]}.yaml",
            config.checkpoint,
            device=device,
            hydra_overrides_extra=[f"++model.image_size={config.image_size}"],
        )
        self.device, self.side = torch.device(device), config.image_size
        self.predictor = SAM2ImagePredictor(self.model)
        self.predictor._bb_feat_sizes = [(self.side // stride,) * 2 for stride in STRIDES]
        self.rule = MaskRule(
            config.points_per_side, config.points_per_batch, config.pred_iou_thresh, config.stability_score_thresh
        )

    def _decode(self, points_BP2: Tensor) -> tuple[Tensor, Tensor]:
        """One positive point a prompt, all pictures in one call of SAM2's own prompt encoder and decoder."""
        batch, prompts, _ = points_BP2.shape
        features = self.predictor._features
        coords = (points_BP2 * self.side).reshape(batch * prompts, 1, 2)
        labels = torch.ones(batch * prompts, 1, dtype=torch.int, device=self.device)
        sparse, dense = self.model.sam_prompt_encoder(points=(coords, labels), boxes=None, masks=None)
        alone = batch == 1  # then the package repeats the picture itself, and its fine features not at all
        image, fine = features["image_embed"], features["high_res_feats"]
        logits, iou, _, _ = self.model.sam_mask_decoder(
            image_embeddings=image if alone else image.repeat_interleave(prompts, 0),
            image_pe=self.model.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
            repeat_image=alone,
            high_res_features=fine if alone else [level.repeat_interleave(prompts, 0) for level in fine],
        )
        return logits.unflatten(0, (batch, prompts)), iou.unflatten(0, (batch, prompts))

    def generate(self, pictures_HW3: Sequence[Array]) -> list[Masks]:
        """Masks of several pictures, encoded and decoded together."""
        with torch.inference_mode():
            self.predictor.set_image_batch([np.ascontiguousarray(picture) for picture in pictures_HW3])
            canvases = [Canvas(*picture.shape[:2]) for picture in pictures_HW3]
            return generate(self._decode, canvases, self.rule, self.device)

    def __call__(self, rgb_HW3: Array, valid_HW: Array) -> Array:
        """Label map of the picture; where masks overlap the more confident one wins."""
        return label_map(self.generate([rgb_HW3])[0], valid_HW)
