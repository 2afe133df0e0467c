"""The whole model behind one name: encoder, prompt encoder, mask decoder; `create_model`, `list_models`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hypervision.backbone import FeatureInfo
from hypervision.bands import RULES, Plan
from hypervision.checkpoint import load_weights, read_options
from hypervision.decoder import MaskDecoder, PromptEncoder
from hypervision.encoder import ImageEncoder
from hypervision.masks import Render
from hypervision.meeting import Scene
from hypervision.sizes import SIZES, ModelSize, resolve_size

# Tables of relative position, and the embeddings of prompts, of "no mask" and of the decoder's own tokens.
NO_DECAY = ("rel_pos_", "_embeddings.", "_embed.", "iou_token.", "mask_tokens.")

Wavelengths = Sequence[float] | Sequence[Sequence[float]] | Tensor


def as_plans(wavelength_nm: Wavelengths, batch: int, channels: int, rule: str = "nearest") -> list[Plan]:
    """One band plan per sample from one wavelength list for the batch or one per sample."""
    lists: list[Any] = wavelength_nm.tolist() if isinstance(wavelength_nm, Tensor) else list(wavelength_nm)
    per_sample = bool(lists) and hasattr(lists[0], "__len__")
    if not per_sample:
        lists = [lists] * batch
    if len(lists) != batch:
        raise ValueError(f"{len(lists)} wavelength lists for a batch of {batch}: give one list, or one per sample")
    plans = [RULES[rule](tuple(float(nm) for nm in one)) for one in lists]
    for index, plan in enumerate(plans):
        if plan.bands > channels or (not per_sample and plan.bands != channels):
            raise ValueError(f"sample {index} has {channels} bands but {plan.bands} wavelengths")
    return plans


@lru_cache(maxsize=256)
def tell_far(plan: Plan) -> None:
    """Warn, once for each camera, of bands that no key wavelength is near to."""
    if plan.far:
        some = ", ".join(map(str, plan.far[:8])) + (", ..." if len(plan.far) > 8 else "")
        warnings.warn(
            f"{len(plan.far)} of {plan.bands} bands are too far from every key wavelength, the model does not see "
            f"them: {some}",
            stacklevel=3,
        )


class HyperModel(nn.Module):
    """A channel-adaptive backbone with SAM's promptable decoder. Build it with `create_model`."""

    def __init__(self, name: str, size: ModelSize) -> None:
        super().__init__()
        self.name, self.size = name, size
        self.image_encoder = ImageEncoder(size)
        self.prompt_encoder = PromptEncoder(size.neck_dim)
        self.mask_decoder = MaskDecoder(size.neck_dim)

    def encode(self, cube_BCHW: Tensor, wavelength_nm: Wavelengths, gsd_m: float | Sequence[float]) -> list[Tensor]:
        """Feature maps of a batch of cubes.

        Args:
            cube_BCHW: float cubes; in input mode "public" each divided by its maximum. Samples with fewer bands
                than C are padded with zero bands at the end.
            wavelength_nm: band centres in nanometres, one list for the batch or one per sample.
            gsd_m: ground sampling distance in metres, one for the batch or one per sample.

        Returns:
            The taps in order, then the neck, each [B, D, h, w].

        Raises:
            ValueError: sizes or wavelengths that do not fit, or a value that is not finite.
        """
        batch, channels, height, width = cube_BCHW.shape
        patch = self.size.patch_size
        if height % patch or width % patch:
            raise ValueError(f"cube is {height} x {width}: pad it to a multiple of the patch size {patch}")
        plans = as_plans(wavelength_nm, batch, channels, self.size.embedding)
        # A sum is many times cheaper to look at, and is not finite if a value is not.
        if not bool(torch.isfinite(cube_BCHW.sum())) and not bool(torch.isfinite(cube_BCHW).all()):
            raise ValueError("cube holds NaN or infinite values: set invalid pixels to 0 first")
        gsd = [float(gsd_m)] * batch if isinstance(gsd_m, (int, float)) else [float(g) for g in gsd_m]
        if not self.training:  # training draws bands at random, for which nobody is to blame
            for plan in plans:
                tell_far(plan)
        if len(gsd) != batch:
            raise ValueError(f"{len(gsd)} gsd values for a batch of {batch}")
        return self.image_encoder(cube_BCHW, plans, torch.tensor(gsd, device=cube_BCHW.device))  # type: ignore[no-any-return]

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """Name, channels and stride of the embedding and of each map of `encode`: [1:] are its maps in order."""
        return self.image_encoder.feature_info

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay would only harm: norms, biases, tables and tokens."""
        return {
            name
            for name, parameter in self.named_parameters()
            if parameter.ndim < 2 or any(word in name for word in NO_DECAY)
        }

    def compile_blocks(self, **options: Any) -> None:
        """Compile the encoder's blocks in place (`torch.compile` and its options); names of weights stay."""
        for block in self.image_encoder.blocks:
            block.compile(**options)

    def semantic(self, neck_BDhw: Tensor) -> Tensor:
        """The semantic embedding of a neck map, for material similarity: same shape."""
        return self.image_encoder.semantic(neck_BDhw)

    def predict_masks(
        self,
        neck_BDhw: Tensor,
        image_hw: tuple[int, int],
        points_BPN2: Tensor | None = None,
        labels_BPN: Tensor | None = None,
        boxes_BP4: Tensor | None = None,
        multimask: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Masks for P prompts on each of B images, all decoded together.

        Args:
            neck_BDhw: last map of `encode`.
            image_hw: side lengths of the encoded image in pixels; prompts are in its (x, y) pixels.
            points_BPN2: N points a prompt.
            labels_BPN: 1 for a point inside, 0 outside, -1 padding.
            boxes_BP4: x0 y0 x1 y1 per prompt.
            multimask: three masks a prompt, else one.

        Returns:
            Mask logits [B, P, M, 4h, 4w] and predicted IoU [B, P, M].
        """
        sparse = self.prompt_encoder(image_hw, points_BPN2, labels_BPN, boxes_BP4)
        position = self.prompt_encoder.dense_position(*neck_BDhw.shape[-2:]).to(neck_BDhw)
        no_mask = self.prompt_encoder.no_mask_embed.weight[0]
        return self.mask_decoder(neck_BDhw, position, sparse.to(neck_BDhw), no_mask, multimask)  # type: ignore[no-any-return]

    def prepare_masks(self, neck_BDhw: Tensor) -> Scene:
        """What all prompts on these images share, for `propose_masks`."""
        position = self.prompt_encoder.dense_position(*neck_BDhw.shape[-2:]).to(neck_BDhw)
        return self.mask_decoder.prepare(neck_BDhw, position, self.prompt_encoder.no_mask_embed.weight[0])

    def propose_masks(
        self, scene: Scene, grid_hw: tuple[int, int], image_hw: tuple[int, int], points_BP2: Tensor
    ) -> tuple[Tensor, Render]:
        """Predicted IoU [B, P, 3] of the masks of single points in pixels, and what renders those worth it.

        The second takes numbers of prompts (B * P of them, image by image) and gives logits [n, 3, 4h, 4w]; h and w
        are the sides of the neck's grid.
        """
        labels = torch.ones(*points_BP2.shape[:2], 1, device=points_BP2.device)
        sparse = self.prompt_encoder(image_hw, points_BP2[:, :, None], labels, None).to(scene.image_BND)
        token, image = self.mask_decoder.attend(scene, sparse, grid_hw)

        def render(prompts: Tensor) -> Tensor:
            return self.mask_decoder.render(token[prompts], image[prompts])[:, 1:]

        return self.mask_decoder.quality(token)[:, 1:].reshape(*points_BP2.shape[:2], -1), render

    def forward(self, cube_BCHW: Tensor, wavelength_nm: Wavelengths, gsd_m: float | Sequence[float]) -> list[Tensor]:
        """Same as `encode`."""
        return self.encode(cube_BCHW, wavelength_nm, gsd_m)


def list_models() -> list[str]:
    """Names that `create_model` knows."""
    return sorted(SIZES)


def create_model(
    name: str, checkpoint: str | Path | None = None, image_size: int | None = None, **options: Any
) -> HyperModel:
    """Build a model by name, with random weights or those of a checkpoint.

    Args:
        name: one of `list_models()`.
        checkpoint: a `.safetensors` exported here (its options are read from it) or a public `.pth`.
        image_size: side in pixels for which the global position tables are laid out.
        **options: fields of `ModelSize` over the named size: patch_size, embed_dim, depth, num_heads,
            global_blocks, merge_blocks (`()` is the flat form), neck_dim, input_mode, embedding.

    Raises:
        ValueError: an unknown name or option, or a checkpoint that does not hold this model.
        FileNotFoundError: no such checkpoint.
    """
    stored = read_options(Path(checkpoint)) if checkpoint is not None else {}
    given = {key: value for key, value in {"image_size": image_size, **options}.items() if value is not None}
    model = HyperModel(name, resolve_size(name, **{**stored, **given}))
    if checkpoint is not None:
        report = load_weights(model, checkpoint)
        if report.missing or report.unexpected:
            raise ValueError(f"{checkpoint} is not a {name} of these options: {report.summary()}")
    return model.eval()
