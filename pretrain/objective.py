"""The objective: material contrast, promptable masks, feature distillation, hidden spectra.

Each term stands alone and has a weight.

Formulas, defaults and their sources are in docs/method.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.losses import Distiller
from hypervision import HyperModel
from pretrain.config import ObjectiveConfig
from pretrain.data import VIEWS_PER_IMAGE, Batch

LONGEST_NM = 4000.0
PERIODS = 7
SPECTRA_BETA = 0.25
SHARED = 0.2  # of the mask loss that all three masks share; the rest is of the best
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pool_masks(map_BDhw: Tensor, coverage_BMhw: Tensor, power: float = 2.0) -> Tensor:
    """Mean feature of each mask, tokens weighted by a power of their coverage: [B, M, D], unit length."""
    weight = coverage_BMhw.pow(power) * (coverage_BMhw > 0)
    pooled = torch.einsum("bmhw,bdhw->bmd", weight, map_BDhw.float())
    return F.normalize(pooled / weight.sum((2, 3)).clamp_min(1e-6)[..., None], dim=-1)


def material_contrast(pooled_BMD: Tensor, material_BM: Tensor, temperature: float) -> Tensor:
    """Supervised contrast inside each image: masks of one material attract, of another repel.

    The views of an image stand side by side in the batch and are compared together. Masks of other images are
    no negatives: the same material may be there under another id.
    """
    size = VIEWS_PER_IMAGE * pooled_BMD.shape[1]
    feature = pooled_BMD.reshape(-1, size, pooled_BMD.shape[-1])
    kind = material_BM.reshape(-1, size)
    real = kind > 0
    logits = feature @ feature.transpose(1, 2) / temperature
    other = real[:, None, :] & real[:, :, None] & ~torch.eye(size, dtype=torch.bool, device=kind.device)
    same = (kind[:, :, None] == kind[:, None, :]) & other
    log_prob = logits - logits.masked_fill(~other, -1e9).logsumexp(-1, keepdim=True)
    anchor = same.any(-1) & (other & ~same).any(-1)
    per_anchor = -(log_prob * same).sum(-1) / same.sum(-1).clamp_min(1)
    return (per_anchor * anchor).sum() / anchor.sum().clamp_min(1)


def masks_at(masks_BPHW: Tensor, extent_hw: tuple[int, int], grid_hw: Sequence[int]) -> Tensor:
    """Masks at the pixels of predicted ones, which cover the extent of a feature: [B, P, *grid_hw] of 0 and 1."""
    below, beside = (side - own for side, own in zip(extent_hw, masks_BPHW.shape[-2:], strict=True))
    share = F.interpolate(F.pad(masks_BPHW, (0, beside, 0, below)), tuple(grid_hw), mode="area")
    return (share > 0.5).float()


def balanced_weight(target_BPhw: Tensor) -> Tensor:
    """Weights of pixels of which those inside a mask make one half and those outside the other: [B, P, h, w].

    A mean over all pixels gives a mask of a twentieth of the picture less than a fiftieth of the pull that the rest
    has (its pixels are few, and the focal loss weighs them a third), and the net learns to predict nothing.
    """
    inside = target_BPhw.sum((2, 3), keepdim=True)
    outside = (1 - target_BPhw).sum((2, 3), keepdim=True)
    return 0.5 * (target_BPhw / inside.clamp_min(1) + (1 - target_BPhw) / outside.clamp_min(1))


def mask_loss(
    logits: Tensor, iou: Tensor, target: Tensor, real: Tensor, config: ObjectiveConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """SAM's: focal and dice on the best of three masks, and regression of the predicted IoU; two things differ.

    Pixels are balanced (`balanced_weight`), and the other two masks get a share (`SHARED`) of the loss: of three that
    start alike the one that is emptiest would else be the best everywhere.

    Shapes: logits [B, P, M, h, w], iou [B, P, M], target [B, P, h, w], real [B, P].

    Returns:
        The loss, and means over the prompts of the mask that the net deems best: IoU, error of the predicted IoU, and
        share of the picture that is predicted.
    """
    logits = logits.float()
    want = target[:, :, None].expand_as(logits)
    probability = logits.sigmoid()
    cross = F.binary_cross_entropy_with_logits(logits, want, reduction="none")
    miss = torch.where(want > 0.5, 1 - probability, probability)
    focal = (balanced_weight(target)[:, :, None] * miss.pow(2) * cross).sum((3, 4))
    overlap = (probability * want).sum((3, 4))
    dice = 1 - (2 * overlap + 1) / (probability.sum((3, 4)) + want.sum((3, 4)) + 1)
    shape = config.focal_weight * focal + config.dice_weight * dice
    shape = (1 - SHARED) * shape.amin(-1) + SHARED * shape.mean(-1)
    with torch.no_grad():
        hard = logits > 0
        common = (hard & (want > 0.5)).sum((3, 4)).float()
        true_iou = common / (hard | (want > 0.5)).sum((3, 4)).clamp_min(1)
    miss_iou = iou.float() - true_iou
    count = real.sum().clamp_min(1)
    loss = ((shape + miss_iou.pow(2).mean(-1)) * real).sum() / count
    with torch.no_grad():
        best = iou.argmax(-1, keepdim=True)
        shown = {"mask_iou": true_iou, "mask_iou_error": miss_iou.abs(), "mask_share": hard.float().mean((3, 4))}
        means = {name: (value.gather(-1, best)[..., 0] * real).sum() / count for name, value in shown.items()}
    return loss, means


class SpectrumHead(nn.Module):
    """Tells the value of a token at any wavelength: a linear read-out whose weights are a function of wavelength.

    One read-out for every camera ties what the tokens of different band sets mean. Wavelength enters as sines and
    cosines of periods from 4000 nm down to `PERIODS` octaves below.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.query = nn.Sequential(nn.Linear(2 * PERIODS, dim), nn.GELU(), nn.Linear(dim, dim + 1))

    def forward(self, map_BDhw: Tensor, nm_BT: Tensor) -> Tensor:
        """Values [B, T, h, w] of each token at T wavelengths."""
        octave = 2.0 ** torch.arange(PERIODS, device=nm_BT.device)
        angle = 2 * torch.pi * nm_BT[..., None] / LONGEST_NM * octave
        query = self.query(torch.cat([angle.sin(), angle.cos()], -1))
        token = self.norm(map_BDhw.movedim(1, -1))
        told = torch.einsum("bhwd,btd->bthw", token, query[..., :-1]) / token.shape[-1] ** 0.5
        return told + query[..., -1, None, None]  # type: ignore[no-any-return]


