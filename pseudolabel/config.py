"""Configuration of the pseudo-labels; light to import, so that no model library is loaded to check it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sharding.errors import ConfigError
from sharding.frames import PackingConfig
from sharding.records import sha256_file

LOGIC = 6  # since 5 the last tile of a row or column lies inside its scene, since 6 bands are seen by wavelength
NO_BYTES = (
    "workers", "pool", "item_seconds", "attempts", "address", "gpus_per_worker", "object_bytes", "device",
)  # fmt: skip
SENSORS = ("cave", "deephsnir", "hotnir", "hotvis", "hyperspectralcityv2", "libhsi")
SPATIAL = ("simulated", "classical")
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
    clusters: int = 16
    smoothing: float = 1.0
    fit_pixels: int = 4096


@dataclass
class FusionConfig:
    """Switches and limits of the fusion; `docs/method.md` has the formulas, `pseudolabel ablate` the effects.

    Fields:
        denoise: noise-scaled PCA of the spectra; split: cut spatial masks by the spectral ones.
        stop_cost: merge while it costs less; size_term: large regions cost more to merge.
        colour_weight: of the Lab term; colour_on_borders: only on the share of a border that is also a spatial one.
        shadows: join light and shade; shadow_weight, shadow_residual, shadow_power: factor and limits of what shade
            leaves unexplained (radians; share of the median pair); darkest, brightest: brightness of shade to light.
        snap_pixels: pixels that a border may move; material_distance: below it (about radians) two masks are one
            material; source_iou: at which a mask counts as "from" a source; min_pixels: of a mask.
    """

    denoise: bool = True
    split: bool = True
    absorb_slivers: bool = True
    stop_cost: float = 0.5
    size_term: bool = True
    colour_weight: float = 0.5
    colour_on_borders: bool = True
    shadows: bool = True
    shadow_weight: float = 0.5
    shadow_residual: float = 0.03
    shadow_power: float = 0.3
    darkest: float = 0.1
    brightest: float = 0.7
    snap_pixels: int = 2
    material_distance: float = 0.02
    source_iou: float = 0.7
    min_pixels: int = 16


@dataclass
class PseudolabelConfig:
    """How labels are made.

    Fields:
        segmenters: "models" = SAM2 + HyperFree, "classical" = Felzenszwalb + k-means.
        tile: side of a training tile in pixels (the last of a row or column is moved back into the scene).
        window: side of what the models see at once (0 = the tile's); overlap: pixels that windows share (at most
            a quarter of one).
        shard_bytes: of cube in the tiles of a shard; keep_sources: whether the source label maps travel along;
            packing: of cubes.
        workers: 0 = one per GPU, or per core; pool: processes that assemble scenes (0 = one per two cores).
        item_seconds: that one window may take; attempts: before what kills its worker is quarantined.
        address: of a Ray cluster (none = Ray on this machine); gpus_per_worker: there, or to share one GPU.
        object_bytes: of Ray's shared memory, in which label maps wait for their scene to be complete.
    """

    segmenters: str = "models"
    tile: int = 512
    window: int = 0
    overlap: int = 64
    shard_bytes: int = 384 << 20
    keep_sources: bool = False
    packing: PackingConfig = field(default_factory=PackingConfig)
    workers: int = 0
    pool: int = 0
    item_seconds: float = 900.0
    attempts: int = 3
    address: str | None = None
    gpus_per_worker: float | None = None
    object_bytes: int = 512 << 20
    device: str = "auto"
    sam2: Sam2Config = field(default_factory=Sam2Config)
    hyperfree: HyperfreeConfig = field(default_factory=HyperfreeConfig)
    classical: ClassicalConfig = field(default_factory=ClassicalConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)

    @property
    def window_side(self) -> int:
        """Side of what the models see at once."""
        return self.window or self.tile

    @property
    def shared(self) -> int:
        """Pixels that windows overlap by: no more than a quarter of one."""
        return min(self.overlap, self.window_side // 4)

    def bytes_config(self) -> dict[str, Any]:
        """The fields that change the bytes of a shard; weights count by their content."""
        fields = {"logic": LOGIC, **asdict(self)}
        for name in (*NO_BYTES, "classical" if self.segmenters == "models" else "sam2"):
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
        self.packing.check()
        if self.tile < 16 or self.shard_bytes < 1:
            raise ConfigError("pseudolabel.tile must be at least 16 pixels and shard_bytes positive")
        if self.window_side < 16 or self.overlap < 0:
            raise ConfigError("pseudolabel.window must be at least 16 pixels, and overlap not negative")
        if self.attempts < 1 or self.item_seconds < 0:
            raise ConfigError("pseudolabel.attempts must be at least 1 and item_seconds not negative (0 = no limit)")
        if self.segmenters == "models":
            require_weights("SAM2", self.sam2.checkpoint, self.sam2.allow_random, "pseudolabel.sam2")
            free = self.hyperfree
            require_weights("HyperFree", free.checkpoint, free.allow_random, "pseudolabel.hyperfree")


@dataclass
class AblationConfig:
    """What is generated: seeds per sensor from the first one on, side of a scene, which spatial masks.

    `fit` fits the confidence on these scenes and prints its weights (take other seeds than for the table).
    """

    seeds: int = 20
    first_seed: int = 3000
    size: int = 128
    sensors: list[str] = field(default_factory=lambda: list(SENSORS))
    spatial: list[str] = field(default_factory=lambda: list(SPATIAL))
    workers: int = 0
    fit: bool = False

    def check(self) -> None:
        """Raises ConfigError: an unknown sensor or kind of masks."""
        for name, known in [(one, SENSORS) for one in self.sensors] + [(one, SPATIAL) for one in self.spatial]:
            if name not in known:
                raise ConfigError(f"ablation: {name!r} is not one of {', '.join(sorted(known))}")
