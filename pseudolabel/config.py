"""Configuration of the pseudo-labels; light to import, so that no model library is loaded to check it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sharding.errors import ConfigError
from sharding.records import sha256_file

LOGIC = 2
SEGMENTERS = ("models", "classical")


def require_weights(what: str, checkpoint: str | None, allow_random: bool, where: str) -> None:
    """Refuse a model without weights: random ones must never pass for pre-trained.

    Raises:
        ConfigError: no checkpoint and no explicit `allow_random`, or the file is not there.
    """
    if checkpoint is None and not allow_random:
        raise ConfigError(
            f"{what} has no weights: set {where}.checkpoint=FILE, or pseudolabel.segmenters=classical to do without "
            f"({where}.allow_random=true runs random weights, for plumbing tests only)"
        )
    if checkpoint is not None and not Path(checkpoint).expanduser().is_file():
        raise ConfigError(f"{what}: no checkpoint at {checkpoint}; mend {where}.checkpoint")


@dataclass
class Sam2Config:
    """SAM2 size (tiny, small, base_plus, large), its weights file, and the thresholds of its mask generator."""

    size: str = "large"
    checkpoint: str | None = None
    allow_random: bool = False
    image_size: int = 1024
    points_per_side: int = 32
    pred_iou_thresh: float = 0.8
    stability_score_thresh: float = 0.95
    points_per_batch: int = 64


@dataclass
class HyperfreeConfig:
    """HyperFree size by name, its weights file, and the thresholds of its mask generator."""

    model: str = "hyperfree_base"
    checkpoint: str | None = None
    allow_random: bool = False
    image_size: int = 1024
    points_per_side: int = 32
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.8
    stability_score_thresh: float = 0.9
    nms_iou: float = 0.7


@dataclass
class ClassicalConfig:
    """Felzenszwalb scale, sigma and least region; k-means clusters, smoothing in pixels, and pixels it is fitted on."""

    scale: float = 60.0
    sigma: float = 0.8
    min_size: int = 30
    clusters: int = 12
    smoothing: float = 1.0
    fit_pixels: int = 4096


@dataclass
class FusionConfig:
    """Switches and limits of the fusion.

    Fields: stop merging at this cost; weight of the colour term; pixels that a border may move; distance
    (about radians) below which two masks are one material; IoU at which a mask counts as "from" a source.
    """

    stop_cost: float = 0.5
    colour_weight: float = 0.2
    absorb_slivers: bool = True
    snap_pixels: int = 2
    material_distance: float = 0.02
    source_iou: float = 0.7
    min_pixels: int = 16


@dataclass
class PseudolabelConfig:
    """How labels are made.

    Fields: "models" = SAM2 + HyperFree, "classical" = Felzenszwalb + k-means; tile side in pixels; bytes of
    cube per shard; whether the source label maps travel along; workers (0 = one per GPU, or per two cores).
    """

    segmenters: str = "models"
    tile: int = 512
    shard_bytes: int = 384 << 20
    keep_sources: bool = False
    workers: int = 0
    device: str = "auto"
    sam2: Sam2Config = field(default_factory=Sam2Config)
    hyperfree: HyperfreeConfig = field(default_factory=HyperfreeConfig)
    classical: ClassicalConfig = field(default_factory=ClassicalConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)

    def bytes_config(self) -> dict[str, Any]:
        """The fields that change the bytes of a shard; weights count by their content."""
        fields = {"logic": LOGIC, **asdict(self)}
        for name in ("workers", "device", "classical" if self.segmenters == "models" else "sam2"):
            del fields[name]
        if self.segmenters == "classical":
            del fields["hyperfree"]
        for name in ("sam2", "hyperfree"):
            if name in fields and fields[name]["checkpoint"]:
                fields[name]["checkpoint"] = sha256_file(Path(fields[name]["checkpoint"]).expanduser())[:16]
        return fields

    @property
    def describe(self) -> str:
        """What made the labels, for records and people."""
        if self.segmenters == "classical":
            return "felzenszwalb + k-means (classical stand-ins, no SAM2 or HyperFree weights)"
        parts = [("sam2 " + self.sam2.size, self.sam2.checkpoint), (self.hyperfree.model, self.hyperfree.checkpoint)]
        return " + ".join(f"{name}{'' if weights else ' with RANDOM weights'}" for name, weights in parts)

    def check(self) -> None:
        """Refuse what cannot run, before any work.

        Raises:
            ConfigError: unknown segmenters, or models without weights.
        """
        if self.segmenters not in SEGMENTERS:
            raise ConfigError(f"pseudolabel.segmenters {self.segmenters!r} is not one of {', '.join(SEGMENTERS)}")
        if self.tile < 16 or self.shard_bytes < 1:
            raise ConfigError("pseudolabel.tile must be at least 16 pixels and shard_bytes positive")
        if self.segmenters == "models":
            require_weights("SAM2", self.sam2.checkpoint, self.sam2.allow_random, "pseudolabel.sam2")
            free = self.hyperfree
            require_weights("HyperFree", free.checkpoint, free.allow_random, "pseudolabel.hyperfree")