def spectra_loss(told_BThw: Tensor, want_BThw: Tensor) -> Tensor:
    """Smooth L1 over what there is to tell; `want` is NaN elsewhere."""
    known = ~want_BThw.isnan()
    miss = F.smooth_l1_loss(told_BThw.float(), want_BThw.nan_to_num(), reduction="none", beta=SPECTRA_BETA)
    return (miss * known).sum() / known.sum().clamp_min(1) / SPECTRA_BETA


class PretrainModel(nn.Module):
    """Student, projectors and losses in one module, so that every engine sees one forward."""

    def __init__(self, student: HyperModel, teacher_dim: int, config: ObjectiveConfig, precision: str = "fp32") -> None:
        super().__init__()
        self.student, self.config, self.precision = student, config, precision
        # The mask input of SAM's prompt encoder has no part in this objective.
        student.prompt_encoder.mask_downscaling.requires_grad_(False)
        *_, self.tap, self.neck = student.feature_info
        self.spectrum = SpectrumHead(self.tap.channels) if config.spectra else None
        self.distiller: Distiller | None = None
        if teacher_dim and config.distil:
            self.distiller = Distiller([self.tap.channels, self.neck.channels], teacher_dim)

    def forward(
        self, batch: Batch, teacher_BDhw: Tensor | None, use_boxes: bool, spark: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of the terms, and the terms with what is only watched of the masks (see `mask_loss`); nets
        compute in the precision, losses in float32.

        `spark`, a number that wants a gradient, enters before all else, so autograd comes to it after all else: this
        tells ZeRO 3, which reduces the gradients of a whole module at once, that they are all there.
        """
        last = None if spark is None else 0.0 * spark
        image_hw = (batch.cube.shape[2], batch.cube.shape[3])
        with self._cast(batch.cube.device):
            maps = self.student.encode(batch.cube, batch.wavelength_nm, batch.gsd_m)
            semantic = self.student.semantic(maps[-1]) if self.config.contrast else None
            predicted = self._predict(maps[-1], batch, use_boxes) if self.config.masks else None
        terms: dict[str, Tensor] = {}
        watched: dict[str, Tensor] = {}
        if semantic is not None:
            pooled = pool_masks(semantic, batch.coverage, self.config.pool_power)
            terms["contrast"] = material_contrast(pooled, batch.material, self.config.temperature)
        if predicted is not None:
            target = masks_at(batch.masks, self.neck.extent(image_hw), predicted[0].shape[-2:])
            terms["masks"], watched = mask_loss(*predicted, target, batch.prompted, self.config)
        if self.distiller is not None and teacher_BDhw is not None:
            strides = [self.tap.stride, self.neck.stride]
            terms["distil"] = self.distiller([maps[-2], maps[-1]], strides, image_hw, teacher_BDhw, batch.visible)
        if self.spectrum is not None:
            terms["spectra"] = spectra_loss(self.spectrum(maps[-2].float(), batch.hidden_nm), batch.hidden)
        loss = torch.stack([getattr(self.config, name) * value for name, value in terms.items()]).sum()
        # Every parameter takes part in every step on every rank, or gradient reduction would wait for ever; those
        # that ZeRO 3 holds in parts it reduces by itself.
        idle = [p.sum() for p in self.parameters() if p.requires_grad and not hasattr(p, "ds_id")]
        loss = loss + 0.0 * sum(idle)
        return (loss if last is None else loss + last), terms | watched

    def _cast(self, where: torch.device) -> torch.autocast:
        dtype = DTYPES[self.precision]
        return torch.autocast(where.type, dtype if dtype != torch.float32 else None, enabled=dtype != torch.float32)

    def _predict(self, neck_BDhw: Tensor, batch: Batch, use_boxes: bool) -> tuple[Tensor, Tensor]:
        """Masks and their predicted IoU from boxes, or from a point in each; they cover the extent of the neck."""
        image_hw = self.neck.extent((batch.cube.shape[2], batch.cube.shape[3]))
        if use_boxes:
            return self.student.predict_masks(neck_BDhw, image_hw, boxes_BP4=batch.boxes)
        labels = torch.ones_like(batch.points[..., :1])
        return self.student.predict_masks(neck_BDhw, image_hw, batch.points[:, :, None], labels)
