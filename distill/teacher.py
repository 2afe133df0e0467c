"""The RGB teacher: any timm backbone by name, its own normalisation, features of one view at a time.

ViT features are not flip-equivariant, so a feature belongs to a view and a view is needed to ask for one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from distill.views import VIEWS, TeacherConfig, apply_view
from sharding.errors import ConfigError
from sharding.order import keyed_rng
from sharding.records import fingerprint, sha256_file

Array = NDArray[Any]


class Teacher:
    """A frozen timm backbone."""

    def __init__(self, config: TeacherConfig, device: str = "cpu") -> None:
        config.check()
        torch.manual_seed(0)
        try:
            self.model = _create(config, config.pretrained)
            if config.checkpoint is not None:
                _load(self.model, config)
        except (RuntimeError, OSError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ConfigError(f"teacher {config.name} cannot be built: {reason}; mend teacher.*") from error
        self.model = self.model.eval().requires_grad_(False).to(device)
        self.config, self.device = config, device
        cfg = self.model.pretrained_cfg
        self.mean = torch.tensor(cfg["mean"], device=device)[:, None, None]
        self.std = torch.tensor(cfg["std"], device=device)[:, None, None]
        self.fingerprint = fingerprint([
            config.name, config.image_size, config.pretrained, list(cfg["mean"]), list(cfg["std"]),
            _weights_hash(config, self.model), [view.name for view in VIEWS],
            *([config.store, config.project] if (config.store, config.project) != ("fp16", 0) else []),
        ])  # fmt: skip
        self.projection_PD: Tensor | None = None
        if config.project:
            self.projection_PD = _projection(config.project, int(self.model.num_features)).to(device)

    @torch.inference_mode()
    def __call__(self, rgb_BHW3: Array) -> Tensor:
        """Features [B, D, h, w] float32 of 8-bit sRGB pictures."""
        picture = torch.from_numpy(np.ascontiguousarray(rgb_BHW3)).to(self.device).permute(0, 3, 1, 2).float() / 255
        side = self.config.image_size
        picture = F.interpolate(picture, (side, side), mode="bilinear", antialias=True, align_corners=False)
        out = _feature_map(self.model, (picture - self.mean) / self.std).float()
        return out if self.projection_PD is None else torch.einsum("pd,bdhw->bphw", self.projection_PD, out)

    def all_views(self, rgb_HW3: Array) -> Tensor:
        """Features of every view of one picture: [V, D, h, w].

        One picture at a time: the last bits of a feature may depend on its neighbours in a batch, and a cached
        feature must not depend on which samples happened to be met together.
        """
        return self(np.stack([apply_view(rgb_HW3, view, 1) for view in VIEWS]))


def _create(config: TeacherConfig, pretrained: bool = False) -> Any:
    """The timm model of a teacher.

    Raises:
        ConfigError: no such model.
    """
    if not timm.is_model(config.name):
        raise ConfigError(f"teacher.name {config.name!r} is not a timm model")
    options: dict[str, Any] = {"num_classes": 0}
    if any(part in config.name for part in ("vit", "deit", "beit", "eva", "swin")):  # only token models take a size
        options["img_size"] = config.image_size
    return timm.create_model(config.name, pretrained=pretrained, **options)


def _feature_map(model: Any, picture_B3HW: Tensor) -> Tensor:
    """Features [B, D, h, w], however a family of models lays them out."""
    out = model.forward_features(picture_B3HW)
    if out.ndim == 3:  # tokens: drop class and register tokens, back to the grid
        out = out[:, getattr(model, "num_prefix_tokens", 0) :]
        grid = round(out.shape[1] ** 0.5)
        out = out.transpose(1, 2).reshape(len(out), -1, grid, grid)
    elif out.shape[-1] == model.num_features != out.shape[1]:
        out = out.permute(0, 3, 1, 2)
    return out  # type: ignore[no-any-return]


def _load(model: torch.nn.Module, config: TeacherConfig) -> None:
    """Weights from a file, every one of them: what a file lacks would stay random."""
    found = timm.models.load_checkpoint(model, str(Path(str(config.checkpoint)).expanduser()), strict=False)
    missing = list(getattr(found, "missing_keys", ()))
    if missing:
        raise ConfigError(
            f"{config.checkpoint} lacks {len(missing)} of the tensors of {config.name}, e.g. {', '.join(missing[:3])}; "
            f"mend teacher.checkpoint or teacher.name"
        )


def _projection(kept: int, channels: int) -> Tensor:
    """A fixed random matrix [kept, channels] of orthonormal rows, scaled so that lengths stay about the same.

    Raises:
        ConfigError: more channels than there are.
    """
    if kept > channels:
        raise ConfigError(f"teacher.project {kept} is more than the {channels} channels of the teacher")
    rng = keyed_rng("teacher projection", kept, channels)
    basis_DP, _ = np.linalg.qr(rng.standard_normal((channels, kept)))
    scaled = basis_DP.T * (channels / kept) ** 0.5
    return torch.from_numpy(scaled.astype(np.float32))


def feature_shape(config: TeacherConfig) -> tuple[int, int, int]:
    """(channels, height, width) of a view's features, without building the weights.

    Raises:
        ConfigError: no such model.
    """
    with torch.device("meta"):
        out = _feature_map(_create(config).eval(), torch.empty(1, 3, config.image_size, config.image_size))
    channels, height, width = out.shape[1:]
    return config.project or channels, height, width


def cache_bytes(config: TeacherConfig, samples: int) -> int:
    """Disk that the features of all views of some samples take."""
    channels, height, width = feature_shape(config)
    each = channels * height * width + 4 * channels if config.store == "int8" else 2 * channels * height * width
    return samples * len(VIEWS) * each


def _weights_hash(config: TeacherConfig, model: torch.nn.Module) -> str:
    if config.checkpoint is not None:
        return sha256_file(Path(config.checkpoint).expanduser())[:16]
    total = [float(value.double().sum()) for value in model.state_dict().values() if value.is_floating_point()]
    return fingerprint([f"{value:.6e}" for value in total])
