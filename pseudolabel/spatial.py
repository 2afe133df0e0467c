"""SAM2's automatic masks on RGB pictures: the `sam2` package's model, the mask engine of our model library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hypervision.masks import Canvas, MaskRule, Masks, Render, generate
from hypervision.meeting import Scene, meet, prepare
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

    def _scene(self) -> Scene:
        """The pictures that were set, for any number of prompts."""
        encoder, embedded = self.model.sam_prompt_encoder, self.predictor._features["image_embed"]
        image = embedded + encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        position = encoder.get_dense_pe().flatten(2).transpose(1, 2)
        return prepare(self.model.sam_mask_decoder.transformer, image.flatten(2).transpose(1, 2), position)

    def _propose(self, scene: Scene, points_BP2: Tensor) -> tuple[Tensor, Render]:
        """One positive point a prompt, all pictures at once, with the modules of SAM2's own decoder in its order."""
        batch, prompts, _ = points_BP2.shape
        features, decoder = self.predictor._features, self.model.sam_mask_decoder
        coords = (points_BP2 * self.side).reshape(batch * prompts, 1, 2)
        labels = torch.ones(batch * prompts, 1, dtype=torch.int, device=self.device)
        sparse, _ = self.model.sam_prompt_encoder(points=(coords, labels), boxes=None, masks=None)
        own = [decoder.iou_token.weight, decoder.mask_tokens.weight]
        first = int(decoder.pred_obj_scores)  # newer models lead with a token that says whether there is an object
        own = [decoder.obj_score_token.weight, *own] if first else own
        tokens = torch.cat([torch.cat(own).expand(len(sparse), -1, -1), sparse], 1)
        token, seen = meet(scene, tokens)
        seen = seen.transpose(1, 2).reshape(len(tokens), -1, *features["image_embed"].shape[2:])
        iou = decoder.iou_prediction_head(token[:, first])[:, 1:]

        def render(chosen: Tensor) -> Tensor:
            widen, norm, act, widen_more, act_more = decoder.output_upscaling
            fine, middle = (level[chosen // prompts] if batch > 1 else level for level in features["high_res_feats"])
            up = act_more(widen_more(act(norm(widen(seen[chosen]) + middle))) + fine)
            masks = token[chosen][:, first + 2 : first + 1 + decoder.num_mask_tokens].unbind(1)
            heads = list(decoder.output_hypernetworks_mlps)[1:]
            weights = torch.stack([head(one) for head, one in zip(heads, masks, strict=True)], 1)
            return torch.einsum("qmc,qchw->qmhw", weights, up)

        return iou.unflatten(0, (batch, prompts)), render

    def generate(self, pictures_HW3: Sequence[Array]) -> list[Masks]:
        """Masks of several pictures, encoded and decoded together."""
        with torch.inference_mode():
            self.predictor.set_image_batch([np.ascontiguousarray(picture) for picture in pictures_HW3])
            canvases = [Canvas(*picture.shape[:2]) for picture in pictures_HW3]
            scene = self._scene()
            return generate(lambda points: self._propose(scene, points), canvases, self.rule, self.device)

    def __call__(self, rgb_HW3: Array, valid_HW: Array) -> Array:
        """Label map of the picture; where masks overlap the more confident one wins."""
        return label_map(self.generate([rgb_HW3])[0], valid_HW)
